"""Listening: who is let in, and when there is no room."""

import asyncio
import errno
import logging
import socket
from typing import Any

import pytest

from fl_main import acceptor
from fl_main.acceptor import Acceptor

LOGGER = logging.getLogger("test")


def test_connections_are_taken_until_it_is_closed() -> None:
    async def story() -> None:
        taken: list[socket.socket] = []
        accepting = Acceptor(lambda accepted, address: taken.append(accepted), lambda: None, LOGGER)
        await accepting.bind("127.0.0.1", 0)
        assert accepting.is_serving()
        place = accepting.sockets[0].getsockname()
        clients = [socket.create_connection(place) for _ in range(40)]
        while len(taken) < 40:  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.001)
        accepting.close()
        accepting.close()
        await accepting.wait_closed()
        assert not accepting.is_serving()
        for link in [*clients, *taken]:
            link.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_small_messages_are_sent_at_once() -> None:
    """With Nagle's algorithm a round takes tens of milliseconds more."""

    async def story() -> None:
        delays: asyncio.Queue[int] = asyncio.Queue()

        async def connect(accepted: socket.socket) -> None:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
            made = transport.get_extra_info("socket")
            delays.put_nowait(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

        made: list[asyncio.Task[None]] = []
        accepting = Acceptor(
            lambda accepted, address: made.append(asyncio.create_task(connect(accepted))),
            lambda: None,
            LOGGER,
        )
        await accepting.bind("127.0.0.1", 0)
        with socket.create_connection(accepting.sockets[0].getsockname()):
            assert await delays.get() != 0
        accepting.close()
        await accepting.wait_closed()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_address_that_is_taken_leaves_nothing_open() -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            accepting = Acceptor(lambda accepted, address: None, lambda: None, LOGGER)
            with pytest.raises(OSError, match="in use"):
                await accepting.bind("127.0.0.1", other.getsockname()[1])
            assert not accepting.is_serving()

    asyncio.run(story())


def test_system_without_descriptors_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "OUT_OF_ROOM_S", 0.0)

    async def story() -> None:
        taken = asyncio.Event()
        asked: list[str] = []

        def connect(accepted: socket.socket, address: Any) -> None:
            accepted.close()
            taken.set()

        accepting = Acceptor(connect, lambda: asked.append("full"), LOGGER)
        loop = asyncio.get_running_loop()
        real, failures = loop.sock_accept, [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]

        async def accept(listening: socket.socket) -> Any:
            if failures:
                raise OSError(failures.pop(0), "no")
            return await real(listening)

        monkeypatch.setattr(loop, "sock_accept", accept)
        await accepting.bind("127.0.0.1", 0)
        with socket.create_connection(accepting.sockets[0].getsockname()):
            await taken.wait()
        assert asked == ["full", "full"]
        accepting.close()
        await accepting.wait_closed()

    asyncio.run(asyncio.wait_for(story(), 20))
