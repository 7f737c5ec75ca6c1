"""The web application on a real port, and what a browser or a program would ask of it."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from fl_main.db.web.serving import Server, bind
from fl_main.settings import TlsSettings


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """A server that runs."""

    server: Server
    port: int

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = self.connected()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        """Ask for JSON."""
        found = self.ask(path, **headers)
        assert found.status == status, (path, found.status, found.text)
        return found.json


@contextmanager
def serving(app: FastAPI, port: int = 0, tls: TlsSettings | None = None) -> Iterator[Page]:
    """Serve an application by a thread of its own, until the block ends."""
    listening = bind("127.0.0.1", port)
    up = threading.Event()
    server = Server(app, tls, up.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        assert up.wait(20)
        yield Page(server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
