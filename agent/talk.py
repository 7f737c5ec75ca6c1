"""What an agent says to its aggregator: on the connection that is there, or on the next one."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from fl_main.messages import Message, Ping
from fl_main.ports import Link, LinkClosedError, Ports
from fl_main.session import Liveness, Session, State

from .visits import LOOKS

logger = logging.getLogger("fl_main.agent")


class Talk:
    """The connection of an agent, while it is joined on one, and what is under way on it.

    Args:
        ports: Clocks.
        on_done: Called when something that was under way has ended, with its error if it failed.

    Attributes:
        link: The connection; None between two.
        session: What may be said on it; None between two.
    """

    def __init__(self, ports: Ports, on_done: Callable[[BaseException | None], None]) -> None:
        self.link: Link | None = None
        self.session: Session | None = None
        self._ports = ports
        self._on_done = on_done
        self._unsent: deque[Message] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether something is under way, or still to be said."""
        return bool(self._tasks or self._unsent)

    @property
    def packing(self) -> str | None:
        """How chunks are packed where that pays, if that was agreed."""
        return self.session.packing if self.session else None

    def begin(self, link: Link, session: Session) -> None:
        """The agent has joined on a new connection; `say_unsent` must follow."""
        self.link, self.session = link, session

    def end(self) -> None:
        """What is said from here on is for the next connection."""
        self.link = self.session = None

    async def say(self, message: Message) -> None:
        """Send a message if there is a connection; what must not be lost is said again later."""
        if self.link is None or self.session is None:
            return
        try:
            await self.link.send(self.session.send(message))
        except LinkClosedError:
            logger.debug("could not send %s", message.type)

    def queue(self, message: Message) -> None:
        """Send a message now, or on the next connection."""
        if self.link is None:
            self._unsent.append(message)
        else:
            self.spawn(self.say(message))

    async def say_unsent(self) -> None:
        """Send what was to be sent while there was no connection."""
        for message in list(self._unsent):
            await self.say(message)
        self._unsent.clear()

    async def send_framed(self, framed: memoryview) -> None:
        """Send a frame that has room before it.

        Raises:
            LinkClosedError: If there is no connection.
        """
        if self.link is None:
            raise LinkClosedError(1006, "connection lost")
        await self.link.send_framed(framed)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let something be under way beside what is received."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self.done)
        return task

    def done(self, task: asyncio.Task[None]) -> None:
        """Take the end of a task."""
        self._tasks.discard(task)
        self._on_done(None if task.cancelled() else task.exception())

    async def watch(self, link: Link, session: Session, interval_s: float) -> None:
        """End a connection, joined or not yet, that dies without a word."""
        ports, liveness = self._ports, Liveness(interval_s, 3 * interval_s)
        while True:
            state = liveness.look(
                link.bytes_received,
                ports.monotonic(),
                said=session.messages_sent,
                wall_time=ports.wall_time(),
            )
            if state == "ask":
                self.spawn(_ping(link, session))  # a link that takes nothing must not hold up the watch
            elif state == "gone":
                await link.close(1001, "no sign of life")
                return
            await asyncio.sleep(interval_s / LOOKS)


async def _ping(link: Link, session: Session) -> None:
    with contextlib.suppress(LinkClosedError):
        if session.state is not State.CLOSED:
            await link.send(session.send(Ping()))
