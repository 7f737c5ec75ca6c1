"""A connection of the page, as uvicorn sees it and as the gate sees it."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fl_main.gate import Gate

HANDSHAKE_S = 15.0  # that a TLS handshake may take


class Visitor(H11Protocol):
    """A connection that is a stranger to the gate while no answer to it is under way.

    So browsers, which keep connections open and ask over them again, never hold places that others
    need: whoever asked last goes last.

    Args:
        gate: Who counts it, from its first packet on.
        network: Where it comes from, see `Gate`.
        facts: What uvicorn gives to each connection.
    """

    def __init__(self, gate: Gate, network: str, **facts: Any) -> None:
        super().__init__(**facts)
        self.network = network
        self._gate = gate
        self._opening: asyncio.Task[None] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether a request came, and its answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr] # at first None

    def open(self, accepted: socket.socket) -> None:
        """Let it in, and begin its TLS handshake, if there is to be one."""
        self._gate.enter(self)
        self._opening = asyncio.create_task(self._open(accepted))
        self._opening.add_done_callback(lambda opened: self._opened(accepted, opened))

    async def _open(self, accepted: socket.socket) -> None:
        tls = self.config.ssl
        await self.loop.connect_accepted_socket(
            lambda: self, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
        )

    def _opened(self, accepted: socket.socket, opened: "asyncio.Task[None]") -> None:
        """Forget a connection that did not get as far as HTTP: it hung up, speaks no TLS, or had to go."""
        self._opening = None
        if opened.cancelled() or opened.exception() is not None:
            self._gate.leave(self)
            accepted.close()

    def handle_events(self) -> None:
        """Take what came; from a request on it is no stranger."""
        super().handle_events()
        if self.is_answered:
            self._gate.trust(self, lambda: 0)

    def on_response_complete(self) -> None:
        """Take it for a stranger again: the one that came last."""
        self._gate.leave(self)
        self._gate.enter(self)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._gate.leave(self)
        super().connection_lost(exc)

    def drop(self, reason: str) -> None:
        """Hang up: it asks for nothing, and need not be told."""
        if self._opening is not None:
            self._opening.cancel()
        if self.transport is not None:
            self.transport.abort()  # not `close`, which waits for those who do not read
