"""Models read in pieces as what they stand for: decoded, and of a delta base + delta.

A model may be larger than memory. `Model.weights` gives the same values, all at once.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Protocol

import numpy as np

from fl_main.errors import StoreDamagedError
from fl_main.precision import decoded, stored_as
from fl_main.sources import Source, read_array
from fl_main.store import DataFile
from fl_main.weights import Array, Layout, Segment, views


class Stored(Protocol):
    """A model of the database, as far as its arrays go; see `Model`."""

    @property
    def model_id(self) -> str:
        """Its id."""

    @property
    def codec(self) -> str:
        """What decodes its file; empty: nothing is to be decoded."""

    @property
    def base_id(self) -> str | None:
        """Of the model that its arrays are added to, if it is a delta."""

    @property
    def base(self) -> "Stored | None":
        """That model."""

    @property
    def layout(self) -> Layout:
        """Of the arrays in its file."""

    @property
    def decoded_layout(self) -> Layout:
        """Of its arrays once they are decoded."""

    def open(self) -> DataFile:
        """Open its file to read parts of it; the caller closes it."""


@contextmanager
def opened(model: Stored) -> Iterator[Source]:
    """Lend a model's own arrays: decoded, of a delta base + delta.

    Raises:
        StoreDamagedError: If its file, or its base's, is missing or not what it should be.
        StoreError: If one of them is not stored any more.
    """
    with ExitStack() as files:
        yield _whole(model, files)


@contextmanager
def opened_decoded(model: Stored) -> Iterator[Source]:
    """Lend the arrays of a model's file, decoded: of a delta what is added to its base.

    Raises:
        StoreDamagedError: If its file is missing or not what it should be.
        StoreError: If it is not stored any more.
    """
    with ExitStack() as files:
        yield _decoded(model, files)


@contextmanager
def opened_as_stored(model: Stored) -> Iterator[Source]:
    """Lend the arrays of a model's file as they are.

    Raises:
        StoreDamagedError: If its file is missing or not what it should be.
        StoreError: If it is not stored any more.
    """
    with closing(model.open()) as file:
        yield file


def arrays_of(source: Source) -> dict[str, Array]:
    """Return all arrays by name; they are the caller's to change."""
    buffer = bytearray(source.layout.nbytes)
    source.read_into(0, memoryview(buffer))
    return views(source.layout, buffer, writable=True)


def _whole(model: Stored, files: ExitStack) -> Source:
    own = _decoded(model, files)
    base = model.base
    if base is None:
        return own
    below = _whole(base, files)
    if below.layout != own.layout:
        raise StoreDamagedError(f"model {model.model_id} is a delta of another layout than its base's")
    return _Sum(below, own)


def _decoded(model: Stored, files: ExitStack) -> Source:
    file = model.open()
    files.callback(file.close)
    if not model.codec:
        return file
    from fl_main.compression.words import from_words

    codec, layout = from_words(model.codec), model.decoded_layout
    if codec is None or codec.layout(layout) != model.layout:
        raise StoreDamagedError(f"model {model.model_id} is not what its codec {model.codec} makes")
    return codec.decoded(file, layout)


class _Sum:
    """Base + delta, as `fl_main.deltas.add` has it, computed where it is read."""

    def __init__(self, base: Source, delta: Source) -> None:
        self.layout: Layout = base.layout
        self._base = base
        self._delta = delta

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        self._delta.read_into(offset, buffer)
        end = offset + len(buffer)
        for segment in self.layout.segments:
            first, last = max(offset, segment.offset), min(end, segment.offset + segment.nbytes)
            if first < last and segment.is_trained:
                buffer[first - offset : last - offset] = self._added(segment, first, last)

    def _added(self, segment: Segment, first: int, last: int) -> memoryview:
        """Return the bytes from `first` to `last`, which need not be where values begin and end."""
        width = segment.dtype.stored.itemsize
        before = (first - segment.offset) % width
        place, size = first - before, -(-(last - first + before) // width)
        base, delta = (read_array(source, place, size, segment.dtype) for source in (self._base, self._delta))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = stored_as(decoded(base, segment.dtype) + decoded(delta, segment.dtype), segment.dtype)
        is_still = decoded(delta, segment.dtype) == 0  # -0.0 + 0.0 would be 0.0
        data = np.ascontiguousarray(np.where(is_still, base, moved)).view(np.uint8).data
        return data[before : before + last - first]
