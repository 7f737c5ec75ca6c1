"""The codec top-k: the k values of largest magnitude, of all float parameters together.

top_k(p)_i = p_i for the k largest |p_i|, else 0: Stich, Cordonnier & Jaggi 2018, "Sparsified SGD
with Memory", Definition 2.1 (arXiv:1809.07599). It is not right on average; what makes up for it is
error feedback (`fl_main.compression.feedback`), which is on with it unless the settings say
otherwise. Magnitudes are compared as float32; of equal ones the first in the vector are taken.

Places are sorted: reading in order finds its values by going on where the last read ended.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_main.compression.base import Codec, Reader
from fl_main.compression.vector import Signal, Vector
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import Array, ArraySpec, DType

PLACES = "__places__"
VALUES = "__values__"

Magnitudes = NDArray[np.uint32]  # the bits of float32 values that are not negative
_HALF = 16  # bits of a magnitude that one pass of the search tells


def number_of(fraction: float, size: int) -> int:
    """Return k: the part of `size` values that is sent, rounded up."""
    return min(size, math.ceil(fraction * size))


@dataclass(frozen=True, slots=True)
class TopK(Codec):
    """Sends the largest values and where they are.

    Attributes:
        fraction: Part of the values that is sent, more than 0, at most 1.
    """

    name: ClassVar[str] = "top-k"

    fraction: float

    def arrays(self, vector: Vector) -> list[ArraySpec]:
        """Return the values, as float32, and their places, as narrow as they can be."""
        k = number_of(self.fraction, vector.size)
        places = ArraySpec(PLACES, DType.U32 if vector.size <= 1 << 32 else DType.U64, (k,))
        return [places, ArraySpec(VALUES, DType.F32, (k,))]

    def parts(self, signal: Signal, chance: np.random.Generator) -> Mapping[str, Iterable[Array]]:
        """Find the k-th magnitude, then go through all values for places, and again for values."""
        k = number_of(self.fraction, signal.vector.size)
        least, ties = kth_magnitude(lambda: _magnitudes(signal), k)
        dtype = self.arrays(signal.vector)[0].dtype.stored
        return {
            PLACES: (places.astype(dtype) for places, _ in _largest(signal, least, ties)),
            VALUES: (values for _, values in _largest(signal, least, ties)),
        }

    def reader(self, stored: Source, vector: Vector) -> Reader:
        """Return what puts values in their places, and 0 elsewhere."""
        return _Scattered(self, stored, vector).read

    def wrong(self, vector: Vector, spec: ArraySpec, start: int, values: Array, before: int) -> str:
        """Places ascend and are in the vector."""
        if spec.name != PLACES:
            return ""
        ascend = bool((values[1:] > values[:-1]).all()) and (start == 0 or int(values[0]) > before)
        if not ascend:
            return "has places that do not ascend"
        return "" if int(values[-1]) < vector.size else f"has places beyond the {vector.size} values"


def kth_magnitude(stretches: Callable[[], Iterable[Magnitudes]], k: int) -> tuple[int, int]:
    """Find the k-th largest of many magnitudes, in two passes and memory that does not grow.

    The bits of floats that are not negative ascend as the floats do: the first pass counts their
    upper halves, the second the lower halves of those that share the k-th one's upper half.

    Args:
        stretches: Returns all of them, as the bits of float32; the same each time.
        k: From 0 to their number.

    Returns:
        Its bits, and how many of those that equal it belong to the k largest.
    """
    if not k:
        return 0, 0
    counts = np.zeros(1 << _HALF, np.int64)
    for bits in stretches():
        counts += np.bincount(bits >> _HALF, minlength=counts.size)
    upper, k = _bin_of(counts, k)
    counts[:] = 0
    for bits in stretches():
        lower = bits[bits >> _HALF == upper] & ((1 << _HALF) - 1)
        counts += np.bincount(lower, minlength=counts.size)
    lowest, k = _bin_of(counts, k)
    return upper << _HALF | lowest, k


def _bin_of(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """Return the bin in which the k-th from above lies, and which of that bin it is."""
    from_above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_above, k))
    return counts.size - 1 - index, k - int(from_above[index] - counts[::-1][index])


def _magnitudes(signal: Signal) -> Iterator[Magnitudes]:
    for start, size in signal.vector.stretches():
        yield _bits(signal.read(start, size))


def _bits(values: Values) -> Magnitudes:
    with np.errstate(over="ignore"):  # what is too large for a float32 is the largest there is
        return np.abs(values).astype(np.float32).view(np.uint32)


def _largest(signal: Signal, least: int, ties: int) -> Iterator[tuple[Array, Array]]:
    """Yield places and values of all magnitudes above `least`, and of the first `ties` that equal it."""
    for start, size in signal.vector.stretches():
        values = signal.read(start, size)
        bits = _bits(values)
        chosen = bits > least
        equal = np.flatnonzero(bits == least)[:ties]
        ties -= len(equal)
        chosen[equal] = True
        places = np.flatnonzero(chosen)
        yield start + places, signal.narrowed(values[places], start + places)


class _Scattered:
    """Reads sorted places and their values; goes on where the last read ended, or searches."""

    def __init__(self, codec: TopK, stored: Source, vector: Vector) -> None:
        layout = codec.layout(vector.model)
        self._dtype, self._k = next((s.dtype, s.size) for s in layout.arrays if s.name == PLACES)
        self._places_at, self._values_at = layout.offsets[PLACES], layout.offsets[VALUES]
        self._stored = stored
        self._expected = 1.25 * self._k / max(1, vector.size)  # of a value: a guess that is seldom too low
        self._last = 0, 0  # where the last read ended, and the first of the sorted places from there on

    def read(self, start: int, size: int) -> Values:
        """Return values from a place on."""
        index = self._last[1] if self._last[0] == start else self._search(start)
        values = np.zeros(size, np.float32)
        while index < self._k:
            count = min(self._k - index, int(self._expected * size) + 64)
            places = self._places(index, count) - start
            found = int(np.searchsorted(places, size))
            places = places[:found]
            inside = (places >= 0) & (places < size)  # places that were not checked may be anywhere
            read = read_array(self._stored, self._values_at + 4 * index, found, DType.F32)
            values[places[inside]] = read[inside]
            index += found
            if found < count:
                break
        self._last = start + size, index
        return values

    def _places(self, index: int, count: int) -> NDArray[np.int64]:
        offset = self._places_at + self._dtype.stored.itemsize * index
        return read_array(self._stored, offset, count, self._dtype).astype(np.int64)

    def _search(self, start: int) -> int:
        return bisect_left(range(self._k), start, key=lambda index: int(self._places(index, 1)[0]))
