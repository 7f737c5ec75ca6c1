"""Listening sockets: each connection passes the gate, and running out of descriptors is no accident."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

BACKLOG = 1024  # connections that wait in the system while we are busy
AT_ONCE = 16  # connections taken before the others have their turn
OUT_OF_ROOM_S = 0.5  # to wait where the system has none left
SAY_EVERY_S = 60.0


class Acceptor:
    """What libraries take for an `asyncio.Server`, but connections pass one by one.

    Args:
        connect: Makes a connection of an accepted socket and its address; it ends once that is open.
        on_full: Called when the system has no descriptor or memory left for another connection.
        logger: Who is told so.
    """

    def __init__(
        self,
        connect: Callable[[socket.socket, Any], None],
        on_full: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._connect = connect
        self._on_full = on_full
        self._logger = logger
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
            addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
            sockets = [opened.enter_context(_listening(*address)) for address in addresses]
            opened.pop_all()
        self.listen(sockets)

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept what comes to sockets that listen; they are closed with it."""
        self.sockets = tuple(sockets)
        for listening in self.sockets:
            listening.setblocking(False)
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
            self._logger.warning("no more connections at the moment: %s; see ulimit -n", error.strerror)

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
        if os.name != "nt":  # there it means something else
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
