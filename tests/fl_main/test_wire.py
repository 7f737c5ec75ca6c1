"""Connections whose chunks go past the WebSocket library: whatever comes, the same arrives in order."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedError
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from fl_main.codec import HEAD_BYTES, chunk_head, frame_in, frame_of
from fl_main.links import DialledWire
from fl_main.messages import CHUNK_BYTES, MAX_CHUNK_BYTES, Chunk
from fl_main.ports import HEADROOM
from fl_main.slabs import Slabs
from fl_main.wire import DIRECT_BYTES, MEMORY, READ_QUEUE, Item, Wire, unmask, unmasked

TRANSFER = "sha256:" + "0" * 64


class ServedWire(Wire, ServerConnection):
    """The accepting end."""


class Transport(asyncio.Transport):
    """Keeps what is written; reading is up to the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_paused = self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Served:
    """A connection after its handshake, with the library's own client at the other end."""

    def __init__(self) -> None:
        class Server:
            handler_tasks: set[object] = set()  # noqa: RUF012

            async def handler(self, connection: ServerConnection) -> None: ...

            def is_serving(self) -> bool:
                return True

        self.transport = Transport()
        self.wire = ServedWire(ServerProtocol(max_size=4 << 20), Server(), ping_interval=None)
        self.client = ClientProtocol(parse_uri("ws://here/"))

    async def opened(self) -> "Served":
        self.wire.connection_made(self.transport)
        self.client.send_request(self.client.connect())
        self.feed(b"".join(self.client.data_to_send()))
        await self.wire.handshake()
        self.client.receive_data(bytes(self.transport.written))
        self.transport.written.clear()
        return self

    def frames(self, messages: list[bytes | str]) -> bytes:
        for message in messages:
            if isinstance(message, str):
                self.client.send_text(message.encode())
            else:
                self.client.send_binary(message)
        return b"".join(self.client.data_to_send())

    def feed(self, data: bytes, sizes: list[int] | None = None, *, plainly: bool = False) -> None:
        """Let bytes come, so many at a time; `plainly`: as from a loop that reads to memory of its own."""
        place, sizes = 0, list(sizes or [])
        while plainly and place < len(data):
            number = sizes.pop(0) if sizes else len(data)
            self.wire.data_received(data[place : place + number])
            place += number
        while place < len(data):
            room = self.wire.get_buffer(-1)
            number = min(len(room), len(data) - place, sizes.pop(0) if sizes else len(data))
            room[:number] = data[place : place + number]
            self.wire.buffer_updated(number)
            place += number

    async def arrived(self, number: int) -> list[Item]:
        async with asyncio.timeout(10):
            return [await self.wire.next() for _ in range(number)]


def play(story: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await story(await Served().opened())

    asyncio.run(main())


def as_frame(item: Item) -> bytes | str:
    if isinstance(item, Chunk):
        if item.packed:
            return bytes(frame_of(item)[HEADROOM:])
        return chunk_head(item.transfer, item.offset, len(item.data)) + bytes(item.data)
    return item


def chunk(size: int, offset: int = 8) -> bytes:
    return chunk_head(TRANSFER, offset, size) + os.urandom(size)


def packed_chunk(size: int) -> bytes:
    chunk = Chunk(transfer=TRANSFER, offset=8, packed="zstd", size=200_000, width=4, data=os.urandom(size))
    return bytes(frame_of(chunk)[HEADROOM:])


MESSAGES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=20),
    st.sampled_from([0, 1, DIRECT_BYTES - 200, DIRECT_BYTES, 5001, 70_000]).map(chunk),
    st.sampled_from([1, DIRECT_BYTES, 5001, 70_000]).map(packed_chunk),
    st.sampled_from([DIRECT_BYTES, 70_000]).map(os.urandom),
)


@settings(deadline=None, max_examples=150)
@given(
    messages=st.lists(MESSAGES, max_size=8),
    sizes=st.lists(st.integers(1, 20_000), max_size=40),
    plainly=st.booleans(),
)
def test_whatever_the_network_cuts_the_same_messages_arrive_in_order(
    messages: list[bytes | str], sizes: list[int], plainly: bool
) -> None:
    async def story(served: Served) -> None:
        served.feed(served.frames(messages), sizes, plainly=plainly)
        arrived = await served.arrived(len(messages))
        assert [as_frame(item) for item in arrived] == messages
        assert served.wire.waiting_bytes == 0

    play(story)


@pytest.mark.parametrize("frame", [chunk(CHUNK_BYTES), packed_chunk(150_000)])
def test_large_chunk_is_not_copied_on_its_way(frame: bytes) -> None:
    async def story(served: Served) -> None:
        served.feed(served.frames([frame]))
        [item] = await served.arrived(1)
        assert isinstance(item, Chunk)
        assert isinstance(item.data, memoryview)
        assert as_frame(item) == frame

    play(story)


def test_memory_of_a_chunk_is_used_again_when_nobody_has_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MEMORY, "slabs", Slabs())  # what other tests left is free, too

    async def story(served: Served) -> None:
        kept: list[Item] = []
        for number in range(4):
            served.feed(served.frames([chunk(CHUNK_BYTES, 8 * number)]))
            kept += await served.arrived(1)
        assert len({id(item.data.obj) for item in kept if isinstance(item, Chunk)}) == 4  # type: ignore[attr-defined]
        before = {id(item.data.obj) for item in kept if isinstance(item, Chunk)}  # type: ignore[attr-defined]
        kept.clear()
        served.feed(served.frames([chunk(CHUNK_BYTES)]))
        [item] = await served.arrived(1)
        assert isinstance(item, Chunk)
        assert id(item.data.obj) in before  # type: ignore[attr-defined]

    play(story)


@pytest.mark.parametrize(
    "frame",
    [
        chunk_head(TRANSFER, 8, 9000) + bytes(8000),
        chunk_head(TRANSFER, 8, 8000) + bytes(9000),
        chunk_head("x" * 5000, 8, 8000) + bytes(8000),
        chunk(MAX_CHUNK_BYTES + 8),
        b"\x84\xa4type\xa5chunk\xa8transfer\x01\xa6offset\x08\xa4data\xc5\x20\x00" + bytes(8192),
        b"\x84\xa4type\xa5chunk\xa8transfer\xa1x\xa6offset\xc3\xa4data\xc5\x20\x00" + bytes(8192),
        b"\x84\xa4type\xa5chunk" + b"\xc1" * 8192,
    ],
)
def test_what_is_not_a_chunk_in_order_is_left_to_those_who_say_what_is_wrong(frame: bytes) -> None:
    async def story(served: Served) -> None:
        served.feed(served.frames([frame, b"next"]))
        assert await served.arrived(2) == [frame, b"next"]

    play(story)


def test_message_in_several_frames_is_put_together() -> None:
    async def story(served: Served) -> None:
        whole = chunk(20_000)
        served.client.send_binary(whole[:10_000], fin=False)
        served.client.send_ping(b"between")
        served.client.send_continuation(whole[10_000:], fin=True)
        served.feed(b"".join(served.client.data_to_send()), [3, 4000])
        assert await served.arrived(1) == [whole]
        served.client.receive_data(bytes(served.transport.written))
        assert served.client.events_received()  # a pong

    play(story)


def test_reading_pauses_while_nobody_takes_what_came() -> None:
    async def story(served: Served) -> None:
        messages: list[bytes | str] = [b"%d" % number for number in range(3 * READ_QUEUE)]
        served.feed(served.frames(messages))
        assert served.transport.is_paused
        assert await served.arrived(len(messages)) == messages
        assert not served.transport.is_paused

    play(story)


def test_frame_that_breaks_the_protocol_ends_the_connection() -> None:
    async def story(served: Served) -> None:
        served.feed(b"\x82\x05unmasked")
        served.wire.connection_lost(None)
        with pytest.raises(ConnectionClosedError, match="1002"):
            await served.wire.next()

    play(story)


def test_frame_with_room_before_it_is_sent_as_any_other() -> None:
    async def story(served: Served) -> None:
        for size in (0, 100, 9000, 100_000):
            buffer = memoryview(bytearray(HEADROOM + HEAD_BYTES + size))
            framed, data = frame_in(buffer, TRANSFER, 8, size)
            data[:] = content = os.urandom(size)
            await served.wire.send_framed(framed)
            served.client.receive_data(bytes(served.transport.written))
            served.transport.written.clear()
            [frame] = served.client.events_received()[-1:]
            assert bytes(frame.data) == chunk_head(TRANSFER, 8, size) + content  # type: ignore[union-attr]

    play(story)


def test_messages_that_are_sent_together_are_sent_as_any_others() -> None:
    async def story(served: Served) -> None:
        messages = [os.urandom(size) for size in (0, 100, 125, 126, 9000, 70_000)]
        await served.wire.send_frames(messages)
        served.client.receive_data(bytes(served.transport.written))
        heard = [bytes(frame.data) for frame in served.client.events_received()[-len(messages) :]]  # type: ignore[union-attr]
        assert heard == messages

    play(story)


def test_dialling_end_masks_what_it_sends() -> None:
    async def story() -> None:
        wire, server = DialledWire(ClientProtocol(parse_uri("ws://here/"))), ServerProtocol()
        wire.connection_made(transport := Transport())
        wire.protocol.send_request(wire.protocol.connect())
        server.receive_data(b"".join(wire.protocol.data_to_send()))
        [request] = server.events_received()
        server.send_response(server.accept(request))  # type: ignore[arg-type]
        wire.data_received(b"".join(server.data_to_send()))
        await wire.send_frames(messages := [b"", b"first", os.urandom(5000)])
        server.receive_data(bytes(transport.written))
        assert b"first" not in transport.written
        assert [bytes(frame.data) for frame in server.events_received()] == messages  # type: ignore[union-attr]

    asyncio.run(story())


@given(data=st.binary(max_size=50), mask=st.binary(min_size=4, max_size=4), place=st.integers(0, 9))
def test_masking_is_that_of_the_protocol(data: bytes, mask: bytes, place: int) -> None:
    masked = bytearray(data)
    unmask(memoryview(masked), mask, place)
    assert bytes(masked) == bytes(byte ^ mask[(i + place) % 4] for i, byte in enumerate(data))
    assert unmasked(data, mask) == bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
