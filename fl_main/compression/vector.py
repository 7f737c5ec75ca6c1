"""What codecs encode: the arrays of a model that a codec takes, one after the other, as a vector."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import WeightsError
from fl_main.precision import decoded, stored_as
from fl_main.sources import Source, read_array
from fl_main.strategies.base import Values
from fl_main.weights import Array, ArraySpec, Layout, Segment, is_finite

STRETCH = 64 << 10  # values handled at a time: with what is computed of them they fit the cache

Takes = Callable[[ArraySpec | Segment], bool]


@dataclass(frozen=True, slots=True)
class Span:
    """Values of one type that lie together in the model.

    Attributes:
        start: Place of the first in the vector.
        computed: Its first byte among the arrays of `Vector.computed`.
    """

    start: int
    computed: int
    segment: Segment

    @property
    def end(self) -> int:
        """Place in the vector behind the last value."""
        return self.start + self.segment.size


class Vector:
    """The arrays that a codec takes, flattened and joined in the order of the model.

    Args:
        model: Layout of the model.
        takes: Whether a codec encodes an array; the same for all of one type and role.

    Attributes:
        arrays: Those that are in it.
        rest: Those that travel as they are.
        spans: Its values by type; empty ones are left out.
        size: Number of values.
        computed: The layout of its arrays in the precision that is computed in: error feedback
            has it.
    """

    def __init__(self, model: Layout, takes: Takes) -> None:
        self.model = model
        self.arrays = tuple(spec for spec in model.arrays if takes(spec))
        self.rest = tuple(spec for spec in model.arrays if not takes(spec))
        self.computed = Layout(
            (ArraySpec(spec.name, spec.dtype.computed, spec.shape) for spec in self.arrays), ordered=True
        )
        self.spans = tuple(_spans(filter(takes, model.segments)))
        self.size = self.spans[-1].end if self.spans else 0
        self._filled = [spec for spec in self.arrays if spec.size]
        self._ends = list(accumulate(spec.size for spec in self._filled))

    def name_at(self, place: int) -> str:
        """Return the name of the array that a value belongs to."""
        return self._filled[bisect_right(self._ends, place)].name

    def places(self) -> list[tuple[str, int, int]]:
        """Return name, place and number of the values of each array that has some."""
        return [
            (spec.name, end - spec.size, spec.size)
            for spec, end in zip(self._filled, self._ends, strict=True)
        ]

    def stretches(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield place and size of stretches of values, none of two types."""
        end = self.size if end is None else end
        for span in self.spans:
            for place in range(max(start, span.start), min(end, span.end), STRETCH):
                yield place, min(STRETCH, end - place, span.end - place)

    def span_at(self, place: int) -> Span:
        """Return the span that a value lies in."""
        return next(span for span in self.spans if place < span.end)


def _spans(segments: Iterator[Segment]) -> Iterator[Span]:
    start = computed = 0
    for segment in segments:
        if segment.size:
            yield Span(start, computed, segment)
            start += segment.size
            computed += segment.size * segment.dtype.computed.stored.itemsize


class Signal:
    """What an update, or a global model, says: the values that a codec encodes.

    p = e + g of error feedback (Stich et al. 2018, Algorithm 1): what was not sent before, and
    what is new. Values are computed when they are asked for; nothing here grows with the model.

    Args:
        model: The local model, or a global one that is to be sent.
        base: What the local model was trained from, where differences are sent.
        left: What the agent could not send before, of the layout `vector.computed`.
        vector: Of the codec.
    """

    def __init__(
        self, vector: Vector, model: Source, base: Source | None = None, left: Source | None = None
    ) -> None:
        self.vector = vector
        self.model = model
        self._base = base
        self._left = left

    def read(self, start: int, size: int) -> Values:
        """Return values of one type as a new array, in the precision that is computed in.

        Raises:
            WeightsError: If one is not finite.
        """
        span = self.vector.span_at(start)
        dtype, computed = span.segment.dtype, span.segment.dtype.computed
        offset = span.segment.offset + (start - span.start) * dtype.stored.itemsize
        values = decoded(read_array(self.model, offset, size, dtype), dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            if self._base is not None:
                values -= decoded(read_array(self._base, offset, size, dtype), dtype)
            if self._left is not None:
                place = span.computed + (start - span.start) * computed.stored.itemsize
                values += read_array(self._left, place, size, computed)
        finite = np.isfinite(values)
        if not finite.all():
            name = self.vector.name_at(start + int(np.argmin(finite)))
            raise WeightsError(f"array {name!r} has values that are NaN or infinite: no codec can encode it")
        return values

    def narrowed(self, values: Values, places: NDArray[np.intp]) -> Array:
        """Return values as float32, in which sparse codecs send them.

        Args:
            values: Of one type.
            places: Where they are in the vector.

        Raises:
            WeightsError: If one is too large for it, or for the type of the model.
        """
        if not values.size:
            return values.astype(np.float32)
        dtype = self.vector.span_at(int(places[0])).segment.dtype
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
            fits = np.isfinite(narrow) & is_finite(stored_as(narrow, dtype), dtype)
        if not fits.all():
            name = self.vector.name_at(int(places[np.argmin(fits)]))
            raise WeightsError(f"array {name!r} has values too large to be sent alone: take codec none")
        return narrow
