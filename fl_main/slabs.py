"""Memory that is used again: fresh pages cost several times what a copy into warm ones costs."""

import sys
from collections import deque
from collections.abc import Sequence

from fl_main.messages import CHUNK_BYTES

KEPT = 64


def is_unused(buffers: Sequence[bytearray], place: int) -> bool:
    """Whether nothing refers to a buffer but the collection that it is in."""
    return _references(buffers, place) == _UNUSED


def _references(buffers: Sequence[bytearray], place: int) -> int:
    buffer = buffers[place]
    return sys.getrefcount(buffer)


# Counted in the same way, not known: from Python 3.14 on it is another number than before.
_UNUSED = _references([bytearray()], 0)


class Slabs:
    """Buffers for one chunk each, for the connections of one thread.

    Nobody has to give one back: it is used again once nothing refers to it any more.
    """

    def __init__(self) -> None:
        self._slabs: deque[bytearray] = deque()

    def take(self, size: int) -> memoryview:
        """Return so many bytes with whatever is in them, aligned for any number."""
        if size > CHUNK_BYTES:  # others may send larger ones than we do
            return memoryview(bytearray(size))
        for _ in range(len(self._slabs)):
            self._slabs.rotate()
            if is_unused(self._slabs, 0):
                return memoryview(self._slabs[0])[:size]
        slab = bytearray(CHUNK_BYTES)
        if len(self._slabs) < KEPT:
            self._slabs.append(slab)
        return memoryview(slab)[:size]
