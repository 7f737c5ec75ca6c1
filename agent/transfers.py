"""Models coming in and updates going out, over any number of connections."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fl_main.codec import HEAD_BYTES, frame_in
from fl_main.compression import Check, Codec
from fl_main.compression.words import from_words
from fl_main.digests import algorithm_of, file_digest, tagged
from fl_main.errors import FLError, RemoteProtocolError, WeightsError
from fl_main.lossless import Piece, packed_frame
from fl_main.messages import ALIGNMENT, CHUNK_BYTES, Chunk, Fetch, Payload, Sending
from fl_main.ports import HEADROOM, DiskFile, RunInThread
from fl_main.session import Incoming
from fl_main.sources import Packed
from fl_main.weights import Layout

MAX_RESTARTS = 2  # for a digest that does not match


@dataclass(frozen=True, slots=True)
class Fetched:
    """A payload that is here.

    Attributes:
        model: The layout of its arrays.
        layout: Of what travelled: the same, unless there is a codec.
        data: What travelled.
    """

    model: Layout
    layout: Layout
    data: bytearray
    codec: Codec | None

    def decoded(self, room: bytearray | None = None) -> bytearray:
        """Return the bytes of its arrays.

        Args:
            room: Memory for them that was used before.

        Raises:
            RemoteProtocolError: If what travelled says nothing that can be decoded.
        """
        if self.codec is None:
            return self.data
        check, view = Check(self.codec, self.model), memoryview(self.data)
        for place in range(0, len(view), CHUNK_BYTES):
            if wrong := check.first_wrong(place, view[place : place + CHUNK_BYTES]):
                raise RemoteProtocolError(f"a model that cannot be decoded by {self.codec.name}: {wrong}")
        found = bytearray(self.model.nbytes) if room is None else room
        self.codec.decoded(Packed(self.layout, self.data), self.model).read_into(0, memoryview(found))
        return found


class Download:
    """One payload on its way in; it goes on where it stopped on the next connection.

    Args:
        payload: What was announced.
        known: The layout of the run's model, if it is known.
        room: Memory for all of it that was used before; without it, memory is taken for what came.

    Attributes:
        done: Holds it at the end.

    Raises:
        RemoteProtocolError: If it is encoded in a way that there is not.
    """

    def __init__(self, payload: Payload, known: Layout | None, room: bytearray | None = None) -> None:
        self.payload = payload
        self.done: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        try:
            self._codec = from_words(payload.codec)
            self._model, self._layout = known, self._layout_of(known) if known else None
        except FLError as error:
            raise RemoteProtocolError(f"a model that cannot be decoded: {error}") from error
        if self._layout is not None and self._layout.digest != payload.layout:
            self._model = self._layout = None
        self._buffer = bytearray() if room is None else room
        self._incoming: Incoming | None = None
        self._place = 0
        self._restarts = 0

    def request(self) -> Fetch:
        """Return the message that asks for what is still missing."""
        self._incoming = None
        layout = self._layout.digest if self._layout else None
        return Fetch(digest=self.payload.digest, offset=self._place, layout=layout)

    def begin(self, sending: Sending) -> None:
        """Take the announcement of the chunks that follow.

        Raises:
            RemoteProtocolError: If it is not what was asked for.
        """
        if self._layout is None:
            self._layout = self._described(sending)
        if sending.size != self._layout.nbytes or sending.size != self.payload.size:
            raise RemoteProtocolError("a model of another size than announced")
        if sending.offset != self._place:
            raise RemoteProtocolError(f"a model from byte {sending.offset}, asked for was {self._place}")
        if self._place == 0:
            try:
                self._digest = file_digest(self._layout, algorithm_of(self.payload.digest))
            except WeightsError as error:
                raise RemoteProtocolError(str(error)) from error
        self._incoming = Incoming(sending.transfer, sending.size, self._place, sending.size)

    def _layout_of(self, model: Layout) -> Layout:
        """Return the layout of what travels."""
        return self._codec.layout(model) if self._codec else model

    def _described(self, sending: Sending) -> Layout:
        try:
            self._model = Layout.from_wire(sending.rows or [])
            layout = self._layout_of(self._model)
        except WeightsError as error:
            raise RemoteProtocolError(f"a model that is badly described: {error}") from error
        if layout.digest != self.payload.layout:
            raise RemoteProtocolError("a model of another layout than announced")
        return layout

    def take(self, chunk: Chunk) -> None:
        """Take a chunk that is not packed.

        Raises:
            RemoteProtocolError: If it is not the next one.
        """
        self.expect(chunk)
        self.add(chunk.data)

    def expect(self, chunk: Chunk) -> None:
        """Check a chunk's place and size; its plain bytes are to be added next.

        Raises:
            RemoteProtocolError: If it is not the next one.
        """
        if self._incoming is None:
            raise RemoteProtocolError("a chunk before its announcement")
        self._incoming.take(chunk)

    def add(self, data: Piece) -> None:
        """Take the plain bytes of the chunk that was expected."""
        assert self._incoming is not None
        end = self._place + len(data)
        if end > len(self._buffer):  # it grows by what came, not by what was announced
            del self._buffer[self._place :]
            self._buffer += data
        else:
            with memoryview(self._buffer) as room:
                room[self._place : end] = data
        self._digest.update(data)
        self._place = self._incoming.place

    def finish(self) -> bool:
        """Return whether the transfer is over; a wrong digest makes it begin anew.

        Raises:
            RemoteProtocolError: If the digest was wrong too often.
        """
        if self._incoming is None or not self._incoming.is_complete:
            return False
        if self._layout is None or self._model is None:
            return False
        if tagged(self._digest) == self.payload.digest:
            if not self.done.done():
                self.done.set_result(Fetched(self._model, self._layout, self._buffer, self._codec))
            return True
        self._place, self._restarts = 0, self._restarts + 1
        if self._restarts > MAX_RESTARTS:
            raise RemoteProtocolError("a model whose bytes do not match its digest")
        return False

    @property
    def must_ask_again(self) -> bool:
        """Whether a wrong digest made it begin anew."""
        return self._place == 0 and self._incoming is not None and self._incoming.is_complete


class Sender:
    """One payload on its way out, as far as the aggregator gave credit.

    Args:
        transfer: Its name in the chunks.
        open_file: Opens the safetensors file in the outbox.
        layout: Of its data part, at the file's end.
        send: Sends a frame that has room before it.
        pack_in: Runs what packs chunks in a thread; None: they travel as they are.
    """

    def __init__(
        self,
        transfer: str,
        open_file: Callable[[], DiskFile],
        layout: Layout,
        send: Callable[[memoryview], Awaitable[None]],
        pack_in: RunInThread | None = None,
    ) -> None:
        self.transfer = transfer
        self._open_file = open_file
        self._layout = layout
        self._size = layout.nbytes
        self._send = send
        self._pack_in = pack_in
        self._credit = 0
        self._more = asyncio.Event()

    def allow(self, credit: int) -> None:
        """Let it go on as far as a byte."""
        self._credit = max(self._credit, credit)
        self._more.set()

    async def run(self, offset: int) -> None:
        """Send from a byte on, to the end.

        Raises:
            OSError: If the file cannot be read.
            LinkClosedError: If the link ends before.
        """
        # Just written, so in the page cache: reading it here is cheaper than a thread hop.
        file = self._open_file()
        try:
            start = file.size() - self._size
            buffer = memoryview(bytearray(HEADROOM + HEAD_BYTES + min(CHUNK_BYTES, self._size)))
            while offset < self._size:
                size = await self._allowed(offset)
                framed, part = frame_in(buffer, self.transfer, offset, size)
                if file.read_at(start + offset, part) < size:
                    raise OSError(errno.EIO, "the file became shorter")
                await self._send(await self._packed(offset, part) or framed)
                offset += size
        finally:
            file.close()

    async def _packed(self, offset: int, part: memoryview) -> memoryview | None:
        """Return the frame of a packed chunk; None if it is to travel as it is."""
        if self._pack_in is None:
            return None
        width = self._layout.width_at(offset)
        return await self._pack_in(packed_frame, self.transfer, offset, part, width)

    async def _allowed(self, offset: int) -> int:
        """Wait until something may be sent; return how many bytes of it go into one chunk."""
        while True:
            wanted = min(CHUNK_BYTES, self._size - offset, self._credit - offset)
            if offset + wanted < self._size:
                wanted -= wanted % ALIGNMENT
            if wanted > 0:
                return wanted
            self._more.clear()
            await self._more.wait()
