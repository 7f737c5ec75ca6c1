"""A connection that came in, as the WebSocket library sees it and as the gate sees it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import CloseCode, Frame
from websockets.protocol import CONNECTING, OPEN, Event
from websockets.server import ServerProtocol

from fl_main.gate import Gate
from fl_main.links import CLOSE_S, WebSocketLink, short
from fl_main.messages import MAX_FRAME_BYTES, Chunk
from fl_main.wire import Wire

from .pace import Pace

MAX_REQUEST_BYTES = 32 << 10  # of the HTTP request that opens a WebSocket
MAX_EARLY_FRAMES = 64  # of somebody who has not joined, and has one thing to say
SMALL_BYTES = 4 << 10  # what counts as a message and not as part of a transfer
MESSAGES_PER_S, MESSAGES_AT_ONCE = 1000.0, 2000  # of one connection; no agent has so much to say


class Guest(Wire, ServerConnection):
    """The accepting end of a link.

    Where frames are small and many, the rest waits, and the network is not read, until that many
    may have come: backpressure for this connection only, nothing is dropped.

    Args:
        protocol: What the bytes mean.
        server: Who serves it.
        gate: Who counts it.
        peer: Its address and port.
        network: Where it comes from, see `Gate`.

    Attributes:
        opening: Makes the connection of the socket; with TLS this takes a while.
        dropped: Why we hung up without waiting for it, if we did.
    """

    transport: asyncio.Transport

    def __init__(self, protocol: ServerProtocol, server: Server, gate: Gate, peer: str, network: str) -> None:
        super().__init__(
            protocol,
            server,
            ping_interval=None,  # liveness is ours: by bytes moved
            close_timeout=CLOSE_S,
        )
        self.peer = peer
        self.network = network
        self.opening: asyncio.Task[Any] | None = None
        self.dropped = ""
        self._gate = gate
        self._pace = Pace(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._frames = 0
        self._heard_too_late = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- reading --------------------------------------------------------------------------

    def arrive(self, number: int, data: bytes | memoryview | None) -> None:
        """Parse what comes, unless it comes too fast."""
        if self.protocol.eof_sent:
            self._heard_too_late += number
            if self._heard_too_late > MAX_FRAME_BYTES:  # more than was on its way when we said our last word
                self.transport.abort()
        super().arrive(number, data)
        if self.request is None:
            self._require_short_request()
        if self._frames > MAX_EARLY_FRAMES and self._gate.is_stranger(self):
            self.drop("it says too much before it has joined")
        self.account()

    def may_parse(self) -> bool:
        """Whether it neither says too much at once nor is about to end."""
        return super().may_parse() and self._timer is None and not self.transport.is_closing()

    def has_room_for(self, size: int) -> bool:
        """Whether it was told that it may send so much: memory is not taken on a stranger's word."""
        return size <= self._gate.credit(self)

    def process_event(self, event: Event) -> None:
        """Count a frame, then go on."""
        if isinstance(event, Frame):
            self.count_frame(len(event.data))
        else:
            self._require_short_request()
        super().process_event(event)

    def count_frame(self, size: int) -> None:
        """Let the rest wait where small frames are too many."""
        self._frames += 1
        if size < SMALL_BYTES:
            now = self.loop.time()
            self._pace.wait_s(now)
            self._rest(self._pace.ahead_s(now))

    def _rest(self, wait_s: float) -> None:
        """Read nothing for a while."""
        if wait_s and self._timer is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._timer = self.loop.call_later(wait_s, self._rested)

    def _rested(self) -> None:
        self._timer = None
        self.go_on()
        self.account()

    def _require_short_request(self) -> None:
        if self.bytes_received > MAX_REQUEST_BYTES:
            self.drop(f"a request of more than {MAX_REQUEST_BYTES} bytes")

    async def next(self) -> bytes | str | Chunk:
        """Return the next message, and count that it waits no more."""
        item = await super().next()
        self.account()
        return item

    # --- life -----------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._gate.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def send_data(self) -> None:
        """Write, and count what the network does not take yet."""
        super().send_data()
        self.account()

    def wrote(self) -> None:
        """Count what the network does not take yet."""
        self.account()

    def resume_writing(self) -> None:
        """Count once more, now that the network took some."""
        super().resume_writing()
        self.account()

    def forget_headers(self) -> None:
        """Let go what the handshake said: a thousand of them stay in memory."""
        for said in (self.request, self.response):
            if said is not None:
                said.headers.clear()

    def account(self) -> None:
        """Tell the gate how many bytes wait here."""
        headers = 0 if self.request else self.bytes_received  # parsed, not yet complete
        self._gate.account(self, self.waiting_bytes + headers + self.transport.get_write_buffer_size())

    def drop(self, reason: str) -> None:
        """Hang up soon; whoever can be told is told why."""
        self.dropped = reason
        self._gate.leave(self)
        self.loop.call_soon(self._hang_up, reason)

    def _hang_up(self, reason: str) -> None:
        if self.opening is not None:
            self.opening.cancel()
        if not hasattr(self, "transport") or self.transport.is_closing():
            return
        if self.protocol.state is OPEN:
            self.protocol.fail(CloseCode.TRY_AGAIN_LATER, short(reason))
            self.send_data()
        elif self.protocol.state is CONNECTING and not self.protocol.eof_sent:  # else all was said
            refusal = self.protocol.reject(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
            self.protocol.send_response(refusal)
            self.send_data()
        self.transport.abort()


class ServedLink(WebSocketLink):
    """A `fl_main.ports.GuestLink` over a connection that came in."""

    def __init__(self, guest: Guest, gate: Gate) -> None:
        super().__init__(guest)
        self._guest = guest
        self._gate = gate

    @property
    def peer(self) -> str:
        """See `Link`."""
        return self._guest.peer

    def trust(self, credit: Callable[[], int]) -> None:
        """See `fl_main.ports.GuestLink`."""
        self._gate.trust(self._guest, credit)
