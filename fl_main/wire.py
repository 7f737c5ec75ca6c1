"""A WebSocket connection whose messages go past the library: chunks are hardly copied, others take less time.

On its way through the library a frame is copied four times, and each copy is made in fresh memory.
Of a Chunk's frame only the first bytes are looked at here; its data are read by the system from
the socket to where they stay until they are used. Going out, a frame is made with room before it for
what WebSocket needs there. A small message of one frame is taken as it is: the library takes ten times
as long to parse or to make its few bytes. All other frames, and whatever is not in order, are the library's.
"""

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from websockets.asyncio.connection import Connection
from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Event

from fl_main.codec import HEAD_BYTES, read_chunk_head
from fl_main.messages import MAX_CHUNK_BYTES, Chunk
from fl_main.ports import HEADROOM
from fl_main.slabs import Slabs

READ_BYTES = 16 << 10  # at once; more of a chunk: what is read with a chunk's first bytes is copied
READ_QUEUE = 16  # messages that may wait in memory
DIRECT_BYTES = 4 << 10  # chunks that are smaller are not worth it
MAX_PARTS = 1000  # of a message; we send each in one
MAX_UNREAD_BYTES = 16 << 20  # more than all senders of a connection write before they wait
FINAL_BINARY = 0x82
ITEM_COST = 320  # bytes of memory that a message takes beside its content

Item = bytes | str | Chunk


class _Memory(threading.local):
    """What the connections of one event loop share.

    Attributes:
        read: Where bytes are read to; they are taken from there before anything else happens.
        slabs: For chunks.
    """

    def __init__(self) -> None:
        self.read = memoryview(bytearray(READ_BYTES))
        self.slabs = Slabs()


MEMORY = _Memory()


class Head(NamedTuple):
    """The first bytes of a WebSocket frame.

    Attributes:
        size: How many they are.
        length: How many follow.
        first: Opcode and flags.
        mask: What these are masked with, if the frame comes from the dialling end.
    """

    size: int
    length: int
    first: int
    mask: bytes

    @property
    def total(self) -> int:
        """Bytes of the whole frame."""
        return self.size + self.length


def read_head(data: memoryview) -> Head | None:
    """Return the head of the frame that data begin with; None if more of it has to come."""
    if len(data) < 2:
        return None
    code, width = data[1] & 0x7F, {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
    size = 2 + width + (4 if data[1] & 0x80 else 0)
    if len(data) < size:
        return None
    length = int.from_bytes(data[2 : 2 + width]) if width else code
    return Head(size, length, data[0], bytes(data[2 + width : size]))


def unmask(data: memoryview, mask: bytes, place: int = 0) -> None:
    """Mask or unmask bytes where they lie.

    Args:
        data: Part of a frame's payload, aligned.
        mask: Four bytes.
        place: Where in the payload the part begins.
    """
    turned = bytes(mask[(place + i) % 4] for i in range(4))
    whole = len(data) - len(data) % 4
    numbers = np.frombuffer(data[:whole], np.uint32)
    np.bitwise_xor(numbers, np.frombuffer(turned, np.uint32), out=numbers)
    for i in range(whole, len(data)):
        data[i] ^= turned[i % 4]


def unmasked(data: bytes, mask: bytes) -> bytes:
    """Return a whole payload masked or unmasked."""
    if len(data) > DIRECT_BYTES:
        turned = bytearray(data)
        unmask(memoryview(turned), mask)
        return bytes(turned)
    # As one number: of some hundred bytes that takes a tenth of the time.
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(len(data))


class _Incoming:
    """A chunk whose data are on their way."""

    def __init__(self, chunk: Chunk, room: memoryview, mask: bytes, start: int) -> None:
        self._chunk = chunk
        self._room = room
        self._mask = mask
        self._start = start  # of the data in the frame's payload
        self.size = len(room)
        self.filled = 0

    @property
    def rest(self) -> memoryview:
        """Where the next bytes go."""
        return self._room[self.filled :]

    def done(self) -> Chunk:
        if self._mask:
            unmask(self._room, self._mask, self._start)
        return self._chunk.model_copy(update={"data": self._room})


class Wire(Connection, asyncio.BufferedProtocol):
    """Either end of a connection.

    Attributes:
        bytes_received: So far, complete frames or not.
    """

    bytes_received = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._arriving: _Incoming | None = None
        self._left: int | None = None  # bytes of a frame that the library has yet to see; None: who knows
        self._unparsed = b""
        self._parts: list[bytes] = []  # of a message in several frames
        self._inbox: deque[Item] = deque()
        self._queued = 0  # bytes that the inbox and the parts take
        self._news = asyncio.Event()
        self._is_paused = False

    # --- reading --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        # What was sent is gone: its memory can be used again. Over TLS it is a copy that waits, and asyncio
        # takes a limit of 0 for one that nothing is below.
        self.transport.set_write_buffer_limits(1 if transport.get_extra_info("ssl_object") else 0, 0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes are to be read to."""
        return self._arriving.rest if self._arriving else MEMORY.read

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.arrive(nbytes, MEMORY.read[:nbytes] if self._arriving is None else None)

    def data_received(self, data: bytes) -> None:
        """Take what was read where the loop does not ask where to: uvloop sees a plain protocol."""
        self.arrive(len(data), data)

    def arrive(self, number: int, data: bytes | memoryview | None) -> None:
        """Take bytes.

        Args:
            number: How many.
            data: They themselves, unless they lie where `get_buffer` said that a chunk goes.
        """
        self.bytes_received += number
        if data is None:
            self._filled(number)
        else:
            self._unparsed += data
            self.parse()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:  # pings are answered without waiting
            self.logger.warning("cut off peer=%s: it does not read what it is sent", self.remote_address)
            self.transport.abort()

    def parse(self) -> None:
        """Take whole frames, or all there is where nobody knows where one ends."""
        data = memoryview(self._unparsed)
        while data and self.may_parse():
            taken = self._take(data)
            if not taken:
                break
            data = data[taken:]
        self._unparsed = bytes(data)

    def may_parse(self) -> bool:
        """Whether there is room for more; if not, `go_on` is called once there is."""
        return not self._is_paused

    def _take(self, data: memoryview) -> int:
        """Take a frame, or a part of it; return how many bytes that was."""
        if self._arriving is not None:
            part = data[: len(self._arriving.rest)]
            self._arriving.rest[: len(part)] = part
            self._filled(len(part))
            return len(part)
        if self._left == 0 and self.state is OPEN:
            if (head := read_head(data)) is None:
                return 0
            if self._is_message(head):
                if head.length < DIRECT_BYTES:
                    return self._hear(head, data)
                if len(data) < head.size + min(head.length, HEAD_BYTES):
                    return 0
                if start := self._begin(head, data):
                    return start
            self._left = head.total
        part = data if self._left is None or self.state is not OPEN else data[: self._left]
        self._pass_on(part)
        return len(part)

    def _pass_on(self, part: memoryview) -> None:
        """Let the library have a part of a frame, of the handshake, or of what comes after a close."""
        was_opening, was_open = self._is_opening, self.state is OPEN
        super().data_received(bytes(part))
        if self._left is not None:
            self._left = self._left - len(part) if was_open else None
        elif was_opening and not self._is_opening and bytes(part[-4:]) == b"\r\n\r\n":
            self._left = 0  # frames from here on

    @property
    def _is_opening(self) -> bool:
        """Whether the other end's part of the handshake is not here yet."""
        theirs = "request" if self.protocol.side is SERVER else "response"
        return getattr(self, theirs) is None

    def _is_message(self, head: Head) -> bool:
        """Whether a frame is a whole binary message, and not larger than a chunk."""
        is_masked = bool(head.mask) == (self.protocol.side is SERVER)
        is_data = head.first == FINAL_BINARY and not self._parts
        return is_masked and is_data and head.length <= MAX_CHUNK_BYTES + HEAD_BYTES

    def _hear(self, head: Head, data: memoryview) -> int:
        """Take a small message if all of it is here; return how many bytes that is."""
        if len(data) < head.total:
            return 0
        message = bytes(data[head.size : head.total])
        self.count_frame(head.length)
        self._deliver(unmasked(message, head.mask) if head.mask else message)
        return head.total

    def count_frame(self, size: int) -> None:
        """Note that a frame of the other end is here."""

    def _begin(self, head: Head, data: memoryview) -> int:
        """Begin to take a chunk; return how many bytes its head has, 0 if it is not one."""
        first = memoryview(bytearray(data[head.size : head.size + HEAD_BYTES]))
        if head.mask:
            unmask(first, head.mask)
        found = read_chunk_head(first)
        if found is None:
            return 0
        chunk, start, size = found
        if start + size != head.length or size > MAX_CHUNK_BYTES or not self.has_room_for(size):
            return 0
        self._arriving = _Incoming(chunk, MEMORY.slabs.take(size), head.mask, start)
        return head.size + start

    def has_room_for(self, size: int) -> bool:
        """Whether a chunk's memory may be taken before its data are here."""
        return True

    def _filled(self, number: int) -> None:
        assert self._arriving is not None
        self._arriving.filled += number
        if not self._arriving.rest:
            chunk, self._arriving = self._arriving.done(), None
            self._deliver(chunk)

    def process_event(self, event: Event) -> None:
        """Take a frame from the library."""
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        if event.opcode is Opcode.TEXT:
            self._deliver(bytes(event.data).decode(errors="replace"))
            return
        self._parts.append(bytes(event.data))
        self._queued += len(event.data) + ITEM_COST
        event.data = b""  # the parser keeps its last frame until the next one comes
        if len(self._parts) > MAX_PARTS:
            self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, f"a message in more than {MAX_PARTS} frames")
            self.send_data()
        elif event.fin:
            parts, self._parts = self._parts, []
            self._queued -= sum(map(_cost, parts))
            self._deliver(parts[0] if len(parts) == 1 else b"".join(parts))

    # --- what came ------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """Memory of what was read and nobody has taken yet."""
        arriving = self._arriving.size if self._arriving else 0
        return len(self._unparsed) + len(self.protocol.reader.buffer) + self._queued + arriving

    def _deliver(self, item: Item) -> None:
        self._inbox.append(item)
        self._queued += _cost(item)
        self._news.set()
        if len(self._inbox) > READ_QUEUE and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    async def next(self) -> Item:
        """Return the next message; a Chunk that went past the library as such.

        Raises:
            ConnectionClosed: If none comes any more.
        """
        while not self._inbox:
            if self.connection_lost_waiter.done():
                raise self.close_exc
            self._news.clear()
            await self._news.wait()
        item = self._inbox.popleft()
        self._queued -= _cost(item)
        if self._is_paused and len(self._inbox) <= READ_QUEUE // 4:
            self._is_paused = False
            self.go_on()
        return item

    def go_on(self) -> None:
        """Parse what waits, and read on, if there is room for it."""
        self.parse()
        if self.may_parse() and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._arriving = None
        self._news.set()

    # --- writing --------------------------------------------------------------------------

    async def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames, in one go: each write wakes the other end."""
        await self._write(b"".join(map(self._framed, frames)))

    def _framed(self, frame: bytes) -> bytes:
        if self.protocol.side is SERVER:
            return _head(len(frame), b"") + frame
        mask = secrets.token_bytes(4)
        return _head(len(frame), mask) + unmasked(frame, mask)

    async def _write(self, data: bytes | memoryview) -> None:
        """Write, and wait while the other end is slow.

        As a rule nothing is to be waited for: the library's context for that takes longer than the write.
        """
        is_open = self.state is OPEN
        if is_open:
            self.transport.write(data)
        if not is_open or self.paused or self.transport.is_closing():
            async with self.send_context():  # waits, or raises
                pass
        else:
            self.wrote()

    def wrote(self) -> None:
        """Note that something was written past the library."""

    def send_data(self) -> None:
        """Write what the library has to say, in one go if it is more than the end of all."""
        if len(self.protocol.writes) > 1 and all(self.protocol.writes):  # an empty one closes the connection
            self.protocol.writes = [b"".join(self.protocol.writes)]
        super().send_data()

    async def send_framed(self, framed: memoryview) -> None:
        """Send a frame that has `HEADROOM` bytes before it; see `fl_main.ports.Link`."""
        frame = framed[HEADROOM:]
        mask = b"" if self.protocol.side is SERVER else secrets.token_bytes(4)
        head = _head(len(frame), mask)
        if mask:
            unmask(frame, mask)
        framed[HEADROOM - len(head) : HEADROOM] = head
        await self._write(framed[HEADROOM - len(head) :])


def _cost(item: Item) -> int:
    return len(item.data if isinstance(item, Chunk) else item) + ITEM_COST


def _head(length: int, mask: bytes) -> bytes:
    """Return what stands before a frame of binary data."""
    flag = 0x80 if mask else 0
    if length < 126:
        return bytes([FINAL_BINARY, flag | length]) + mask
    width, code = (2, 126) if length < 1 << 16 else (8, 127)
    return bytes([FINAL_BINARY, flag | code]) + length.to_bytes(width) + mask
