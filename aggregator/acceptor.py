"""Listening sockets: each connection passes the gate, and running out of descriptors is no accident."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

try:
    import resource
except ImportError:  # Windows knows no such limit
    resource = None  # type: ignore[assignment]

logger = logging.getLogger("fl_main.aggregator")

RESERVED_FILES = 256  # descriptors for the database, models, logs and what is being closed
BACKLOG = 1024  # connections that wait in the system while we are busy
AT_ONCE = 16  # connections taken before the others have their turn
OUT_OF_ROOM_S = 0.5  # to wait where the system has none left
SAY_EVERY_S = 60.0
MACOS_MAX = 10_240  # where no limit is set, more than this is refused all the same


class Acceptor:
    """What the WebSocket library takes for an `asyncio.Server`, but connections pass one by one.

    Args:
        connect: Makes a connection of an accepted socket and its address; it ends once that is open.
        on_full: Called when the system has no descriptor or memory left for another connection.
    """

    def __init__(self, connect: Callable[[socket.socket, Any], None], on_full: Callable[[], None]) -> None:
        self._connect = connect
        self._on_full = on_full
        self._accepting: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._silent_until = 0.0
        self.sockets: tuple[socket.socket, ...] = ()

    async def bind(self, host: str, port: int) -> None:
        """Listen on every address of a host.

        Raises:
            OSError: If one of them cannot be used.
        """
        found = await self._loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with ExitStack() as opened:
            for family, _, _, _, address in dict.fromkeys(found):
                self.sockets += (opened.enter_context(_listening(family, address)),)
            opened.pop_all()
        self._accepting = [asyncio.create_task(self._accept(listening)) for listening in self.sockets]

    async def _accept(self, listening: socket.socket) -> None:
        try:
            while True:
                for _ in range(AT_ONCE):
                    await self._take(listening)
                await asyncio.sleep(0)
        finally:
            listening.close()

    async def _take(self, listening: socket.socket) -> None:
        try:
            self._connect(*await self._loop.sock_accept(listening))
        except ConnectionAbortedError:
            pass  # it did not wait for us
        except OSError as error:
            self._say_full(error)
            self._on_full()
            await asyncio.sleep(OUT_OF_ROOM_S)

    def _say_full(self, error: OSError) -> None:
        """Say that there is no room, once a minute however long it lasts."""
        if self._loop.time() >= self._silent_until:
            self._silent_until = self._loop.time() + SAY_EVERY_S
            logger.warning("no more connections at the moment: %s; see limits.agents", error.strerror)

    def close(self) -> None:
        """Accept nothing more; connections stay. May be called twice."""
        for task in self._accepting:
            task.cancel()

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return any(not task.done() and not task.cancelling() for task in self._accepting)

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more."""
        await asyncio.gather(*self._accepting, return_exceptions=True)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop


def _listening(family: int, address: Any) -> socket.socket:
    # Named TCP, for asyncio lets only such connections send small messages at once (TCP_NODELAY).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setblocking(False)
        if hasattr(socket, "SO_REUSEADDR") and resource is not None:  # on Windows it means something else
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def room_for(connections: int) -> int:
    """Let this process have as many descriptors as it may, and return how many connections that allows.

    Args:
        connections: How many the settings allow; if there cannot be so many, the log says so.
    """
    if resource is None:
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MACOS_MAX):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft - RESERVED_FILES >= connections:
        return connections
    logger.warning(
        "the system allows %d open files, too few for limits.agents and limits.strangers (%d); "
        "raise it (ulimit -n, LimitNOFILE of systemd) or lower limits.agents",
        soft,
        connections,
    )
    return max(soft - RESERVED_FILES, soft // 2)
