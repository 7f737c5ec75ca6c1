"""The daemon's one port: WebSockets for agents and operators, and its health over plain HTTP."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from fl_main.acceptor import Acceptor
from fl_main.certificates import server_context
from fl_main.errors import SettingsError
from fl_main.gate import Gate
from fl_main.links import CLOSE_S
from fl_main.messages import MAX_FRAME_BYTES, SUBPROTOCOL
from fl_main.ports import GuestLink
from fl_main.printable import first_line
from fl_main.settings import AggregatorSettings
from fl_main.tally import Tally, is_told, network_of

from .descriptors import room_for
from .door import SOFTWARE
from .downloads import SEND_BYTES
from .guest import Guest, ServedLink

logger = logging.getLogger("fl_main.aggregator")


class WebSocketListener:
    """A `fl_main.ports.Listener` on a TCP port.

    Args:
        settings: Where to listen, with which certificate, and what to take at most.
    """

    def __init__(self, settings: AggregatorSettings) -> None:
        self._settings = settings
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where agents reach it."""
        listen = self._settings.listen
        scheme = "wss" if self._settings.tls else "ws"
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        return f"{scheme}://{host}:{self.port}{listen.path.rstrip('/')}"

    @property
    def port(self) -> int:
        """The TCP port, also where the settings left the choice to the system."""
        if self._server is None:
            return self._settings.listen.port
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def start(self, serve: Callable[[GuestLink], Awaitable[None]], trouble: Callable[[], str]) -> None:
        """Accept connections; see `Listener`.

        Raises:
            SettingsError: If the port, address or certificate cannot be used.
        """
        limits = self._settings.limits
        self._serve = serve
        self._trouble = trouble
        tls = self._settings.tls
        self._context = None if tls is None else server_context(tls, "tls")
        self._logger = _quiet_logger()
        self._gate = Gate(
            limits.strangers,
            room_for(limits.agents + limits.strangers),
            limits.receive_bytes + 2 * SEND_BYTES,
        )
        self._refused = Tally(time.monotonic)
        server = Server(self._listen, self._attend, self._logger)  # type: ignore[arg-type]
        self._server = await server

    def stop_accepting(self) -> None:
        """See `Listener`."""
        if self._server is not None:
            self._server.close(close_connections=False)

    async def close(self) -> None:
        """See `Listener`."""
        if self._server is not None:
            self._server.close()
            self._gate.close("the aggregator is stopping")
            await self._server.wait_closed()
            self._server = None

    async def _listen(self) -> Acceptor:
        listen = self._settings.listen
        acceptor = Acceptor(self._connect, self._gate.make_room, logger)
        try:
            await acceptor.bind(listen.host, listen.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"cannot listen on {listen.host}:{listen.port}: {reason}; "
                "choose another listen.host or listen.port (0 takes a free one)"
            ) from error
        return acceptor

    # --- connections ----------------------------------------------------------------------

    def _connect(self, accepted: socket.socket, address: Any) -> None:
        """Let an accepted connection pass the gate, and begin its handshakes."""
        assert self._server is not None
        peer = f"{address[0]}:{address[1]}"
        guest = Guest(self._protocol(), self._server, self._gate, peer, network_of(peer))
        self._gate.enter(guest)
        guest.opening = asyncio.create_task(self._open(guest, accepted))
        guest.opening.add_done_callback(lambda opened: self._opened(guest, accepted, opened))

    def _protocol(self) -> ServerProtocol:
        return ServerProtocol(
            origins=[None, *(Origin(origin) for origin in self._settings.listen.origins)],
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=MAX_FRAME_BYTES,
            logger=self._logger,
        )

    async def _open(self, guest: Guest, accepted: socket.socket) -> None:
        has_tls, join_s = self._context is not None, self._settings.limits.join_s
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: guest,
            accepted,
            ssl=self._context,
            ssl_handshake_timeout=join_s if has_tls else None,
            ssl_shutdown_timeout=CLOSE_S if has_tls else None,
        )

    def _opened(self, guest: Guest, accepted: socket.socket, opened: "asyncio.Task[None]") -> None:
        """Forget a connection that did not get as far as HTTP."""
        guest.opening = None
        if not opened.cancelled() and opened.exception() is None:
            return
        self._gate.leave(guest)
        accepted.close()
        reason = None if opened.cancelled() else opened.exception()
        said = first_line(reason) if reason else "no word"  # who hangs up leaves an error without words
        self._say_refused(guest, guest.dropped or f"no TLS: {said}")

    async def _attend(self, connection: ServerConnection) -> None:
        """Let a connection open its WebSocket, and serve it until it ends."""
        assert isinstance(connection, Guest)
        try:
            async with asyncio.timeout(self._settings.limits.join_s):
                await connection.handshake(self._answer_http, server_header=None)
            if connection.state is State.OPEN:
                await self._talk(connection)
            if error := connection.dropped or connection.protocol.handshake_exc:
                self._say_refused(connection, str(error))
        except TimeoutError:
            connection.drop(f"no WebSocket was opened within {self._settings.limits.join_s:g} s")
            await connection.wait_closed()
        except Exception:
            self._logger.debug("a handshake failed peer=%s", connection.peer, exc_info=True)
        finally:
            connection.transport.abort()
            if self._server and (task := asyncio.current_task()):
                self._server.handler_tasks.discard(task)

    async def _talk(self, guest: Guest) -> None:
        guest.forget_headers()
        try:
            await self._serve(ServedLink(guest, self._gate))
        except Exception:
            logger.exception("a session ended by a bug of ours peer=%s", guest.peer)
            await guest.close(1011, "an error of the aggregator; its log has the details")
        finally:
            await guest.close()

    def _say_refused(self, guest: Guest, reason: str) -> None:
        if is_told(number := self._refused.count(guest.network)):
            logger.warning("refused peer=%s: %s (%d from there lately)", guest.peer, reason, number)

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is not a WebSocket of ours; None lets the handshake go on."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "ok\n")
        if path == "/readyz":
            return self._ready(connection)
        wanted = self._settings.listen.path
        if path.rstrip("/") != wanted.rstrip("/"):
            return connection.respond(
                HTTPStatus.NOT_FOUND, f"an fl_main aggregator; its WebSocket is at {wanted}, not {path}\n"
            )
        offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
        if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            text = (
                f"an fl_main aggregator ({SOFTWARE}) that speaks {SUBPROTOCOL}, not {offered or 'plain HTTP'}"
            )
            return connection.respond(HTTPStatus.BAD_REQUEST, text + "\n")
        return None

    def _ready(self, connection: ServerConnection) -> Response:
        if trouble := self._trouble():
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n")
        return connection.respond(HTTPStatus.OK, "ready\n")


def _quiet_logger() -> logging.Logger:
    """Return a logger for the WebSocket library: one line for a failed handshake, no traceback."""
    quiet = logging.getLogger("fl_main.aggregator.websockets")
    quiet.setLevel(logging.WARNING)
    quiet.addFilter(_in_one_line)
    return quiet


def _in_one_line(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", None
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True
