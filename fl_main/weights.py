"""Weights as named arrays, and their layout in one contiguous buffer.

A model travels and is stored as the data part of a `.safetensors` file. The file's header
follows from the layout alone, so both ends of the wire know the whole file, and its digest,
from the layout and the bytes.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import LayoutMismatchError, WeightsError

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = Mapping[str, Array]
Rows: TypeAlias = list[tuple[str, str, list[int], str]]  # name, type, shape, role of each array

PIECE_BYTES = 1 << 20  # how much of an array is handled at a time: stays in the cache
MAX_ARRAYS = 1_000_000
MAX_DIMENSIONS = 32  # numpy 1's limit; later ones take more
_METADATA = "__metadata__"


class Role(StrEnum):
    """What an array is to the aggregation.

    Parameters are what optimizers, clipping and distances see; buffers (running statistics,
    counters) are averaged plainly; private arrays never leave the agent.
    """

    PARAMETER = "parameter"
    BUFFER = "buffer"
    PRIVATE = "private"


class DType(StrEnum):
    """The element types that a model may have, by their safetensors names."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def stored(self) -> np.dtype[Any]:
        """The little-endian numpy dtype of the stored bytes (bfloat16: its 16 bits, uint16)."""
        return _STORED[self]

    @property
    def is_float(self) -> bool:
        """Whether values can be NaN or infinite, and an average is a rounded float."""
        return self in _FLOATS

    @property
    def computed(self) -> "DType":
        """The type in which values of this one are computed with."""
        return DType.F64 if self is DType.F64 else DType.F32


_STORED: dict[DType, np.dtype[Any]] = {
    DType.F64: np.dtype("<f8"),
    DType.F32: np.dtype("<f4"),
    DType.F16: np.dtype("<f2"),
    DType.BF16: np.dtype("<u2"),
    DType.I64: np.dtype("<i8"),
    DType.I32: np.dtype("<i4"),
    DType.I16: np.dtype("<i2"),
    DType.I8: np.dtype("i1"),
    DType.U64: np.dtype("<u8"),
    DType.U32: np.dtype("<u4"),
    DType.U16: np.dtype("<u2"),
    DType.U8: np.dtype("u1"),
    DType.BOOL: np.dtype("?"),
}
_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_BY_NUMPY = {dtype.newbyteorder("="): name for name, dtype in _STORED.items() if name is not DType.BF16}


def dtype_of(array: Array) -> DType:
    """Return the stored type of a numpy array, of any byte order.

    Raises:
        WeightsError: If values of this dtype cannot be stored (complex, objects, text).
    """
    if array.dtype.name == "bfloat16":  # ml_dtypes registers it; numpy itself has none
        return DType.BF16
    try:
        return _BY_NUMPY[array.dtype.newbyteorder("=")]
    except KeyError:
        raise WeightsError(
            f"arrays of dtype {array.dtype} cannot be sent; use float16/32/64, bfloat16, integers or bool"
        ) from None


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Name, type, shape and role of one array."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    role: Role = Role.PARAMETER

    def __post_init__(self) -> None:
        if self.name == _METADATA:
            raise WeightsError(f"an array cannot be called {_METADATA!r}: the file format keeps that name")
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise WeightsError(f"array name {self.name!r} is not valid Unicode text") from None
        if any(size < 0 for size in self.shape):
            raise WeightsError(f"array {self.name!r} has a negative size in its shape {self.shape}")
        # numpy counts sizes of 0 as 1 here, too.
        if len(self.shape) > MAX_DIMENSIONS or math.prod(max(1, size) for size in self.shape) >= 1 << 60:
            raise WeightsError(f"array {self.name!r} is larger than any memory, or has too many dimensions")

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.stored.itemsize

    @property
    def is_trained(self) -> bool:
        """Whether it is a float parameter: what optimizers, differences and distances are about."""
        return self.role is Role.PARAMETER and self.dtype.is_float


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of neighbouring arrays of one type and role in the buffer.

    Attributes:
        offset: First byte in the buffer.
        size: Number of values.
    """

    dtype: DType
    role: Role
    offset: int
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.stored.itemsize

    @property
    def is_trained(self) -> bool:
        """Whether its arrays are float parameters: what optimizers and differences are about."""
        return self.role is Role.PARAMETER and self.dtype.is_float


class Layout:
    """The names, shapes, dtypes and roles of a model, and where each array lies in one buffer.

    Arrays lie in an order of their own (wide types first, then role, then name), whatever the
    order they were given in: every array is aligned to its item size, there are no holes, and
    equal models have equal bytes.

    Args:
        arrays: In any order.
        ordered: Keep the order given: a file's or a peer's.

    Raises:
        WeightsError: If two arrays have one name, or one would not be aligned.
    """

    def __init__(self, arrays: Iterable[ArraySpec], *, ordered: bool = False) -> None:
        self.arrays: tuple[ArraySpec, ...] = tuple(arrays if ordered else sorted(arrays, key=_place))
        if len({spec.name for spec in self.arrays}) != len(self.arrays):
            raise WeightsError("two arrays have the same name")
        if len(self.arrays) > MAX_ARRAYS:
            raise WeightsError(f"{len(self.arrays)} arrays; at most {MAX_ARRAYS} can be sent")
        offsets: dict[str, int] = {}
        end = 0
        for spec in self.arrays:
            if end % spec.dtype.stored.itemsize:
                raise WeightsError(f"array {spec.name!r} would begin at byte {end}, not aligned to its type")
            offsets[spec.name] = end
            end += spec.nbytes
        self.offsets: Mapping[str, int] = offsets
        self.nbytes = end

    @classmethod
    def of(cls, weights: Weights, roles: Mapping[str, Role] | None = None) -> "Layout":
        """Return the layout of weights; arrays without a role are parameters.

        Raises:
            WeightsError: If an array or a name cannot be stored, or a role names no array.
        """
        roles = roles or {}
        if unknown := sorted(set(roles) - set(weights)):
            raise WeightsError(f"a role is given for {unknown[0]!r}, which is not among the arrays")
        return cls(
            ArraySpec(name, dtype_of(array), array.shape, roles.get(name, Role.PARAMETER))
            for name, array in weights.items()
        )

    @classmethod
    def free(cls, size: int) -> "Layout":
        """Return the layout of a payload of `size` bytes with no structure that we know of."""
        return cls([ArraySpec("payload", DType.U8, (size,), Role.BUFFER)])

    @classmethod
    def from_wire(cls, rows: Sequence[Sequence[Any]]) -> "Layout":
        """Read what `to_wire` wrote.

        Raises:
            WeightsError: If a row is not a name, a type, a shape and a role, or a narrow type comes
                before a wider one: what the fold keeps beside the model would not be aligned.
        """
        try:
            layout = cls((_spec(*row) for row in rows), ordered=True)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"not the description of a layout: {error}") from error
        widths = [spec.dtype.stored.itemsize for spec in layout.arrays]
        if widths != sorted(widths, reverse=True):
            raise WeightsError("the arrays of a layout must go from wide types to narrow ones")
        return layout

    def to_wire(self) -> Rows:
        """Return rows of name, type, shape and role: what messages and files carry."""
        return [(spec.name, str(spec.dtype), list(spec.shape), str(spec.role)) for spec in self.arrays]

    @cached_property
    def digest(self) -> str:
        """Tells whether two sets of weights fit together: tagged SHA-256 of the rows."""
        text = json.dumps(self.to_wire(), ensure_ascii=False, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def header(self) -> bytes:
        """The bytes before the data in a `.safetensors` file of this layout."""
        entries: dict[str, Any] = {}
        buffers = [spec.name for spec in self.arrays if spec.role is Role.BUFFER]
        if buffers:
            entries[_METADATA] = {"buffers": json.dumps(buffers, ensure_ascii=False)}
        for spec in self.arrays:
            begin = self.offsets[spec.name]
            entries[spec.name] = {
                "dtype": str(spec.dtype),
                "shape": list(spec.shape),
                "data_offsets": [begin, begin + spec.nbytes],
            }
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
        return len(text).to_bytes(8, "little") + text

    @classmethod
    def from_header(cls, text: bytes) -> "Layout":
        """Read the JSON part of a `.safetensors` header (without its length).

        Raises:
            WeightsError: If it is not such a header, or there are holes between its arrays.
        """
        try:
            entries = json.loads(text)
            buffers = set(json.loads(entries.pop(_METADATA, {}).get("buffers", "[]")))
            places = {name: tuple(entry["data_offsets"]) for name, entry in entries.items()}
            layout = cls(
                (
                    _spec(
                        name,
                        entries[name]["dtype"],
                        entries[name]["shape"],
                        Role.BUFFER if name in buffers else Role.PARAMETER,
                    )
                    for name in sorted(entries, key=places.__getitem__)  # an empty array before its place's
                ),
                ordered=True,
            )
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise WeightsError(f"not a safetensors header: {error}") from error
        offsets = layout.offsets
        if places != {s.name: (offsets[s.name], offsets[s.name] + s.nbytes) for s in layout.arrays}:
            raise WeightsError("there are holes between the arrays of this safetensors file")
        return layout

    def width_at(self, place: int) -> int:
        """Return how many bytes the numbers have that lie at a byte of the buffer."""
        return next((width for end, width in self._widths if place < end), 1)

    @cached_property
    def _widths(self) -> tuple[tuple[int, int], ...]:
        """Where the numbers of one width end, and that width; neighbours taken together."""
        found: dict[int, int] = {}
        for segment in filter(lambda segment: segment.size, self.segments):
            width = segment.dtype.stored.itemsize
            if found.get(segment.offset) == width:
                del found[segment.offset]
            found[segment.offset + segment.nbytes] = width
        return tuple(found.items())

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Neighbouring arrays of one type and role, taken together."""
        found: list[Segment] = []
        for spec in self.arrays:
            last = found[-1] if found else None
            if last and (last.dtype, last.role) == (spec.dtype, spec.role):
                found[-1] = Segment(last.dtype, last.role, last.offset, last.size + spec.size)
            else:
                found.append(Segment(spec.dtype, spec.role, self.offsets[spec.name], spec.size))
        return tuple(found)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """Names of the float parameters: what optimizers and differences are about."""
        return tuple(spec.name for spec in self.arrays if spec.is_trained)

    def without_private(self) -> "Layout":
        """Return the layout of what leaves the agent."""
        return Layout((spec for spec in self.arrays if spec.role is not Role.PRIVATE), ordered=True)

    def require(self, weights: Weights) -> None:
        """Check that weights are of this layout.

        Raises:
            LayoutMismatchError: With the first difference, in words.
        """
        roles = {spec.name: spec.role for spec in self.arrays if spec.name in weights}
        if difference := self._difference(Layout.of(weights, roles)):
            raise LayoutMismatchError(difference)

    def require_same(self, other: "Layout") -> None:
        """Check that another layout is this one.

        Raises:
            LayoutMismatchError: With the first difference, in words.
        """
        if other.digest != self.digest:
            raise LayoutMismatchError(
                self._difference(other) or "its arrays are those of the run's model in another order"
            )

    def _difference(self, other: "Layout") -> str:
        mine = {spec.name: spec for spec in self.arrays}
        theirs = {spec.name: spec for spec in other.arrays}
        if missing := sorted(mine.keys() - theirs.keys()):
            return f"array {missing[0]!r} of the run's model is missing ({len(missing)} missing in all)"
        if extra := sorted(theirs.keys() - mine.keys()):
            return f"array {extra[0]!r} is not part of the run's model ({len(extra)} too many in all)"
        for name, spec in mine.items():
            if spec != theirs[name]:
                return (
                    f"array {name!r} is {_words(theirs[name])}, but in the run's model it is {_words(spec)}"
                )
        return ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.arrays == other.arrays

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Layout({len(self.arrays)} arrays, {self.nbytes} bytes)"


def _place(spec: ArraySpec) -> tuple[int, str, str, str]:
    return -spec.dtype.stored.itemsize, str(spec.dtype), str(spec.role), spec.name


def _spec(name: object, dtype: object, shape: object, role: object) -> ArraySpec:
    """Read one array's description as others wrote it; raises TypeError or ValueError."""
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(role, str):
        raise TypeError("name, type and role are text")
    if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
        raise TypeError(f"the shape of {name!r} is not a list of whole numbers")
    return ArraySpec(name, DType(dtype), tuple(shape), Role(role))


def _words(spec: ArraySpec) -> str:
    return f"{spec.dtype} {list(spec.shape)} ({spec.role})"


def as_arrays(weights: Mapping[str, object]) -> dict[str, Array]:
    """Return weights as numpy arrays, without a copy where they already are.

    Raises:
        WeightsError: If they have no names, a name is no text or a value is no array of numbers.
    """
    if not isinstance(weights, Mapping):  # such as the lists of arrays of other frameworks
        raise WeightsError(f"weights are arrays by name, {{'w': …}}, not {type(weights).__name__}")
    arrays: dict[str, Array] = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise WeightsError(f"array names are text, not {type(name).__name__}: {name!r}")
        try:
            arrays[name] = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{name!r} is not an array of numbers: {error}") from error
    return arrays


def pieces(weights: Weights, layout: Layout) -> Iterator[memoryview]:
    """Yield the buffer of weights piece by piece, in the order of the layout.

    Args:
        weights: Arrays of this layout, of any memory order and byte order; not changed.
        layout: What `Layout.of` said of them (private arrays may be left out of it).

    Yields:
        Views of at most `PIECE_BYTES`, valid until the next one is asked for.
    """
    for spec in layout.arrays:
        flat = np.ascontiguousarray(weights[spec.name]).reshape(-1)
        if spec.dtype is not DType.BF16:
            flat = flat.astype(spec.dtype.stored, copy=False)
        view = flat.view(np.uint8).data
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def views(
    layout: Layout, buffer: bytearray | memoryview | bytes, *, writable: bool = False
) -> dict[str, Array]:
    """Return the arrays of a model as views of its buffer, without a copy.

    Args:
        layout: Where each array lies.
        buffer: At least `layout.nbytes` bytes; owned by the arrays from here on.
        writable: Whether the arrays may be changed in place.
    """
    arrays: dict[str, Array] = {}
    for spec in layout.arrays:
        flat: Array = np.frombuffer(buffer, spec.dtype.stored, spec.size, layout.offsets[spec.name])
        if spec.dtype is DType.BF16:
            flat = flat.view(_bfloat16())
        array = flat.reshape(spec.shape)
        array.flags.writeable = writable
        arrays[spec.name] = array
    return arrays


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise WeightsError(
            "this model has bfloat16 arrays; numpy needs `pip install ml_dtypes` for them"
        ) from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def pack(weights: Weights, layout: Layout) -> bytearray:
    """Return the buffer of weights as one block of memory."""
    buffer = bytearray(layout.nbytes)
    place = 0
    for piece in pieces(weights, layout):
        buffer[place : place + len(piece)] = piece
        place += len(piece)
    return buffer


class FiniteCheck:
    """Looks for NaN and infinite values in a buffer that arrives piece by piece."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._floats = [segment for segment in layout.segments if segment.dtype.is_float]

    def first_bad(self, offset: int, data: bytes | bytearray | memoryview) -> str | None:
        """Return the name of the first array with a non-finite value, or None.

        Args:
            offset: Where the piece lies in the buffer: a multiple of 8, as every array is aligned.
            data: The piece; its length is a multiple of 8 unless it is the last.
        """
        end = offset + len(data)
        for segment in self._floats:
            first, last = max(offset, segment.offset), min(end, segment.offset + segment.nbytes)
            if first >= last:
                continue
            values = np.frombuffer(
                data, segment.dtype.stored, (last - first) // segment.dtype.stored.itemsize, first - offset
            )
            if _has_finite_sum(values, segment.dtype):
                continue
            finite = is_finite(values, segment.dtype)
            if not finite.all():
                place = first + int(np.argmin(finite)) * segment.dtype.stored.itemsize
                return self._name_at(place)
        return None

    def first_wrong(self, offset: int, data: bytes | bytearray | memoryview) -> str | None:
        """Return what is wrong with a piece in words, or None; see `first_bad`."""
        bad = self.first_bad(offset, data)
        return None if bad is None else f"array {bad!r} has values that are NaN or infinite"

    def _name_at(self, place: int) -> str:
        name = next(
            spec.name
            for spec in self._layout.arrays
            if self._layout.offsets[spec.name] <= place < self._layout.offsets[spec.name] + spec.nbytes
        )
        return name or "''"  # an empty name must not read as: nothing was found


def _has_finite_sum(values: Array, dtype: DType) -> bool:
    """Whether values add up to a number: then each is one. A sum that is none may be too large only.

    It is one call for one number, where looking at each makes as many answers.
    """
    if dtype not in (DType.F32, DType.F64):  # the narrow ones add up to too much soon
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()))


def is_finite(values: Array, dtype: DType) -> NDArray[np.bool_]:
    """Return which stored values are finite numbers.

    Args:
        values: Of a float type, as stored: bfloat16 as its bits.
        dtype: Their type.
    """
    if dtype is DType.BF16:  # all exponent bits set: infinite or NaN
        return np.asarray((values & 0x7F80) != 0x7F80)
    return np.isfinite(values)
