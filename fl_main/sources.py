"""Where the bytes of a set of arrays come from, and where they go: files, or memory."""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fl_main.weights import Array, DType, Layout, Weights


class Source(Protocol):
    """A set of arrays that can be read anywhere."""

    @property
    def layout(self) -> Layout:
        """Where each array lies."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""


def read_array(source: Source, offset: int, size: int, dtype: DType) -> Array:
    """Return `size` stored values from byte `offset` on, as a new array."""
    array: Array = np.empty(size, dtype.stored)
    source.read_into(offset, array.view(np.uint8).data)
    return array


class Sink(Protocol):
    """Takes the data of a set of arrays in order."""

    def write(self, data: memoryview) -> None:
        """Append data."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The data of a set of arrays in one block of memory as a source."""

    layout: Layout
    data: bytes | bytearray | memoryview

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        buffer[:] = memoryview(self.data)[offset : offset + len(buffer)]


@dataclass(slots=True)
class Memory:
    """The data of a set of arrays in memory, as a sink and then a source."""

    layout: Layout
    data: bytearray = field(default_factory=bytearray)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, data: bytes | memoryview) -> None:
        """Append data."""
        self.data += data

    def close(self) -> None:
        """Do nothing: where files are closed, there is none to close here."""


class Held:
    """Arrays in memory as a source, without a second copy of them.

    Args:
        weights: Arrays of any memory order and byte order; they must not change meanwhile.
        layout: What `Layout.of` said of them (some may be left out of it).
    """

    def __init__(self, weights: Weights, layout: Layout) -> None:
        self.layout = layout
        self._weights = weights
        self._specs = [spec for spec in layout.arrays if spec.size]
        self._offsets = [layout.offsets[spec.name] for spec in self._specs]
        self._seen: tuple[int, memoryview] = -1, memoryview(b"")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        filled = 0
        index = bisect_right(self._offsets, offset) - 1
        while filled < len(buffer):
            start = offset + filled - self._offsets[index]
            part = self._bytes_of(index)[start : start + len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            index += 1

    def _bytes_of(self, index: int) -> memoryview:
        """Return an array's stored bytes; the last one is kept, as some must be copied for them."""
        if self._seen[0] != index:
            spec = self._specs[index]
            flat = np.ascontiguousarray(self._weights[spec.name]).reshape(-1)
            if spec.dtype is not DType.BF16:
                flat = flat.astype(spec.dtype.stored, copy=False)
            self._seen = index, flat.view(np.uint8).data
        return self._seen[1]
