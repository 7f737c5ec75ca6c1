"""The real `AsyncAgent`, many of them in one process: they share one loop, few threads, one disk."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fl_main.agent import AsyncAgent, connection
from fl_main.agent.connection import Outside
from fl_main.disk import REAL_DISK
from fl_main.links import WebSocketLink, dial
from fl_main.ports import Ports

T = TypeVar("T")


class SharedNetwork:
    """Beside the program, in the same loop; see `fl_main.agent.connection.Network`.

    Attributes:
        link: The agent's last connection.
    """

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.link: WebSocketLink | None = None
        self._url = url
        self._loop = loop
        self._started: set[Future[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """See `Network`."""
        started = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._started.add(started)
        started.add_done_callback(self._started.discard)
        return started

    def stop(self) -> None:
        """See `Network`."""
        for future in list(self._started):
            future.cancel()

    async def dial(self) -> WebSocketLink:
        """Open a link."""
        self.link = await dial(self._url)
        return self.link

    def cut(self) -> None:
        """Break the connection without a word."""
        if self.link is not None:
            self.link._connection.transport.abort()


class SoakAgent(AsyncAgent):
    """An `AsyncAgent` that shares its outside with others, and can crash.

    Attributes:
        threads: For the files of all agents.
    """

    threads: ThreadPoolExecutor

    def prepare(self, threads: ThreadPoolExecutor) -> "SoakAgent":
        """Take what is shared; to be called in the loop."""
        self.threads = threads
        self._network = SharedNetwork(self._options.url, asyncio.get_running_loop())
        self._busy: set[Future[Any]] = set()
        return self

    def cut(self) -> None:
        """Break the connection; the agent comes back by itself."""
        self._network.cut()

    async def crash(self) -> None:
        """End as a process does that is killed: without a goodbye, what is on the disk stays."""
        self._network.cut()
        self._network.stop()
        await self.settle()
        if self._connection is not None:
            connection._OPEN.pop(self._connection.folder.path, None)  # nobody is there to be replaced
            self._connection.end()

    async def settle(self) -> None:
        """Wait until what was about to be written is written: a thread cannot be killed."""
        await asyncio.gather(*map(asyncio.wrap_future, list(self._busy)), return_exceptions=True)

    def _make_outside(self) -> Outside:
        ports = Ports(
            time.time,
            time.monotonic,
            self._run_in_thread,
            self._run_in_thread,
            lambda: uuid.uuid4().hex,
            random.random,
        )
        return Outside(ports, REAL_DISK, self._network, self._network.dial, lambda: None)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._run_in_thread(function)

    def _run_in_thread(self, function: Callable[..., T], /, *args: Any) -> "asyncio.Future[T]":
        work = self.threads.submit(function, *args)
        self._busy.add(work)
        work.add_done_callback(self._busy.discard)
        return asyncio.wrap_future(work)
