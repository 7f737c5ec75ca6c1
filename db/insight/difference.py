"""How one model differs from another, array by array, read in pieces."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fl_main.sources import Source
from fl_main.weights import ArraySpec, DType, Role

from ..arrays import STEP, Numbers, numbers


@dataclass(frozen=True, slots=True)
class ArrayDifference:
    """What another model has in one array that this one has not: other - this.

    Numbers are None where the arrays cannot be compared; `mismatch` says why. They are of the places
    where both values are finite.

    Attributes:
        dtype: Of this model's array; like `shape` and `role` of the other's, if only it has one.
        norm: L2 norm of this one's array, `other_norm` of the other's.
        l2: Of the difference; `relative`: to `norm`, None where that is 0.
        cosine: Of both arrays, from -1 to 1; None where one is 0.
        largest: The change of a value that is largest without its sign; `at`: its place in the array
            (the first, if there are several), None where nothing changed.
        changed: How many values differ.
        not_finite: At how many places one of both is NaN or infinite.
        mismatch: What does not fit together: only one model has the array, or its type, shape or role
            differ; empty if nothing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    norm: float | None
    other_norm: float | None
    l2: float | None
    relative: float | None
    cosine: float | None
    largest: float | None
    at: tuple[int, ...] | None
    changed: int | None
    not_finite: int | None
    mismatch: str


def difference(this: Source, other: Source) -> Iterator[ArrayDifference]:
    """Yield the differences of arrays in the order of this model's layout, then what only the other has."""
    theirs = {spec.name: spec for spec in other.layout.arrays}
    for spec in this.layout.arrays:
        second = theirs.pop(spec.name, None)
        if second is None:
            yield _apart(spec, "only in the first model")
        elif second.shape != spec.shape:
            yield _apart(spec, _unlike(spec, second))
        else:
            yield _compared(this, other, spec, second)
    for spec in theirs.values():
        yield _apart(spec, "only in the second model")


def _apart(spec: ArraySpec, why: str) -> ArrayDifference:
    nothing = (None, None, None, None, None, None, None, None, None)
    return ArrayDifference(spec.name, str(spec.dtype), spec.shape, str(spec.role), *nothing, why)


def _unlike(first: ArraySpec, second: ArraySpec) -> str:
    if first == second:
        return ""
    words = [f"{spec.dtype} {list(spec.shape)} ({spec.role})" for spec in (first, second)]
    return f"{words[0]} in the first model, {words[1]} in the second"


def _compared(this: Source, other: Source, first: ArraySpec, second: ArraySpec) -> ArrayDifference:
    sums = _Sums()
    for start in range(0, first.size, STEP):
        size = min(STEP, first.size - start)
        sums.take(start, numbers(this, first, start, size), numbers(other, second, start, size))
    place = None if sums.place is None else tuple(map(int, np.unravel_index(sums.place, first.shape)))
    return ArrayDifference(
        first.name,
        str(first.dtype),
        first.shape,
        str(first.role),
        sums.norm,
        sums.other_norm,
        sums.l2,
        _quotient(sums.l2, sums.norm),
        cosine(sums.dot, sums.norm, sums.other_norm),
        sums.largest,
        place,
        sums.changed,
        sums.not_finite,
        _unlike(first, second),
    )


class _Sums:
    """What is added up over the pieces of two arrays.

    Attributes:
        place: Of the largest change in the flattened arrays.
    """

    def __init__(self) -> None:
        self.norm = self.other_norm = self.l2 = self.dot = self.largest = 0.0
        self.place: int | None = None
        self.changed = self.not_finite = 0

    def take(self, start: int, first: Numbers, second: Numbers) -> None:
        """Add a piece that begins at `start`; values that are not finite are taken for 0 in both."""
        is_finite = np.isfinite(first) & np.isfinite(second)
        lost = first.size - int(is_finite.sum())
        if lost:
            self.not_finite += lost
            first, second = np.where(is_finite, first, 0.0), np.where(is_finite, second, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):  # float64 near the end of its range
            change = second - first
            self.norm = math.hypot(self.norm, float(np.linalg.norm(first)))
            self.other_norm = math.hypot(self.other_norm, float(np.linalg.norm(second)))
            self.l2 = math.hypot(self.l2, float(np.linalg.norm(change)))
            self.dot += float(first @ second)
        self.changed += int(np.count_nonzero(change))
        place = int(np.argmax(np.abs(change)))
        if abs(change[place]) > abs(self.largest):
            self.largest, self.place = float(change[place]), start + place


def cosine(dot: float, norm: float, other_norm: float) -> float | None:
    """Return a cosine from a scalar product and two lengths; None where one is 0, or all too large."""
    lengths = norm * other_norm
    if not 0 < lengths < math.inf or not math.isfinite(dot):
        return None
    return max(-1.0, min(1.0, dot / lengths))


def _quotient(dividend: float, divisor: float) -> float | None:
    return dividend / divisor if divisor else None


def total(found: Iterable[ArrayDifference]) -> ArrayDifference:
    """Return all float parameters that can be compared taken together, as one array without a name."""
    chosen = [entry for entry in found if entry.l2 is not None and _is_trained(entry)]
    norm, other_norm, l2 = (
        math.hypot(*(getattr(entry, name) for entry in chosen)) for name in ("norm", "other_norm", "l2")
    )
    dot = math.fsum(
        (entry.cosine or 0.0) * (entry.norm or 0.0) * (entry.other_norm or 0.0) for entry in chosen
    )
    largest = max((entry.largest or 0.0 for entry in chosen), key=abs, default=0.0)
    return ArrayDifference(
        "",
        "",
        (),
        str(Role.PARAMETER),
        norm,
        other_norm,
        l2,
        _quotient(l2, norm),
        cosine(dot, norm, other_norm),
        largest,
        None,
        sum(entry.changed or 0 for entry in chosen),
        sum(entry.not_finite or 0 for entry in chosen),
        "",
    )


def _is_trained(entry: ArrayDifference) -> bool:
    return ArraySpec(entry.name, DType(entry.dtype), entry.shape, Role(entry.role)).is_trained
