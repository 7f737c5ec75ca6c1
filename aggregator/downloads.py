"""Models on their way to the agents: each frame is read and encoded once for everybody."""

import asyncio
from collections import OrderedDict

from fl_main.codec import encode_chunk
from fl_main.messages import CHUNK_BYTES
from fl_main.ports import Link, Ports
from fl_main.store import DataFile, Store, StoredPayload

CACHE_BYTES = 32 << 20
OPEN_FILES = 8


class Frames:
    """Encoded chunks of stored payloads, kept while several agents fetch the same one."""

    def __init__(self, store: Store, ports: Ports, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._ports = ports
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._reading: dict[tuple[str, int], asyncio.Task[bytes]] = {}
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    async def send(self, link: Link, payload: StoredPayload, offset: int) -> None:
        """Send a payload's chunks from a byte on.

        Raises:
            LinkClosedError: If the link ends before.
            StoreDamagedError: If the file is missing or too short.
        """
        for place in range(offset, payload.size, CHUNK_BYTES):
            await link.send(await self._frame(payload.digest, place, payload.size))

    async def _frame(self, digest: str, place: int, size: int) -> bytes:
        key = (digest, place)
        if (frame := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return frame
        if key not in self._reading:
            self._reading[key] = asyncio.create_task(self._read(digest, place, size))
        return await asyncio.shield(self._reading[key])

    async def _read(self, digest: str, place: int, size: int) -> bytes:
        key = (digest, place)
        try:
            opened = self._opened(digest)
            async with opened.lock:
                frame = await self._ports.run_in_thread(opened.frame, place, min(CHUNK_BYTES, size - place))
        finally:
            del self._reading[key]
        self._keep(key, frame)
        return frame

    def _keep(self, key: tuple[str, int], frame: bytes) -> None:
        self._kept[key] = frame
        self._kept_bytes += len(frame)
        while self._kept_bytes > self._cache_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)

    def _opened(self, digest: str) -> "_OpenFile":
        if digest not in self._files:
            self._files[digest] = _OpenFile(self._store, digest)
        self._files.move_to_end(digest)
        idle = [name for name, opened in self._files.items() if not opened.lock.locked() and name != digest]
        for name in idle[: max(0, len(self._files) - OPEN_FILES)]:
            self._files.pop(name).close()
        return self._files[digest]

    def close(self) -> None:
        """Close all files."""
        for opened in self._files.values():
            opened.close()
        self._files.clear()
        self._kept.clear()


class _OpenFile:
    """A stored payload, opened by the first read, and the lock that lets one thread at a time do it."""

    def __init__(self, store: Store, digest: str) -> None:
        self.lock = asyncio.Lock()
        self._store = store
        self._digest = digest
        self._file: DataFile | None = None

    def frame(self, place: int, size: int) -> bytes:
        """Return a chunk as it goes over the wire; runs in a thread."""
        if self._file is None:
            self._file = self._store.read(self._digest)
        data = bytearray(size)
        self._file.read_into(place, memoryview(data))
        return encode_chunk(self._digest, place, data)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._file is not None:
            self._file.close()
