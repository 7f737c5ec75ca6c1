"""What the codecs int8 and qsgd share: small whole numbers, times the scale of a block.

An array's values are cut into blocks; of a value v in a block of scale a the code is v / a,
rounded to a whole number q, and q a is what is read. Stochastic rounding takes the next higher
number with a probability of the fraction, so that E[q a] = v, and |q a - v| < a; to the nearest,
|q a - v| <= a / 2 (both but for float32's own rounding). Codes of at most 7 are packed two to a
byte.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fl_main.compression.base import Codec, Reader
from fl_main.compression.vector import STRETCH, Signal, Vector
from fl_main.errors import WeightsError
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import Array, ArraySpec, DType

CODES = "__codes__"
SCALES = "__scales__"
LARGEST_PACKED = 7  # up to these a code fits half a byte, as a two's complement
_FLOAT32_MAX = np.finfo(np.float32).max

Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Quantized(Codec):
    """Base of both; each says how a block's scale follows from its values.

    Attributes:
        block: Values that share a scale; an array's last block may be shorter.
    """

    block: int

    @property
    def largest(self) -> int:
        """The largest code, up to 127."""
        raise NotImplementedError

    @property
    def largest_scale(self) -> np.float32:
        """The largest scale of which `largest` are a float32: their quotient may have been rounded up."""
        scale = _FLOAT32_MAX / np.float32(self.largest)
        is_exact = float(scale) * self.largest <= float(_FLOAT32_MAX)
        return scale if is_exact else np.nextafter(scale, np.float32(0))

    @property
    def is_stochastic(self) -> bool:
        """Whether it rounds by chance, or to the nearest."""
        return True

    @property
    def is_packed(self) -> bool:
        """Whether two codes share a byte."""
        return self.largest <= LARGEST_PACKED

    def scales_of(self, values: Values, starts: NDArray[np.intp]) -> Values:
        """Return the scale of each block, so large that no value is more than `largest` of it.

        Args:
            values: Of some blocks, one after the other.
            starts: Where each begins.
        """
        raise NotImplementedError

    def arrays(self, vector: Vector) -> list[ArraySpec]:
        """Return a scale for each block and a code for each value."""
        codes = (
            ArraySpec(CODES, DType.U8, (-(-vector.size // 2),))
            if self.is_packed
            else ArraySpec(CODES, DType.I8, (vector.size,))
        )
        return [ArraySpec(SCALES, DType.F32, (len(block_starts(vector, self.block)),)), codes]

    def parts(self, signal: Signal, chance: np.random.Generator) -> Mapping[str, Iterable[Array]]:
        """Measure all blocks, then round one after the other: values are computed twice, not kept."""
        scales = [self._measured(signal, blocks) for blocks in groups(signal.vector, self.block)]
        codes = self._codes(signal, scales, chance)
        return {SCALES: scales, CODES: packed(codes) if self.is_packed else codes}

    def _measured(self, signal: Signal, blocks: "Blocks") -> Array:
        values = signal.read(blocks.start, blocks.size)
        with np.errstate(over="ignore"):
            exact = self.scales_of(values, blocks.starts)
            scales = exact.astype(np.float32)
            # Rounded up, or the largest value would be more than `largest` scales where these are tiny.
            scales = np.where(scales < exact, np.nextafter(scales, np.float32(np.inf)), scales)
        fits = scales <= self.largest_scale
        if not fits.all():
            name = signal.vector.name_at(blocks.start + int(blocks.starts[np.argmin(fits)]))
            raise WeightsError(f"array {name!r} has values too large for {self.name}: take codec none")
        return scales

    def _codes(self, signal: Signal, scales: list[Array], chance: np.random.Generator) -> Iterator[Codes]:
        for blocks, own in zip(groups(signal.vector, self.block), scales, strict=True):
            values = signal.read(blocks.start, blocks.size)
            values /= np.repeat(np.where(own > 0, own, 1), blocks.sizes)  # where the scale is 0, all are
            codes = rounded(values, chance if self.is_stochastic else None)
            yield np.clip(codes, -self.largest, self.largest).astype(np.int8)  # a division may round up

    def reader(self, stored: Source, vector: Vector) -> Reader:
        """Return what multiplies codes with their scales."""
        layout = self.layout(vector.model)
        codes_at, scales_at = layout.offsets[CODES], layout.offsets[SCALES]
        starts = block_starts(vector, self.block)

        def read(start: int, size: int) -> Values:
            first = int(np.searchsorted(starts, start, "right")) - 1
            last = int(np.searchsorted(starts, start + size, "left"))
            ends = np.append(starts[first + 1 : last], start + size)
            sizes = np.diff(ends, prepend=start)
            scales = read_array(stored, scales_at + 4 * first, last - first, DType.F32)
            computed = vector.span_at(start).segment.dtype.computed.stored
            values: Values = self._read_codes(stored, codes_at, start, size).astype(computed)
            values *= np.repeat(scales, sizes)
            return values

        return read

    def _read_codes(self, stored: Source, begin: int, start: int, size: int) -> Codes:
        if not self.is_packed:
            return read_array(stored, begin + start, size, DType.I8)
        first = start // 2
        pairs = read_array(stored, begin + first, -(-(start + size) // 2) - first, DType.U8)
        return unpacked(pairs)[start % 2 :][:size]

    def wrong(self, vector: Vector, spec: ArraySpec, start: int, values: Array, before: int) -> str:
        """Scales are not negative and not too large, codes not beyond the largest."""
        if spec.name == SCALES:
            is_right = bool(((values >= 0) & (values <= self.largest_scale)).all())
            return "" if is_right else "has scales that are negative or too large"
        codes = unpacked(values) if self.is_packed else values.astype(np.int16)
        is_right = bool((np.abs(codes) <= self.largest).all())
        return "" if is_right else f"has codes beyond {self.largest}"


def rounded(values: Values, chance: np.random.Generator | None) -> Values:
    """Return values rounded to whole numbers: by chance, right on average; without, to the nearest."""
    if chance is None:
        return np.rint(values)
    low = np.floor(values)
    draws = chance.random(values.size, np.float32)
    return low + (draws < values - low)  # compared with the fraction, not added: adding would round


def packed(codes: Iterable[Codes]) -> Iterator[Array]:
    """Pack codes from -8 to 7 two to a byte, the first in the lower half; a last one stands with 0."""
    kept = np.zeros(0, np.int8)
    for more in codes:
        joined = np.concatenate((kept, more))
        even = joined.size // 2 * 2
        kept = joined[even:]
        yield _pairs(joined[:even])
    if kept.size:
        yield _pairs(np.append(kept, np.int8(0)))


def _pairs(codes: Codes) -> Array:
    halves = codes.view(np.uint8)
    return np.asarray((halves[::2] & 15) | (halves[1::2] << 4))


def unpacked(pairs: Array) -> Codes:
    """Return the codes in bytes that `packed` made."""
    codes = np.empty(2 * pairs.size, np.int8)
    codes[::2] = pairs & 15
    codes[1::2] = pairs >> 4
    return (codes ^ 8) - np.int8(8)  # of a half byte, bit 3 is the sign


@dataclass(frozen=True, slots=True)
class Blocks:
    """Some neighbouring blocks, of values of one type.

    Attributes:
        start: Place of the first value in the vector.
        size: Number of values.
        starts: Where each block begins, from `start`.
    """

    start: int
    size: int
    starts: NDArray[np.intp]

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Values of each block."""
        return np.diff(self.starts, append=self.size)


@lru_cache(maxsize=16)  # with the plan of a codec: 8 bytes for each block
def block_starts(vector: Vector, block: int) -> NDArray[np.intp]:
    """Return where each block begins; every array begins a block."""
    places = vector.places()
    starts = np.array([place for _, place, _ in places], np.intp)
    sizes = np.array([size for _, _, size in places], np.intp)
    counts = -(-sizes // block)
    of_array = np.repeat(np.cumsum(counts) - counts, counts)  # the array's first block, for each block
    return np.repeat(starts, counts) + block * (np.arange(len(of_array)) - of_array)


def groups(vector: Vector, block: int) -> Iterator[Blocks]:
    """Yield all blocks in groups of about a stretch."""
    starts = block_starts(vector, block)
    for span in vector.spans:
        first, last = np.searchsorted(starts, (span.start, span.end))
        while first < last:
            cut = min(last, max(first + 1, np.searchsorted(starts, starts[first] + STRETCH)))
            end = int(starts[cut]) if cut < last else span.end
            begin = int(starts[first])
            yield Blocks(begin, end - begin, starts[first:cut] - begin)
            first = cut
