"""Models on their way to the agents: each frame is read and encoded once for everybody."""

import asyncio
from collections import OrderedDict

from fl_main.codec import encode_chunk
from fl_main.messages import CHUNK_BYTES
from fl_main.ports import Link, Ports
from fl_main.store import DataFile, Store
from fl_main.weights import Layout

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

    async def layout(self, digest: str) -> Layout:
        """Return the layout of a stored payload.

        Raises:
            StoreDamagedError: If its file is missing.
        """
        return (await self._open(digest)).file.layout

    async def send(self, link: Link, digest: str, offset: int) -> None:
        """Send a payload's chunks from a byte on.

        Raises:
            LinkClosedError: If the link ends before.
            StoreDamagedError: If the file is missing or too short.
        """
        size = (await self.layout(digest)).nbytes
        for place in range(offset, size, CHUNK_BYTES):
            await link.send(await self._frame(digest, place, size))

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
            opened = await self._open(digest)
            async with opened.lock:
                frame = await self._ports.run_in_thread(
                    _encoded, opened.file, digest, place, min(CHUNK_BYTES, size - place)
                )
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

    async def _open(self, digest: str) -> "_OpenFile":
        if digest not in self._files:
            opened = _OpenFile(await self._ports.run_in_thread(self._store.read, digest))
            if digest in self._files:  # another agent was faster
                opened.file.close()
            else:
                self._files[digest] = opened
        self._files.move_to_end(digest)
        self._close_idle()
        return self._files[digest]

    def _close_idle(self) -> None:
        idle = [digest for digest, opened in self._files.items() if not opened.lock.locked()]
        for digest in idle[: max(0, len(self._files) - OPEN_FILES)]:
            self._files.pop(digest).file.close()

    def close(self) -> None:
        """Close all files."""
        for opened in self._files.values():
            opened.file.close()
        self._files.clear()
        self._kept.clear()


class _OpenFile:
    """A stored payload and the lock that lets one thread at a time read it."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.lock = asyncio.Lock()


def _encoded(file: DataFile, digest: str, place: int, size: int) -> bytes:
    data = bytearray(size)
    file.read_into(place, memoryview(data))
    return encode_chunk(digest, place, data)
