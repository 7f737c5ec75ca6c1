"""How far each update of a round was from the mean of all, from the stored models, in blocks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from sqlite3 import Connection, Row

import numpy as np

from fl_main.errors import StoreError
from fl_main.precision import decoded
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.strategies.geometry import Geometry, Numbers, as_notes
from fl_main.weights import Segment

from .. import queries
from ..reading import Stored, opened, opened_decoded

STACK_BYTES = 32 << 20  # what a block of all updates of a round may take
FILE_BYTES = 64 << 10  # that each file counts as at least: about as many are read while one is opened
MOST_BYTES = 512 << 20  # of models that one question reads: some seconds
MOST_KNOWN = 1000  # rounds whose distances are kept between questions

Known = dict[tuple[str, ...], list[dict[str, float]]]
Models = Mapping[str, Stored]


class Measuring:
    """Measures the updates of rounds; `heat` asks for one round after the other.

    Args:
        find: Returns models by their ids.
        known: What was measured before, by the models of a round: they never change, so that it may be
            kept between questions.
        most_bytes: Of models that may be read in all.
    """

    def __init__(
        self,
        connection: Connection,
        find: Callable[[Iterable[str]], Models],
        known: Known,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._connection = connection
        self._find = find
        self._known = known
        self._most = self._left = most_bytes

    def __call__(self, round_id: int, group: Sequence[Row]) -> list[dict[str, float]] | str:
        """Return distance and cosine of each update of a round, or why they cannot be measured."""
        ids = tuple(row["model_id"] or "" for row in group)
        if ids in self._known:
            return self._known[ids]
        try:
            found = self._measured(ids, group)
        except StoreError as error:
            return str(error)
        while len(self._known) >= MOST_KNOWN:
            self._known.pop(next(iter(self._known)), None)
        self._known[ids] = found
        return found

    def _measured(self, ids: Sequence[str], group: Sequence[Row]) -> list[dict[str, float]]:
        found = self._find(ids)
        if missing := [row for row in group if row["model_id"] not in found]:
            raise StoreError(f"{len(missing)} of its {len(group)} updates have no model in the database")
        updates = [found[model_id] for model_id in ids]
        parents = queries.parents_of(self._connection, ids)
        bases = [
            self._base_of(update, parents.get(update.model_id, []), row)
            for update, row in zip(updates, group, strict=True)
        ]
        origins = self._find({base for base in bases if base})
        if lost := [base for base in bases if base and base not in origins]:
            raise StoreError(f"model {lost[0]}, which updates were trained from, is missing")
        nbytes = max(updates[0].decoded_layout.nbytes, FILE_BYTES) * (len(updates) + len(origins))
        if nbytes > self._left:
            most = f"{self._most >> 20} MiB"
            raise StoreError(f"its models count as {nbytes >> 20} MiB; one question reads {most} at most")
        self._left -= nbytes
        return _notes(updates, bases, origins, _counts(group))

    def _base_of(self, update: Stored, parents: Sequence[tuple[str, object]], row: Row) -> str | None:
        """Return what an update is compared with to see what it adds; of a delta nothing.

        Raises:
            StoreError: If that is not known.
        """
        if update.base_id is not None:
            return None
        if parents:
            return parents[0][0]
        query = "SELECT base_model_id FROM rounds WHERE run_id = ? AND round_id = ?"
        base = self._connection.execute(query, (row["run_id"], row["round_id"])).fetchone()
        if base is None or base[0] is None:
            raise StoreError(f"what model {update.model_id} was trained from is not known")
        return str(base[0])


def _counts(group: Sequence[Row]) -> Numbers:
    """Return what each update counts for in the mean: its share of the model, else its examples."""
    shares = [row["share"] for row in group]
    counts = np.array([row["num_examples"] for row in group] if None in shares else shares, np.float64)
    total = counts.sum()
    return counts / total if total > 0 else np.full(len(group), 1 / len(group))


def _notes(
    updates: Sequence[Stored], bases: Sequence[str | None], origins: Models, counts: Numbers
) -> list[dict[str, float]]:
    """Return distances to the mean by `counts`, and cosines to the plain mean: as strategies note them.

    Args:
        bases: What each update is a difference from once it is subtracted; None: it is a difference.
        origins: Those models.
    """
    layout = updates[0].decoded_layout
    if any(other.decoded_layout != layout for other in (*updates, *origins.values())):
        raise StoreError("its updates are of different layouts")
    if not layout.trained:
        raise StoreError("its updates have no float parameters, by which they could be compared")
    geometry = Geometry(len(updates))
    step = max(1, STACK_BYTES // (8 * len(updates)))
    for segment in filter(lambda segment: segment.is_trained, layout.segments):
        for start in range(0, segment.size, step):
            size = min(step, segment.size - start)
            geometry.take(_rows(updates, bases, origins, segment, start, size))
    return as_notes(distance=geometry.distances(counts), cosine=geometry.cosines_to_mean())


def _rows(
    updates: Sequence[Stored],
    bases: Sequence[str | None],
    origins: Models,
    segment: Segment,
    start: int,
    size: int,
) -> Numbers:
    """Return what each update adds to its base in a block, shape (updates, size)."""
    below: dict[str | None, Values] = {}
    for model_id, model in origins.items():
        with opened(model) as source:
            below[model_id] = _values(source, segment, start, size)
    rows = np.empty((len(updates), size))
    for row, update, base in zip(rows, updates, bases, strict=True):
        with opened_decoded(update) as source:  # one after the other: a thousand files are not open together
            row[:] = _values(source, segment, start, size)
        if base is not None:
            row -= below[base]
    return rows


def _values(source: Source, segment: Segment, start: int, size: int) -> Values:
    offset = segment.offset + start * segment.dtype.stored.itemsize
    return decoded(read_array(source, offset, size, segment.dtype), segment.dtype)
