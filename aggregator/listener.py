"""The daemon's one port: WebSockets for agents and operators, and its health over plain HTTP."""

import logging
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from fl_main.errors import SettingsError
from fl_main.links import READ_QUEUE, Counting, WebSocketLink
from fl_main.messages import MAX_FRAME_BYTES, SUBPROTOCOL
from fl_main.ports import Link
from fl_main.settings import AggregatorSettings

from .door import SOFTWARE

logger = logging.getLogger("fl_main.aggregator")


class CountingConnection(Counting, ServerConnection):
    """The accepting end of a link."""


class WebSocketListener:
    """A `fl_main.ports.Listener` on a TCP port.

    Args:
        settings: Where to listen, with which certificate.
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

    async def start(self, serve: Callable[[Link], Awaitable[None]], trouble: Callable[[], str]) -> None:
        """Accept connections; see `Listener`.

        Raises:
            SettingsError: If the port, address or certificate cannot be used.
        """
        self._serve = serve
        self._trouble = trouble
        self._server = await self._listen()

    def stop_accepting(self) -> None:
        """See `Listener`."""
        if self._server is not None:
            self._server.close(close_connections=False)

    async def close(self) -> None:
        """See `Listener`."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _listen(self) -> Server:
        listen = self._settings.listen
        origins: list[Origin | None] = [None, *(Origin(origin) for origin in listen.origins)]
        try:
            return await serve(
                self._connected,
                listen.host,
                listen.port,
                process_request=self._answer_http,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                origins=origins,
                compression=None,
                max_size=MAX_FRAME_BYTES,
                max_queue=READ_QUEUE,
                ping_interval=None,  # liveness is ours: by bytes moved
                open_timeout=self._settings.limits.join_s,
                close_timeout=2.0,
                server_header=None,
                create_connection=CountingConnection,
                ssl=self._tls(),
                logger=_quiet_logger(),
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(
                f"cannot listen on {listen.host}:{listen.port}: {reason}; "
                "choose another listen.host or listen.port (0 takes a free one)"
            ) from error

    def _tls(self) -> ssl.SSLContext | None:
        tls = self._settings.tls
        if tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"tls: {tls.certificate} and {tls.key} are no certificate and key: {error}"
            ) from error
        return context

    async def _connected(self, connection: ServerConnection) -> None:
        try:
            await self._serve(WebSocketLink(connection))
        except Exception:
            logger.exception("a session ended by a bug of ours peer=%s", connection.remote_address)
            await connection.close(1011, "an error of the aggregator; its log has the details")

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
