"""How the values of a model's arrays are spread: histograms, read in pieces."""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fl_main.errors import NotFoundError
from fl_main.sources import Source
from fl_main.weights import ArraySpec

from ..arrays import Numbers, pieces

BINS = 20
_NAMES = 20  # of arrays in an error


@dataclass(frozen=True, slots=True)
class ArrayHistogram:
    """How the values of one array are spread. Numbers are of its finite values; None where it has none.

    Attributes:
        size: How many values it has.
        edges: Of the bins, from the least value to the largest, one more than `counts`; none where no
            value is finite. Where all are the same there is one bin.
        counts: Values in each bin; one on an edge is in the bin that begins there, the largest in the last.
        deviation: Standard deviation, of all values (divided by their number).
        norm: L2 norm.
        zeros: How many are 0, `nan`: not a number, `infinite`: infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    size: int
    edges: list[float]
    counts: list[int]
    least: float | None
    mean: float | None
    largest: float | None
    deviation: float | None
    norm: float | None
    zeros: int
    nan: int
    infinite: int


def histograms(
    source: Source, bins: int = BINS, arrays: Collection[str] | None = None
) -> Iterator[ArrayHistogram]:
    """Yield the histogram of each array in the order of the layout; of those in `arrays`, if it is given.

    Each is read twice: for its range, then for its counts.

    Raises:
        NotFoundError: If there is no array of a name in `arrays`.
    """
    names = {spec.name for spec in source.layout.arrays}
    if unknown := sorted(set(arrays or ()) - names):
        listed = ", ".join(sorted(names)[:_NAMES]) + (", …" if len(names) > _NAMES else "")
        raise NotFoundError(f"the model has no array {unknown[0]!r}; it has: {listed}")
    for spec in source.layout.arrays:
        if arrays is None or spec.name in arrays:
            yield _histogram(source, spec, bins)


def _histogram(source: Source, spec: ArraySpec, bins: int) -> ArrayHistogram:
    sums = _Sums()
    for piece in pieces(source, spec):
        sums.take(piece)
    words = (spec.name, str(spec.dtype), spec.shape, str(spec.role), spec.size)
    if not sums.count:
        return ArrayHistogram(*words, [], [], None, None, None, None, None, 0, sums.nan, sums.infinite)
    edges = _edges(sums.least, sums.largest, bins)
    counts = _counts(pieces(source, spec), edges)
    return ArrayHistogram(
        *words,
        edges.tolist(),
        counts.tolist(),
        sums.least,
        sums.mean,
        sums.largest,
        math.sqrt(sums.squares / sums.count),
        sums.norm,
        sums.zeros,
        sums.nan,
        sums.infinite,
    )


class _Sums:
    """What one look at all values tells of those that are finite.

    Attributes:
        squares: Of the differences from the mean, added up.
    """

    def __init__(self) -> None:
        self.count = self.zeros = self.nan = self.infinite = 0
        self.least, self.largest = math.inf, -math.inf
        self.mean = self.squares = self.norm = 0.0

    def take(self, piece: Numbers) -> None:
        """Add a piece; means and squares as Chan, Golub and LeVeque 1979 add those of two samples."""
        finite = piece[np.isfinite(piece)]
        nan = int(np.isnan(piece).sum())
        self.nan += nan
        self.infinite += piece.size - finite.size - nan
        if not finite.size:
            return
        self.zeros += int((finite == 0).sum())
        self.least, self.largest = (
            min(self.least, float(finite.min())),
            max(self.largest, float(finite.max())),
        )
        with np.errstate(over="ignore"):  # of a float64 near the end of its range the square is infinite
            self.norm = math.hypot(self.norm, float(np.linalg.norm(finite)))
            mean = float(finite.mean())
            squares = float(((finite - mean) ** 2).sum())
        count, apart = self.count + finite.size, mean - self.mean
        self.squares += squares + apart * apart * self.count * finite.size / count
        self.mean += apart * finite.size / count
        self.count = count


def _edges(least: float, largest: float, bins: int) -> Numbers:
    if least == largest:
        return np.array([least, largest])
    if math.isfinite(largest - least):
        return np.linspace(least, largest, bins + 1)
    parts = np.linspace(0.0, 1.0, bins + 1)
    return least * (1 - parts) + largest * parts


def _counts(values: Iterable[Numbers], edges: Numbers) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    bins = len(edges) - 1
    counts = np.zeros(bins, np.intp)
    for piece in values:
        finite = piece[np.isfinite(piece)]
        places = np.searchsorted(edges, finite, side="right") - 1
        counts += np.bincount(np.clip(places, 0, bins - 1), minlength=bins)
    return counts
