"""The daemon: its port, its health, and its life from start to ordered stop."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from fl_main.errors import SettingsError, StoreError
from fl_main.events import Steered
from fl_main.links import READ_QUEUE, Counting, WebSocketLink
from fl_main.messages import MAX_FRAME_BYTES, SUBPROTOCOL, Ask
from fl_main.ports import Ports
from fl_main.settings import AggregatorSettings, RunSettings
from fl_main.store import Record, Store

from .door import SOFTWARE, Door
from .host import RunHost, status_of
from .runs import Runs
from .sessions import Shared

logger = logging.getLogger("fl_main.aggregator")


class CountingConnection(Counting, ServerConnection):
    """The accepting end of a link."""


class Daemon:
    """An aggregator: hosts runs on one port until it is stopped.

    Args:
        settings: Where to listen and what to take.
        runs: Settings of runs to begin with.
        store: The model database; the caller closes it.
        ports: Clocks and threads.
        join_token: What agents must know; empty: nothing.
        operator_token: What operators must know.
        on_record: Sees every stored record: the live view.
    """

    def __init__(
        self,
        settings: AggregatorSettings,
        runs: Sequence[RunSettings],
        store: Store,
        ports: Ports,
        *,
        join_token: str = "",
        operator_token: str = "",
        on_record: Callable[[RunHost, Record], None] | None = None,
    ) -> None:
        self._settings = settings
        self._first_runs = runs
        self._store = store
        self._ports = ports
        self.runs = Runs(store, ports, on_record)
        self._shared = Shared(store, ports, settings.limits, _in_words(settings))
        self.door = Door(self.runs, self._shared, join_token, operator_token, self._carry_out)
        self._server: Server | None = None
        self._started_at = ports.wall_time()
        self._disk_watch: asyncio.Task[None] | None = None

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

    async def start(self) -> None:
        """Find the runs, begin new ones, and accept agents.

        Raises:
            SettingsError: If the port or address cannot be used, or a run cannot be made.
        """
        await self.runs.load()
        for run in self._first_runs:
            await self.runs.ensure(run)
        self._server = await self._listen()
        self._disk_watch = asyncio.create_task(self._watch_disk())
        logger.info("listening url=%s runs=%d", self.url, len(self.runs))

    async def stop(self) -> None:
        """Stop accepting, tell the agents, store everything; may be called twice."""
        if self._disk_watch:
            self._disk_watch.cancel()
        if self._server is not None:
            self._server.close(close_connections=False)
        try:
            async with asyncio.timeout(self._settings.limits.stop_s):
                await self.door.close()
                await self.runs.stop()
        except TimeoutError:
            logger.warning("not everything ended within %g s", self._settings.limits.stop_s)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        self._shared.frames.close()
        logger.info("stopped")

    # --- the port -------------------------------------------------------------------------

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
            await self.door.serve(WebSocketLink(connection))
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
        troubles = [host.trouble for host in self.runs if host.trouble]
        if self.door.is_closing or troubles:
            reason = troubles[0] if troubles else "stopping"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
        return connection.respond(HTTPStatus.OK, "ready\n")

    async def _watch_disk(self) -> None:
        """Warn before the disk is full, once each time it becomes scarce."""
        least = self._settings.database.retention.warn_free_bytes
        was_scarce = False
        while True:
            try:
                free = await self._ports.run_in_thread(self._store.free_bytes)
            except (StoreError, OSError) as error:
                logger.warning("cannot look at the disk: %s", error)
                free = least
            if free < least and not was_scarce:
                logger.warning(
                    "only %d MB are free for the model database in %s; see database.retention",
                    free // 1_000_000,
                    self._settings.database.folder,
                )
            was_scarce = free < least
            await asyncio.sleep(30.0)

    # --- operators ------------------------------------------------------------------------

    async def _carry_out(self, actor: str, ask: Ask) -> dict[str, Any]:
        if ask.order == "status":
            return self.status()
        if ask.order == "create":
            return status_of(await self.runs.create(_parsed(ask.settings), actor))
        host = self.runs.find(ask.run)
        if host is None:
            names = ", ".join(sorted(run.run.name for run in self.runs)) or "none yet"
            raise SettingsError(f"there is no run {ask.run!r} (runs: {names})")
        host.tell(Steered(ask.order, actor))
        await host.flush()
        return status_of(host)

    def status(self) -> dict[str, Any]:
        """Return what `fl status` shows."""
        return {
            "url": self.url,
            "software": SOFTWARE,
            "started_at": self._started_at,
            "agents": len(self.door.sessions),
            "runs": [status_of(host) for host in self.runs],
        }


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


def _parsed(settings: dict[str, Any]) -> RunSettings:
    try:
        return RunSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _in_words(settings: AggregatorSettings) -> str:
    retention = settings.database.retention
    return {
        "all": "every update is kept",
        "rounds": f"updates of the last {retention.rounds} rounds are kept",
        "bytes": f"the newest updates are kept, up to {retention.bytes} bytes",
    }[retention.keep]
