"""The composition root: the daemon with the real database, clock, threads and network."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

from fl_main.db import ModelStore
from fl_main.db.why import explain
from fl_main.errors import SettingsError
from fl_main.ports import Ports
from fl_main.settings import AggregatorSettings, RunSettings, SecretSettings
from fl_main.settings.files import check_binding, read_secret
from fl_main.store import Record
from fl_main.threads import Threads

from .beside import WebPage
from .host import RunHost
from .listener import WebSocketListener
from .memory import keep_small
from .server import Daemon
from .tokens import operator_token

logger = logging.getLogger("fl_main.aggregator")

CLOSE_PATIENCE_S = 1.0  # for the threads, where all else took limits.stop_s
FILE_THREADS = 4  # more do not help: digests and writes keep two cores busy


class Aggregator:
    """An aggregator daemon in this process: `async with Aggregator(settings, runs): …`.

    Args:
        settings: The daemon's settings.
        runs: Settings of runs to begin with, beside those in the database.
        insecure: Listen beyond this machine without TLS and token all the same.
        on_record: Sees every stored record: for a live view.

    Attributes:
        page: The page over its database, if the settings want one.

    Raises:
        SettingsError: If it must not, or cannot, listen where the settings say.
        MissingExtraError: If the settings want a page, and what that needs is not installed.
        StoreError: If the model database cannot be opened.
    """

    def __init__(
        self,
        settings: AggregatorSettings | None = None,
        runs: Sequence[RunSettings] = (),
        *,
        insecure: bool = False,
        on_record: Callable[[RunHost, Record], None] | None = None,
    ) -> None:
        self.settings = settings or AggregatorSettings()
        check_binding(self.settings, insecure)
        self.page = self._web_page(insecure)
        self._join_token = _secret(self.settings.join_token, "join_token")
        self._files = Threads(FILE_THREADS, "fl-files")
        self._writer = Threads(1, "fl-database")
        self._store = ModelStore(self.settings.database.folder, self.settings.database)
        try:
            token = self._operator_token()
        except BaseException:
            self._store.close()  # whoever sets that right may try again in this process
            raise
        self._chore: asyncio.Task[None] | None = None
        self._closing = Thread(target=self._close, name="fl-close", daemon=True)
        for damage in self._store.damages:
            logger.error("the model database is damaged: %s; see fl db verify", damage)
        self.daemon = Daemon(
            self.settings,
            runs,
            self._store,
            real_ports(self._files, self._writer),
            WebSocketListener(self.settings),
            join_token=self._join_token,
            operator_token=token,
            on_record=on_record,
        )

    @property
    def url(self) -> str:
        """Where agents reach it."""
        return self.daemon.url

    async def start(self) -> None:
        """Go on with the runs of the database and accept agents."""
        try:
            await self.daemon.start()
        except BaseException:
            await self.stop()
            raise
        self._chore = asyncio.create_task(keep_small(self._files.run))
        if self.page is not None:
            self.page.start()

    async def stop(self) -> None:
        """Stop in order: no new agents, tell the others, store everything."""
        if self._chore is not None:
            self._chore.cancel()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self.settings.limits.stop_s
        try:
            if self.page is not None:
                await self.page.stop()
            await self.daemon.stop()
        finally:
            if not self._closing.ident:
                self._closing.start()
            patience_s = max(CLOSE_PATIENCE_S, ends_at - loop.time())
            await asyncio.to_thread(self._closing.join, patience_s)
        if self.is_busy:
            logger.warning(
                "a thread is still at work; what it does not finish is done again at the next start"
            )

    def writer_busy_s(self) -> float:
        """Return for how long the database's thread has been at one thing, 0 if at none."""
        return self._writer.busy_s()

    @property
    def is_busy(self) -> bool:
        """Whether a thread, as a rule a fold, outlives the stop; until it ends, the database is locked."""
        return self._closing.is_alive()

    def _close(self) -> None:
        """Wait for the threads, and let the next daemon have the database."""
        self._files.shutdown()
        self._writer.shutdown()
        self._store.close()

    async def __aenter__(self) -> "Aggregator":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _web_page(self, insecure: bool) -> WebPage | None:
        web = self.settings.web
        return WebPage(web, self.settings.database.folder, insecure=insecure) if web is not None else None

    def _operator_token(self) -> str:
        if self.settings.operator_token is not None:
            return _secret(self.settings.operator_token, "operator_token")
        try:
            return operator_token(self.settings.database.folder, create=True)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
            raise SettingsError(f"{reason}; let this user read it, or set operator_token") from error


def ask_database(folder: Path, name: str, unreachable: str, now: float) -> dict[str, Any]:
    """Answer `fl why` from a database folder, whose daemon cannot be asked.

    Args:
        folder: Of the model database.
        name: A run, an agent or a task; empty for everything.
        unreachable: Why the daemon cannot be asked.
        now: Wall time, Unix seconds.

    Raises:
        StoreError: If there is no database that can be read.
        UnknownNameError: If the name names nothing, or several things.
    """
    return explain(folder, name, unreachable, now)


def _secret(settings: SecretSettings | None, what: str) -> str:
    return read_secret(settings, what) if settings is not None else ""


def real_ports(files: Threads, writer: Threads) -> Ports:
    """Return the real clock, threads and chance."""
    return Ports(
        wall_time=time.time,
        monotonic=time.monotonic,
        run_in_thread=files.run,
        run_in_writer=writer.run,
        new_id=lambda: secrets.token_hex(12),
        chance=random.random,
    )
