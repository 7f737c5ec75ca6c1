"""One server for the page: where it listens, and how it ends."""

import asyncio
import socket
import threading

import uvicorn
from fastapi import FastAPI

from fl_main.errors import SettingsError

MAX_CONNECTIONS = 300  # more are told to come again
END_S = 1  # how long answers that are under way may take once the server is told to stop


class Server(uvicorn.Server):
    """Serves the application until it is told to stop; then whoever listens to what moves is let go.

    uvicorn waits for open answers before it tells an application that it ends, and an event stream
    is an answer that does not end by itself.

    Args:
        app: What `create_app` made.
        certificate: PEM file with the certificate chain, for TLS; `key`: with its private key.

    Attributes:
        is_up: Set once it answers.
    """

    def __init__(self, app: FastAPI, *, certificate: str | None = None, key: str | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ssl_certfile=certificate,
                ssl_keyfile=key,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=END_S,
                ws="none",
            )
        )
        self.is_up = threading.Event()
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in order."""
        self._app.state.changes.close()
        await asyncio.sleep(0)  # they say their last word
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingsError: If the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
