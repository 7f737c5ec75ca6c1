"""Models on their way to the agents: each frame is read and encoded once for everybody."""

import asyncio
import threading
from collections import OrderedDict
from typing import NamedTuple, Protocol

from fl_main.codec import HEAD_BYTES, frame_in
from fl_main.lossless import packed_frame
from fl_main.messages import CHUNK_BYTES
from fl_main.ports import HEADROOM, Ports
from fl_main.store import DataFile, Store, StoredPayload

BATCH_BYTES = 4 << 20  # read and encoded in one go: a hop to another thread costs as much as a chunk
KEPT_BATCHES = 8
SEND_BYTES = 32 << 20  # of chunks on their way: the more agents fetch at once, the smaller each one is
SMALLEST_CHUNK = 64 << 10
OPEN_FILES = 8


class Outlet(Protocol):
    """Where frames go: a link, or what counts them on their way there."""

    async def send_framed(self, framed: memoryview) -> None:
        """Send a frame that has room before it; waits while the other end is slow."""


class Frames:
    """Encoded chunks of stored payloads, kept while several agents fetch the same one."""

    def __init__(self, store: Store, ports: Ports) -> None:
        self._store = store
        self._ports = ports
        self._kept: OrderedDict[_Batch, list[memoryview]] = OrderedDict()
        self._reading: dict[_Batch, asyncio.Task[None]] = {}
        self._under_way = 0  # payloads that are being sent
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    async def require(self, payload: StoredPayload, offset: int, packing: str | None = None) -> None:
        """Have a payload's file open, and if it is to be sent from its beginning, the first chunks in memory.

        Args:
            payload: What is to be sent.
            offset: From where on.
            packing: How chunks are packed where that pays.

        Raises:
            StoreError: If it cannot be read.
        """
        if offset == 0 and payload.size:
            await self._require_batch(payload, _Batch(payload.digest, 0, self._chunk_bytes, packing))
        elif not self._opened(payload).is_open:
            await self._ports.run_in_thread(self._opened(payload).open)

    async def send(
        self, link: Outlet, payload: StoredPayload, offset: int, packing: str | None = None
    ) -> None:
        """Send a payload's chunks from a byte on.

        Raises:
            LinkClosedError: If the link ends before.
            StoreDamagedError: If the file is missing or too short.
        """
        self._under_way += 1
        try:
            while offset < payload.size:
                offset = await self._send_batch(link, payload, offset, packing)
        finally:
            self._under_way -= 1

    async def _send_batch(
        self, link: Outlet, payload: StoredPayload, offset: int, packing: str | None
    ) -> int:
        """Send the rest of the batch in which a byte lies; return where the next one begins.

        A slow reader keeps one chunk in memory, not the batch: what was forgotten meanwhile is read
        once more, for it alone. So is a transfer that was cut and goes on within a chunk.
        """
        size, start = self._chunk_bytes, offset - offset % BATCH_BYTES
        end = min(start + BATCH_BYTES, payload.size)
        batch = _Batch(payload.digest, start, size, packing)
        if offset == start:
            await self._require_batch(payload, batch)
        while offset < end:
            index, within = divmod(offset - start, size)
            framed = None if within else self._kept_frame(batch, index)
            if framed is None:
                framed = await self._frame(payload, batch, offset, size - within)
            await link.send_framed(framed)
            offset = min(offset + size - within, end)
        return end

    def _kept_frame(self, batch: "_Batch", index: int) -> memoryview | None:
        """Return a chunk of a batch that is in memory: it alone, for whoever sends it may be held up."""
        frames = self._kept.get(batch)
        return None if frames is None else frames[index]

    @property
    def _chunk_bytes(self) -> int:
        """How large a chunk is: a power of two, so that all that are under way fit into the budget."""
        size = CHUNK_BYTES
        while size > SMALLEST_CHUNK and size * self._under_way > SEND_BYTES:
            size //= 2
        return size

    async def _frame(self, payload: StoredPayload, batch: "_Batch", place: int, size: int) -> memoryview:
        one = batch._replace(place=place, size=size)
        end = min(place + size, batch.place + BATCH_BYTES, payload.size)
        frames = await self._ports.run_in_thread(self._opened(payload).frames, one, end)
        return frames[0]

    async def _require_batch(self, payload: StoredPayload, batch: "_Batch") -> None:
        """Have the chunks of a batch in memory, at least for the moment."""
        if batch in self._kept:
            self._kept.move_to_end(batch)
            return
        if batch not in self._reading:
            self._reading[batch] = asyncio.create_task(self._read(batch, payload))
        await asyncio.shield(self._reading[batch])

    async def _read(self, batch: "_Batch", payload: StoredPayload) -> None:
        end = min(batch.place + BATCH_BYTES, payload.size)
        try:
            frames = await self._ports.run_in_thread(self._opened(payload).frames, batch, end)
        finally:
            del self._reading[batch]
        self._kept[batch] = frames
        while len(self._kept) > KEPT_BATCHES:
            self._kept.popitem(last=False)

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


class _Batch(NamedTuple):
    """Chunks of one size that lie beside each other in a payload, packed in one way."""

    digest: str
    place: int
    size: int
    packing: str | None


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

    def frames(self, batch: _Batch, end: int) -> list[memoryview]:
        """Return the chunks of a batch, up to a byte, as links take them."""
        places = range(batch.place, end, batch.size)
        with self._lock:
            file = self._data()
            return [self._frame(file, place, min(place + batch.size, end), batch.packing) for place in places]

    def _frame(self, file: DataFile, place: int, end: int, packing: str | None) -> memoryview:
        transfer, width = self._payload.digest, self._payload.layout.width_at(place)
        buffer = memoryview(bytearray(HEADROOM + HEAD_BYTES + end - place))
        framed, data = frame_in(buffer, transfer, place, end - place)
        file.read_into(place, data)
        if packing is None:
            return framed
        return packed_frame(transfer, place, data, width) or framed

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
