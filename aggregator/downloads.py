"""Models on their way to the agents: each frame is read and encoded once for everybody."""

import asyncio
import threading
from collections import OrderedDict
from typing import Protocol

from fl_main.codec import encode_chunk
from fl_main.messages import CHUNK_BYTES
from fl_main.ports import Ports
from fl_main.store import DataFile, Store, StoredPayload

BATCH_BYTES = 4 << 20  # read and encoded in one go: a hop to another thread costs as much as a chunk
KEPT_BATCHES = 8
OPEN_FILES = 8


class Outlet(Protocol):
    """Where frames go: a link, or what counts them on their way there."""

    async def send(self, frame: bytes) -> None:
        """Send a frame; waits while the other end is slow."""


class Frames:
    """Encoded chunks of stored payloads, kept while several agents fetch the same one."""

    def __init__(self, store: Store, ports: Ports) -> None:
        self._store = store
        self._ports = ports
        self._kept: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._reading: dict[tuple[str, int], asyncio.Task[list[bytes]]] = {}
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    async def require(self, payload: StoredPayload) -> None:
        """Open a payload's file, if it is not open.

        Raises:
            StoreError: If it cannot be read.
        """
        opened = self._opened(payload)
        if not opened.is_open:
            await self._ports.run_in_thread(opened.open)

    async def send(self, link: Outlet, payload: StoredPayload, offset: int) -> None:
        """Send a payload's chunks from a byte on.

        Raises:
            LinkClosedError: If the link ends before.
            StoreDamagedError: If the file is missing or too short.
        """
        first = offset - offset % BATCH_BYTES
        if first < offset:  # a transfer that was cut goes on within a batch, on its own
            end = min(first + BATCH_BYTES, payload.size)
            for frame in await self._ports.run_in_thread(self._opened(payload).frames, offset, end):
                await link.send(frame)
            first = end
        for place in range(first, payload.size, BATCH_BYTES):
            for frame in await self._batch(payload, place):
                await link.send(frame)

    async def _batch(self, payload: StoredPayload, place: int) -> list[bytes]:
        key = (payload.digest, place)
        if (frames := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return frames
        if key not in self._reading:
            self._reading[key] = asyncio.create_task(self._read(payload, place))
        return await asyncio.shield(self._reading[key])

    async def _read(self, payload: StoredPayload, place: int) -> list[bytes]:
        key, end = (payload.digest, place), min(place + BATCH_BYTES, payload.size)
        try:
            frames = await self._ports.run_in_thread(self._opened(payload).frames, place, end)
        finally:
            del self._reading[key]
        self._kept[key] = frames
        while len(self._kept) > KEPT_BATCHES:
            self._kept.popitem(last=False)
        return frames

    def _opened(self, payload: StoredPayload) -> "_OpenFile":
        if payload.digest not in self._files:
            self._files[payload.digest] = _OpenFile(self._store, payload)
        self._files.move_to_end(payload.digest)
        while len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[payload.digest]

    def close(self) -> None:
        """Close all files."""
        for opened in self._files.values():
            opened.close()
        self._files.clear()
        self._kept.clear()


class _OpenFile:
    """A stored payload, opened by the first thread that reads it; one thread at a time does."""

    def __init__(self, store: Store, payload: StoredPayload) -> None:
        self._lock = threading.Lock()
        self._store = store
        self._payload = payload
        self._file: DataFile | None = None

    @property
    def is_open(self) -> bool:
        """Whether some thread has opened the file."""
        return self._file is not None

    def open(self) -> None:
        """Open the file, if it is not open."""
        with self._lock:
            self._data()

    def _data(self) -> DataFile:
        if self._file is None:
            self._file = self._store.read(self._payload.digest, self._payload.layout)
        return self._file

    def frames(self, start: int, end: int) -> list[bytes]:
        """Return the chunks from one byte to another as they go over the wire."""
        with self._lock:
            file = self._data()
            return [self._frame(file, place, end) for place in range(start, end, CHUNK_BYTES)]

    def _frame(self, file: DataFile, place: int, end: int) -> bytes:
        data = bytearray(min(CHUNK_BYTES, end - place))
        file.read_into(place, memoryview(data))
        return encode_chunk(self._payload.digest, place, data)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
