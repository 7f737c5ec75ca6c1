"""The codecs float16 and bfloat16: 16 bits for each value of a wider float parameter.

float16 is IEEE 754's binary16 (11 significant bits, up to 65504); bfloat16 is the upper half of
a float32 (8 significant bits, its whole range). Both round half to even: of a value v the error
is at most |v| 2^-11 and |v| 2^-8 (below 2^-14, float16's is at most 2^-25).

Arrays keep their names and shapes, so what is stored reads as a model of that type.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fl_main.compression.base import Codec, Reader
from fl_main.compression.vector import Signal, Vector
from fl_main.errors import WeightsError
from fl_main.precision import decoded, stored_as
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import Array, ArraySpec, DType, Segment, is_finite


class _Half(Codec):
    """Rounds float32 and float64 to a type of 16 bits; arrays that have so few stay as they are."""

    dtype: ClassVar[DType]

    def takes(self, arrays: ArraySpec | Segment) -> bool:
        """Whether an array is wider than 16 bits."""
        return arrays.is_trained and arrays.dtype.stored.itemsize > 2

    def arrays(self, vector: Vector) -> list[ArraySpec]:
        """Return the same arrays in the narrow type."""
        return [ArraySpec(spec.name, self.dtype, spec.shape, spec.role) for spec in vector.arrays]

    def parts(self, signal: Signal, chance: np.random.Generator) -> Mapping[str, Iterable[Array]]:
        """Return each array rounded."""
        return {name: self._rounded(signal, start, size) for name, start, size in signal.vector.places()}

    def _rounded(self, signal: Signal, start: int, size: int) -> Iterator[Array]:
        for place, length in signal.vector.stretches(start, start + size):
            values = signal.read(place, length)
            stored = stored_as(values, self.dtype)
            finite = is_finite(stored, self.dtype)
            if not finite.all():
                bad = int(np.argmin(finite))
                raise WeightsError(
                    f"array {signal.vector.name_at(place + bad)!r} has the value {values[bad]:g}, "
                    f"too large for {self.name}: take the codec bfloat16 or int8, or none"
                )
            yield stored

    def reader(self, stored: Source, vector: Vector) -> Reader:
        """Return what widens values again: exactly."""
        arrays = self.arrays(vector)
        begin = self.layout(vector.model).offsets[arrays[0].name] if arrays else 0

        def read(start: int, size: int) -> Values:
            return decoded(read_array(stored, begin + 2 * start, size, self.dtype), self.dtype)

        return read


@dataclass(frozen=True, slots=True)
class Float16(_Half):
    """Rounds to float16."""

    name: ClassVar[str] = "float16"
    dtype: ClassVar[DType] = DType.F16


@dataclass(frozen=True, slots=True)
class BFloat16(_Half):
    """Rounds to bfloat16."""

    name: ClassVar[str] = "bfloat16"
    dtype: ClassVar[DType] = DType.BF16
