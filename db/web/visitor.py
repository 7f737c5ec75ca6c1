"""A connection of the page, as uvicorn sees it and as the gate sees it."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fl_main.gate import Gate
from fl_main.tally import network_of


class Visitor(H11Protocol):
    """A connection that is a stranger to the gate while no answer to it is under way.

    So browsers, which keep connections open and ask over them again, never hold places that others
    need: whoever asked last goes last.

    Args:
        gate: Who counts it.
        facts: What uvicorn gives to each connection.

    Attributes:
        network: Where it comes from, see `Gate`.
    """

    def __init__(self, gate: Gate, **facts: Any) -> None:
        super().__init__(**facts)
        self.network = ""
        self._gate = gate

    @property
    def is_answered(self) -> bool:
        """Whether a request came, and its answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr] # at first None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in."""
        super().connection_made(transport)
        if self.client is not None:
            self.network = network_of(f"{self.client[0]}:{self.client[1]}")
        self._gate.enter(self)

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
        self.transport.abort()  # not `close`, which waits for those who do not read
