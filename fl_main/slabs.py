"""Memory that is used again: fresh pages cost several times what a copy into warm ones costs."""

import sys
from collections import deque

from fl_main.messages import CHUNK_BYTES

KEPT = 64
_UNUSED = 3  # references: of the collection, of `take`, and of the function that counts them


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
            slab = self._slabs[0]
            if sys.getrefcount(slab) == _UNUSED:
                return memoryview(slab)[:size]
        slab = bytearray(CHUNK_BYTES)
        if len(self._slabs) < KEPT:
            self._slabs.append(slab)
        return memoryview(slab)[:size]
