"""What the shells are handed instead of reaching for it: clocks, threads, links, chance.

The real ones are made in the composition roots; a simulator hands in its own, so that the
real agent and aggregator run in virtual time.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fl_main.errors import FLError

T = TypeVar("T")


class LinkClosedError(FLError):
    """The other end, or the network, ended a link.

    Attributes:
        code: The WebSocket close code, 1006 if there was none.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"connection closed ({code})")
        self.code = code


class Link(Protocol):
    """One connection that carries whole frames in order."""

    @property
    def bytes_received(self) -> int:
        """All bytes that came so far, also of frames that are not complete."""

    @property
    def peer(self) -> str:
        """The other end's address, for logs."""

    async def send(self, frame: bytes) -> None:
        """Send a frame; waits while the other end is slow.

        Raises:
            LinkClosedError: If the link is closed.
        """

    async def receive(self) -> bytes | str:
        """Return the next frame (text is for the caller to refuse).

        Raises:
            LinkClosedError: If the link is closed.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, now or at once if the other end does not answer; may be called twice."""


class RunInThread(Protocol):
    """Runs a blocking function without holding up the event loop."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return the function's result."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything from outside that a shell needs.

    Attributes:
        wall_time: Unix seconds, UTC: a label, never used to measure.
        monotonic: Seconds that never go back.
        run_in_thread: For file and digest work, many at once.
        run_in_writer: For the database, one at a time and in order.
        new_id: A fresh identifier that nobody can guess.
    """

    wall_time: Callable[[], float]
    monotonic: Callable[[], float]
    run_in_thread: RunInThread
    run_in_writer: RunInThread
    new_id: Callable[[], str]
