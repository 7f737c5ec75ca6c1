"""Memory that is used again: fresh pages cost several times what a copy into warm ones costs."""

import sys
from collections import deque

from fl_main.messages import CHUNK_BYTES

KEPT = 64
# References: of the collection, and of the function that counts them. Not of a local name: from Python 3.14
# on a call only borrows that one, and memory that somebody looks at would count as unused.
_UNUSED = 2


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
            if sys.getrefcount(self._slabs[0]) == _UNUSED:
                return memoryview(self._slabs[0])[:size]
        slab = bytearray(CHUNK_BYTES)
        if len(self._slabs) < KEPT:
            self._slabs.append(slab)
        return memoryview(slab)[:size]
