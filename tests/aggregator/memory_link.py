"""Links in memory: what one end sends, the other receives; and ports that need no threads."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fl_main.messages import Message
from fl_main.ports import HEADROOM, LinkClosedError, Ports
from fl_main.session import Session

T = TypeVar("T")
PATIENCE_S = 10.0


class MemoryLink:
    """One end of a link in memory; see `fl_main.ports.Link`.

    Attributes:
        closed: The code and reason with which either end closed it.
    """

    def __init__(self) -> None:
        self.bytes_received = 0
        self.peer = "memory"
        self.is_trusted = False
        self.closed: tuple[int, str] | None = None
        self.other: MemoryLink
        self._frames: asyncio.Queue[bytes | str | None] = asyncio.Queue()

    async def send(self, *frames: bytes | str) -> None:
        for frame in frames:
            if self.closed:
                raise LinkClosedError(*self.closed)
            self.other.bytes_received += len(frame)
            self.other._frames.put_nowait(frame)
        await asyncio.sleep(0)

    async def send_framed(self, framed: memoryview) -> None:
        await self.send(bytes(framed[HEADROOM:]))

    async def receive(self) -> bytes | str:
        frame = await self._frames.get()
        if frame is None:
            self._frames.put_nowait(None)
            raise LinkClosedError(*(self.closed or (1006, "")))
        return frame

    def trust(self, credit: Callable[[], int]) -> None:
        """See `fl_main.ports.GuestLink`."""
        self.is_trusted = True

    async def close(self, code: int = 1000, reason: str = "") -> None:
        for end in (self, self.other):
            if end.closed is None:
                end.closed = (code, reason)
                end._frames.put_nowait(None)


def link_pair() -> tuple[MemoryLink, MemoryLink]:
    first, second = MemoryLink(), MemoryLink()
    first.other, second.other = second, first
    return first, second


class Talker:
    """A peer at the end of a link that says and hears one message at a time."""

    def __init__(self, link: MemoryLink, session: Session) -> None:
        self.link = link
        self.session = session

    async def say(self, message: Message) -> None:
        await self.link.send(self.session.send(message))

    async def hear(self, kind: type[T]) -> T:
        """Return the next message of a kind; others are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = self.session.receive(await self.link.receive())
                if isinstance(message, kind):
                    return message


def ports() -> Ports:
    """Real clocks; work for threads is done at once."""
    numbers = itertools.count()

    async def run(function: Callable[..., T], /, *args: Any) -> T:
        await asyncio.sleep(0)
        return function(*args)

    return Ports(time.time, time.monotonic, run, run, lambda: f"{next(numbers):032x}", lambda: 0.5)
