"""The codec random-k: k values that chance chooses, of all float parameters together.

rand_k(p)_i = p_i for a random set of k of the d places, else 0. Times d / k it is right on average,
with E||Q(p) - p||^2 = (d/k - 1) ||p||^2: Konecny et al. 2016, "Federated Learning: Strategies for
Improving Communication Efficiency", section 3 (subsampling; arXiv:1610.05492). With error feedback it
is not multiplied, so that what is left does not grow (Stich, Cordonnier & Jaggi 2018, Definition
2.1, arXiv:1809.07599).

The places follow from a number that is sent with the values, so they need no bytes. The vector is
cut into k equal parts (to one value), and of each part of m values one is chosen, times m: that has
the same mean and variance as a free choice, and any part of it can be read by itself. The
generator is SplitMix64 (Steele, Lea & Flood 2014), written out here: stored updates must be read
the same by every later version of everything.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_main.compression.base import Codec, Reader
from fl_main.compression.top_k import VALUES, number_of
from fl_main.compression.vector import Signal, Vector
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import Array, ArraySpec, DType

SEED = "__seed__"


@dataclass(frozen=True, slots=True)
class RandomK(Codec):
    """Sends values that chance chooses.

    Attributes:
        fraction: Part of the values that is sent, at least 10^-6, at most 1.
        error_feedback: Whether what is left comes later; without, values are multiplied, so that
            they are right on average.
    """

    name: ClassVar[str] = "random-k"

    fraction: float
    error_feedback: bool

    def arrays(self, vector: Vector) -> list[ArraySpec]:
        """Return a number that the places follow from, and the values, as float32."""
        k = number_of(self.fraction, vector.size)
        return [ArraySpec(SEED, DType.U64, (1,)), ArraySpec(VALUES, DType.F32, (k,))]

    def parts(self, signal: Signal, chance: np.random.Generator) -> Mapping[str, Iterable[Array]]:
        """Draw the number, then go through all values once."""
        seed = chance.integers(0, 1 << 64, 1, np.uint64)
        return {SEED: [seed], VALUES: self._chosen(signal, int(seed[0]))}

    def _chosen(self, signal: Signal, seed: int) -> Iterator[Array]:
        parts = Parts(signal.vector.size, number_of(self.fraction, signal.vector.size), seed)
        for start, size in signal.vector.stretches():
            _, places, sizes = parts.chosen(start, size)
            values = signal.read(start, size)[places - start]
            if not self.error_feedback:
                with np.errstate(over="ignore"):  # what is too large is refused below
                    values *= sizes
            yield signal.narrowed(values, places)

    def reader(self, stored: Source, vector: Vector) -> Reader:
        """Return what puts values in their places, and 0 elsewhere."""
        layout = self.layout(vector.model)
        seed = int(read_array(stored, layout.offsets[SEED], 1, DType.U64)[0])
        parts = Parts(vector.size, number_of(self.fraction, vector.size), seed)

        def read(start: int, size: int) -> Values:
            first, places, _ = parts.chosen(start, size)
            values = np.zeros(size, np.float32)
            values[places - start] = read_array(
                stored, layout.offsets[VALUES] + 4 * first, places.size, DType.F32
            )
            return values

        return read


class Parts:
    """A vector cut into k parts, and the place that chance chooses of each.

    Args:
        size: Of the vector, d.
        k: From 1 to d; 0 of an empty vector.
        seed: Of 64 bits.
    """

    def __init__(self, size: int, k: int, seed: int) -> None:
        self._least, self._longer = divmod(size, max(1, k))  # the first parts have one value more
        self._seed = seed

    def chosen(self, start: int, size: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Return the first part whose chosen place is in a stretch; all such places; their parts' sizes."""
        numbers = np.arange(self._part_of(start), self._part_of(start + size - 1) + 1)
        begins = numbers * self._least + np.minimum(numbers, self._longer)
        sizes = self._least + (numbers < self._longer)
        places = begins + picks(mixed(self._seed, numbers), sizes)
        inside = (places >= start) & (places < start + size)
        first = int(numbers[np.argmax(inside)])
        return first, places[inside], sizes[inside]

    def _part_of(self, place: int) -> int:
        border = self._longer * (self._least + 1)
        if place < border:
            return place // (self._least + 1)
        return self._longer + (place - border) // self._least


def mixed(seed: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits for each number: SplitMix64's outputs number n + 1 from a seed."""
    bits = np.uint64(seed) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def picks(bits: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number below each size, from random bits: as likely as any other, to size / 2^32.

    Args:
        bits: 64 for each, of which the upper half is used.
        sizes: From 1 to 2^32.
    """
    upper = bits >> np.uint64(32)
    return np.asarray((upper * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
