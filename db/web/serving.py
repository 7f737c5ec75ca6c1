"""One server for the page: where it listens, what it tells, and how it ends."""

import asyncio
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from fl_main.acceptor import Acceptor
from fl_main.certificates import server_context
from fl_main.errors import SettingsError
from fl_main.gate import Gate
from fl_main.settings import TlsSettings, WebSettings
from fl_main.settings.files import is_loopback, read_secret
from fl_main.tally import network_of

from .access import Access
from .app import create_app
from .visitor import Visitor

logger = logging.getLogger("fl_main.db.web")

MAX_CONNECTIONS = 300  # more are told to come again
MAX_SILENT = 100  # that ask for nothing: when another one comes, the oldest goes
SILENCE_S = 15.0  # after which a connection is closed that asks for nothing
END_S = 0.5  # how long answers that are under way may take once the server is told to stop
INTERRUPTED = 130


class Server(uvicorn.Server):
    """Serves the application until it is told to stop; then whoever listens to what moves is let go.

    uvicorn waits for open answers before it tells an application that it ends, and an event stream
    is an answer that does not end by itself.

    Args:
        app: What `create_app` made.
        tls: Encryption, if any.
        told: Is called once it answers.

    Attributes:
        silence_s: After which a connection is closed that asks for nothing.

    Raises:
        SettingsError: If certificate or key cannot be used.
    """

    def __init__(self, app: FastAPI, tls: TlsSettings | None, told: Callable[[], object]) -> None:
        config = uvicorn.Config(
            app,
            http="h11",  # the same bounds on what strangers send, whatever else is installed
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            ws="none",
        )
        config.load()
        config.ssl = None if tls is None else server_context(tls, "tls")
        super().__init__(config)
        self.silence_s = SILENCE_S
        self.app = app
        self._told = told
        # Whoever asks where there is no room is told so by uvicorn: not the gate's business.
        self._gate = Gate(MAX_SILENT, MAX_CONNECTIONS + MAX_SILENT, 0)
        self._silent: dict[Visitor, float] = {}  # and since when

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup([])  # but for listening: the gate knows each connection from the first packet
        acceptor = Acceptor(self._connect, self._gate.make_room, logger)
        acceptor.listen(sockets or [])
        self.servers = [acceptor]  # type: ignore[list-item] # it has what is asked of them
        self._told()

    def _connect(self, accepted: socket.socket, address: Any) -> None:
        network = network_of(f"{address[0]}:{address[1]}")
        facts = {"server_state": self.server_state, "app_state": self.lifespan.state}
        Visitor(self._gate, network, config=self.config, **facts).open(accepted)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order; answers that take too long are left as they are."""
        self.app.state.changes.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await super().shutdown()  # the sockets are the acceptor's

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second: here once a second."""
        if counter % 10 == 0:
            self._drop_silent(time.monotonic())
        return await super().on_tick(counter)

    def _drop_silent(self, now: float) -> None:
        """Close connections that ask for nothing, or never to the end: each takes a place."""
        visitors = cast("set[Visitor]", self.server_state.connections)
        silent = {found for found in visitors if not found.is_answered}
        self._silent = {found: self._silent.get(found, now) for found in silent}
        for connection, since in self._silent.items():
            if now - since > self.silence_s:
                connection.drop("it asks for nothing")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order at the first signal, at once at the second; uvicorn would raise it once more."""
        if self.should_exit:
            os._exit(INTERRUPTED)
        self.should_exit = True


def bind(host: str, port: int, options: str = "--host or --port") -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Name or address of this machine.
        port: 0 for a free one.
        options: Where its operator chose the place, for errors.

    Raises:
        SettingsError: If the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SettingsError(
            f"cannot listen on {host}:{port}: {reason}; choose another {options} (0 takes a free one)"
        ) from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is.

    Attributes:
        url: Its address.
        token: What has to be shown there; empty: nothing.
        is_made: Whether nobody knows the token yet but who is told now.
    """

    url: str
    token: str
    is_made: bool

    @property
    def link(self) -> str:
        """The address to open: with the token where it was made just now."""
        return f"{self.url}?token={self.token}" if self.is_made else self.url


def serve(
    folder: Path, settings: WebSettings, told: Callable[[Place], None], *, beside: bool = False
) -> None:
    """Serve the page over a database until a signal comes, and end the process.

    Args:
        folder: Of the database.
        settings: Where it listens, and who may look.
        told: Is called once it answers.
        beside: Whether a daemon started it: then it also ends when the standard input ends, as it does
            when the process dies that holds its other end.

    Raises:
        SettingsError: If it cannot listen there.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # strangers' nonsense is a warning to it
    token, is_made = _token(settings)
    root = settings.root_path.rstrip("/")
    app = create_app(folder, root_path=root, access=Access(token, is_encrypted=settings.tls is not None))
    options = "--web HOST:PORT, web.host or web.port" if beside else "--host or --port"
    with bind(settings.host, settings.port, options) as listening:
        place = Place(_url(settings, listening.getsockname()[1], root), token, is_made)
        server = Server(app, settings.tls, lambda: told(place))
        if beside:
            threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
        asyncio.run(_serve(server, listening))


async def _serve(server: Server, listening: socket.socket) -> None:
    await server.serve([listening])
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads: nobody asks any more for what they find


def _end_with_input(server: Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


def _token(settings: WebSettings) -> tuple[str, bool]:
    """Return the token that visitors must know, and whether it was made now."""
    if settings.token is not None:
        return read_secret(settings.token, "token"), False
    return ("", False) if is_loopback(settings.host) else (secrets.token_urlsafe(32), True)


def _url(settings: WebSettings, port: int, root: str) -> str:
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{own}]" if ":" in own else own
    return f"{'https' if settings.tls else 'http'}://{host}:{port}{root}/"
