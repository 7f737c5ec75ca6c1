"""Deleting model files by hand: first what would go, then the deed.

The decision is the one of the retention settings (`retention`): only what came from agents or was sent
to them goes, and never what a tag, a run's current models, an open task, a kept update or one that is
not counted yet needs. Rows stay, and say why their file is gone.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fl_main.errors import SettingsError
from fl_main.store import EventRecord, ModelKind

from .. import engine, retention
from ..faults import translated
from ..model_db import ModelDB
from ..retention import Stored
from ..rows import PASSING
from .writing import SecondWriter

Progress = Callable[[int, int], None]

FILES = 100  # of a transaction, which takes some hundredths of a second: others write in between

_POLICY = re.compile(r"(globals)|(rounds):([0-9]{1,9})|(bytes):([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kMGT]?i?B?)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays of the models that agents sent, or were sent.

    Attributes:
        text: As people state it: `globals` (none of them), `rounds:5`, `bytes:10GB`.
        keep: See `retention.Policy`, also for `rounds` and `bytes`.
    """

    text: str
    keep: Literal["all", "rounds", "bytes"]
    rounds: int = 0
    bytes: int = 0

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Return what a text says.

        Raises:
            SettingsError: If it says nothing of the kind.
        """
        found = _POLICY.fullmatch(text.strip())
        if found is None:
            raise SettingsError(
                f"--keep: {text!r}: give globals, rounds:5 or bytes:10GB, which is what stays of the models "
                "that agents sent"
            )
        if found[1]:
            return cls(text, "rounds")
        if found[2]:
            return cls(text, "rounds", rounds=int(found[3]))
        unit = found[6].removesuffix("B")
        factor = (_BINARY if unit.endswith("i") else _UNITS)[unit.removesuffix("i")]
        return cls(text, "bytes", bytes=int(float(found[5]) * factor))


@dataclass(frozen=True, slots=True)
class Going:
    """Files that go, of one kind in one run.

    Attributes:
        models: That lose their file; a file of several equal ones is that of the oldest of them.
        size: Bytes of the arrays in the files.
    """

    run: str
    kind: str
    models: int
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning does, or did.

    Attributes:
        is_done: Whether it was done.
        needed: Files that stay though the policy would let them go, as something needs them.
    """

    policy: str
    is_done: bool
    going: tuple[Going, ...]
    needed: int

    @property
    def files(self) -> int:
        """How many files go."""
        return sum(group.files for group in self.going)

    @property
    def size(self) -> int:
        """How many bytes that frees."""
        return sum(group.size for group in self.going)


def plan_prune(db: ModelDB, keep: Keep, runs: Sequence[str] = ()) -> Pruned:
    """Return what `prune` would do; nothing is changed.

    Args:
        keep: What stays.
        runs: Only models of these; of all, if none is named.

    Raises:
        StoreError: If there is no such run, or the database cannot be read.
    """
    chosen, needed = _chosen(db, keep, _run_ids(db, runs))
    return Pruned(keep.text, False, _grouped(db, chosen.values()), needed)


def prune(
    db: ModelDB,
    keep: Keep,
    runs: Sequence[str] = (),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
) -> Pruned:
    """Delete model files; a daemon may have the database open.

    It is done in small transactions, in each of which it is looked up once more that its files may go,
    and others write in between. Whoever ends it in the middle has pruned a part; what that left of files
    goes with the next pruning, or when a daemon starts.

    Args:
        keep: What stays.
        runs: Only models of these; of all, if none is named.
        progress: Called with the files that are done, and all.
        clock: Wall time, Unix seconds.

    Returns:
        What was done; each run has an event that says so, too.

    Raises:
        StoreError: If there is no such run, or the database cannot be written.
    """
    run_ids = _run_ids(db, runs)
    chosen, needed = _chosen(db, keep, run_ids)
    tell, done = progress or (lambda done, total: None), 0
    gone: list[list[Stored]] = []
    with SecondWriter(db.folder, clock) as writer:
        writer.tidy()
        for portion in _portions(chosen):
            began = time.monotonic()
            gone += _deleted(writer, portion, run_ids, f"deleted by fl db prune --keep {keep.text}")
            done += len(portion)
            tell(done, len(chosen))
            time.sleep(time.monotonic() - began)  # half of the time is others': who waits asks now and then
        found = _grouped(db, gone)
        if gone:
            with writer.changing("note what was pruned") as change:
                change.add(list(_events(gone, keep)))
    return Pruned(keep.text, True, found, needed)


def _run_ids(db: ModelDB, names: Sequence[str]) -> list[str] | None:
    return [db.run(name).run_id for name in names] or None


def _chosen(db: ModelDB, keep: Keep, run_ids: Collection[str] | None) -> tuple[dict[str, list[Stored]], int]:
    """Return the models that lose their files, by digest, and how many files only stay as they are needed."""
    readers = engine.reading(db.uri)
    try:
        with translated(db.file, "read the model database"), readers.connect() as connection:
            found = retention.stored_models(connection, keep, run_ids)
            chosen = retention.choose(found, keep)
            if keep.keep == "rounds" and any(map(_is_base, found)):  # it goes with what began from it
                gone = {model.model_id for group in chosen.values() for model in group}
                digests = list(dict.fromkeys(model.digest for model in found))
                chosen = retention.choose(retention.of_files(connection, digests, run_ids, gone), keep)
    finally:
        readers.dispose()
    kept = {
        model.digest
        for model in found
        if model.kind in PASSING and model.age >= keep.rounds and not model.may_go
    }
    return chosen, len(kept - chosen.keys())


def _is_base(model: Stored) -> bool:
    """Whether a model stays only as an update began from it, maybe."""
    return model.kind == ModelKind.DOWNLOAD and not model.may_go


def _portions(chosen: Mapping[str, list[Stored]]) -> Iterator[dict[str, list[Stored]]]:
    """Yield a few files at a time, those of updates before those of what they began from."""
    began_from = [digest for digest, group in chosen.items() if group[0].kind == ModelKind.DOWNLOAD]
    later = frozenset(began_from)
    for digests in ([digest for digest in chosen if digest not in later], began_from):
        for start in range(0, len(digests), FILES):
            yield {digest: chosen[digest] for digest in digests[start : start + FILES]}


def _deleted(
    writer: SecondWriter, chosen: Mapping[str, list[Stored]], run_ids: Collection[str] | None, reason: str
) -> list[list[Stored]]:
    """Delete files that still may go; return the models of those that are gone.

    Since they were chosen, something may have come to need one, or a younger model that is equal been
    stored. By their age they may go: rounds of a run never become fewer, also where it is rolled back.
    """
    told = {model.model_id for group in chosen.values() for model in group}

    def still_goes(model: Stored) -> bool:
        return model.may_go and model.model_id in told

    with writer.changing("prune the model database") as change:
        with writer.rows() as connection:
            groups: dict[str, list[Stored]] = defaultdict(list)
            for model in retention.of_files(connection, list(chosen), run_ids):
                groups[model.digest].append(model)
        free = [group for group in groups.values() if all(map(still_goes, group))]
        change.remove([model.model_id for group in free for model in group], reason)
    return free


def _grouped(db: ModelDB, chosen: Iterable[list[Stored]]) -> tuple[Going, ...]:
    """Add up what goes, by run, the oldest first, and kind."""
    names = {run.run_id: run.name for run in db.runs()}
    groups: dict[tuple[str, str], list[list[Stored]]] = defaultdict(list)
    for group in chosen:
        groups[group[0].run_id, group[0].kind].append(group)
    order = list(names)
    return tuple(
        Going(
            names[run_id],
            kind,
            sum(map(len, found)),
            len(found),
            sum(group[0].size for group in found),
        )
        for (run_id, kind), found in sorted(
            groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    )


def _events(gone: list[list[Stored]], keep: Keep) -> Iterator[EventRecord]:
    by_run: dict[str, list[list[Stored]]] = defaultdict(list)
    for group in gone:
        by_run[group[0].run_id].append(group)
    for run_id, found in by_run.items():
        details = {"keep": keep.text, "files": len(found), "size": sum(group[0].size for group in found)}
        yield EventRecord(run_id, "models_pruned", actor="prune", details=details)
