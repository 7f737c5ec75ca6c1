"""What a codec is: a way to say an update, or a global model, in fewer bytes and at a loss.

What is encoded is again a set of named arrays, in a layout that follows from the model's layout
and the settings alone: it is digested, checked and stored as any other. A codec takes the float
parameters, flattened and joined to one vector, and puts arrays of its own in their place;
buffers, integers and bools travel as they are. Encoding and decoding go stretch by stretch:
nothing grows with the model.

The laws that every codec must keep (tests hold each to them):

- zeros stay zeros;
- equal input, with equal chance, gives equal bytes;
- decoding does not depend on where a read begins or ends: one read gives the same bits as many;
- whatever bytes arrive, decoding reads and writes only where it should, and what `Check` lets
  pass decodes to finite values.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np

from fl_main.compression.vector import STRETCH, Signal, Span, Vector
from fl_main.errors import WeightsError
from fl_main.precision import stored_as
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import PIECE_BYTES, Array, ArraySpec, DType, FiniteCheck, Layout, Segment


class Reader(Protocol):
    """Decodes values of one encoded vector; `Codec.reader` makes one."""

    def __call__(self, start: int, size: int) -> Values:
        """Return values of one type, float32 or float64."""


class Codec:
    """Base of all codecs; frozen dataclasses of their options.

    Attributes:
        name: In the settings.
    """

    name: ClassVar[str]

    def takes(self, arrays: ArraySpec | Segment) -> bool:
        """Whether it encodes an array; the same for all of one type and role."""
        return arrays.is_trained

    def arrays(self, vector: Vector) -> list[ArraySpec]:
        """Return the arrays that stand for a vector, from wide types to narrow ones."""
        raise NotImplementedError

    def parts(self, signal: Signal, chance: np.random.Generator) -> Mapping[str, Iterable[Array]]:
        """Return the values of each of `arrays`, in pieces that are made when they are asked for.

        They are asked for in the order of `arrays`, each once.
        """
        raise NotImplementedError

    def reader(self, stored: Source, vector: Vector) -> Reader:
        """Return what decodes a vector."""
        raise NotImplementedError

    def wrong(self, vector: Vector, spec: ArraySpec, start: int, values: Array, last: int) -> str:
        """Say what is wrong with a piece of one of `arrays`; empty if nothing is.

        Args:
            vector: What is encoded.
            spec: The array.
            start: Place of the first value in it.
            values: As stored, and finite.
            last: The value before them, 0 if there is none.
        """
        return ""

    def layout(self, model: Layout) -> Layout:
        """Return the layout of what travels.

        Raises:
            WeightsError: If the model has an array of a name that the codec needs.
        """
        return _plan(self, model).layout

    def signal(self, model: Source, base: Source | None = None, left: Source | None = None) -> Signal:
        """Return what is to be encoded.

        Args:
            model: The local model; or a global one that is to be sent.
            base: What the local model was trained from, if differences are to be sent.
            left: What was not sent before, if errors are fed back; of `left_layout`.
        """
        return Signal(_plan(self, model.layout).vector, model, base, left)

    def encode(self, signal: Signal, chance: np.random.Generator) -> Iterator[memoryview]:
        """Yield the data of `layout` in order, in pieces that are valid until the next one is asked for.

        Args:
            signal: Made by this codec.
            chance: Rounds and chooses; a fresh one for each encoding.

        Raises:
            WeightsError: If there are values that cannot be encoded.
        """
        parts = self.parts(signal, chance)
        for spec in _plan(self, signal.vector.model).layout.arrays:
            pieces = parts[spec.name] if spec.name in parts else _copied(signal.model, spec)
            for piece in pieces:
                if piece.size:
                    yield piece.view(np.uint8).data

    def decoded(self, stored: Source, model: Layout) -> Source:
        """Return what was encoded in the layout of the model, decoded where it is read.

        Args:
            stored: Of `layout`. What passed `Check` decodes to finite values.
            model: Layout of the model.
        """
        return _Decoded(self, stored, model)

    def left_layout(self, model: Layout) -> Layout:
        """Return the layout of what error feedback keeps: the arrays taken, as computed with."""
        return _plan(self, model).vector.computed


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows from a codec and a model's layout.

    Attributes:
        kept: Where arrays that travel as they are lie in `layout`, by where they lie in the model.
    """

    vector: Vector
    layout: Layout
    kept: Mapping[int, int]


@lru_cache(maxsize=16)  # a fold decodes a thousand updates of one layout
def _plan(codec: Codec, model: Layout) -> _Plan:
    vector = Vector(model, codec.takes)
    own = codec.arrays(vector)
    names = {spec.name for spec in vector.rest}
    if taken := [spec.name for spec in own if spec.name in names]:
        raise WeightsError(f"array {taken[0]!r}: the codec {codec.name} needs this name; rename the array")
    # Stable: arrays that were neighbours in the model are neighbours here, too.
    arrays = sorted([*own, *vector.rest], key=lambda spec: -spec.dtype.stored.itemsize)
    layout = Layout(arrays, ordered=True)
    kept = {model.offsets[spec.name]: layout.offsets[spec.name] for spec in vector.rest if spec.size}
    return _Plan(vector, layout, kept)


def _copied(model: Source, spec: ArraySpec) -> Iterator[Array]:
    step = PIECE_BYTES // spec.dtype.stored.itemsize
    for start in range(0, spec.size, step):
        offset = model.layout.offsets[spec.name] + start * spec.dtype.stored.itemsize
        yield read_array(model, offset, min(step, spec.size - start), spec.dtype)


class _Decoded:
    """An encoded set of arrays as a source of the model's layout."""

    def __init__(self, codec: Codec, stored: Source, model: Layout) -> None:
        self.layout = model
        self._stored = stored
        self._plan = _plan(codec, model)
        self._spans = {span.segment.offset: span for span in self._plan.vector.spans}
        self._read = codec.reader(stored, self._plan.vector)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        end = offset + len(buffer)
        for segment in self.layout.segments:
            first, last = max(offset, segment.offset), min(end, segment.offset + segment.nbytes)
            if first >= last:
                continue
            part = buffer[first - offset : last - offset]
            if span := self._spans.get(segment.offset):
                self._decode(span, first - segment.offset, part)
            else:
                self._stored.read_into(self._plan.kept[segment.offset] + first - segment.offset, part)

    def _decode(self, span: Span, skipped: int, part: memoryview) -> None:
        """Fill part with the bytes of a span from byte `skipped` on."""
        width = span.segment.dtype.stored.itemsize
        first, end = skipped // width, -(-(skipped + len(part)) // width)
        for start in range(first, end, STRETCH):
            with np.errstate(over="ignore", invalid="ignore"):  # of what nobody checked
                values = self._read(span.start + start, min(STRETCH, end - start))
                data = _within(values, span.segment.dtype).view(np.uint8).data
            place = start * width - skipped  # negative where a read begins within a value
            data = data[max(0, -place) : len(part) - place]
            place = max(0, place)
            part[place : place + len(data)] = data


_LARGEST = {DType.F16: 65504.0, DType.BF16: float.fromhex("0x1.fep+127")}


def _within(values: Values, dtype: DType) -> Array:
    """Return values as stored in a model; those too large for its type become its largest."""
    if dtype in _LARGEST:
        values = np.clip(values, -_LARGEST[dtype], _LARGEST[dtype])
    return np.ascontiguousarray(stored_as(values, dtype))


class Check:
    """Looks for what is wrong with an encoded set of arrays that arrives piece by piece.

    Args:
        codec: That it claims to be of.
        model: Layout of the model.
    """

    def __init__(self, codec: Codec, model: Layout) -> None:
        plan = _plan(codec, model)
        self._codec = codec
        self._vector = plan.vector
        self._layout = plan.layout
        self._finite = FiniteCheck(plan.layout)
        self._own = [spec for spec in codec.arrays(plan.vector) if spec.size]
        self._last: tuple[int, int] = 0, 0  # where the last piece ended, and its last value

    def first_wrong(self, offset: int, data: bytes | bytearray | memoryview) -> str | None:
        """Return what is wrong with a piece, or None.

        Args:
            offset: Where the piece lies: a multiple of 8. Pieces come in order; where one is
                missing, as it was checked before, the values on both sides are not compared.
            data: The piece; its length is a multiple of 8 unless it is the last.
        """
        if bad := self._finite.first_bad(offset, data):
            return f"array {bad!r} has values that are NaN or infinite"
        for spec in self._own:
            begin, width = self._layout.offsets[spec.name], spec.dtype.stored.itemsize
            first, last = max(offset, begin), min(offset + len(data), begin + spec.nbytes)
            if first >= last:
                continue
            values = np.frombuffer(data, spec.dtype.stored, (last - first) // width, first - offset)
            before = self._last[1] if self._last[0] == first > begin else 0
            if wrong := self._codec.wrong(self._vector, spec, (first - begin) // width, values, before):
                return f"array {spec.name!r} {wrong}"
            self._last = last, int(values[-1]) if not spec.dtype.is_float else 0
        return None
