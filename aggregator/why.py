"""`fl why` in the daemon: its runs, its door, its disk and its own past, asked together."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from fl_main.errors import StoreError
from fl_main.ports import Ports
from fl_main.settings import DatabaseSettings
from fl_main.store import EventRecord, PastEvent, Record, Store, TaskRecord, UpdateRecord
from fl_main.why import HISTORY, MOST, about, everything
from fl_main.why.findings import MEGABYTE, Finding, Outage, Standing, Subject, View

from .door import SOFTWARE, Door
from .host import RunHost
from .runs import Runs

READ_S = 5.0  # that a database may take to say what happened before

T = TypeVar("T")
Stored: TypeAlias = Sequence[tuple[TaskRecord, UpdateRecord | None]]


class Why:
    """Answers `fl why`, and keeps the daemon's own starts and stops as events.

    Args:
        runs: Asked for what they know.
        door: Asked whom it did not let in.
        store: Asked for what happened before.
        ports: Clocks and threads.
        database: Its folder, and when room is scarce.
    """

    def __init__(
        self, runs: Runs, door: Door, store: Store, ports: Ports, database: DatabaseSettings
    ) -> None:
        self._runs = runs
        self._door = door
        self._store = store
        self._ports = ports
        self._database = database
        self._outage: Outage | None = None
        self._is_started = False

    # --- the daemon's own life ------------------------------------------------------------

    async def look_back(self) -> None:
        """Find out how long no daemon was up, before this one stores anything."""
        try:
            events = await self._ports.run_in_writer(self._store.events, None, HISTORY)
            last_at = await self._ports.run_in_writer(self._store.last_commit_at)
        except StoreError:  # it is asked for more than this when the runs are loaded
            return
        ends = [past for past in events if past.event.kind in ("daemon_started", "daemon_stopped")]
        if ends and last_at is not None:
            is_crash = ends[-1].event.kind == "daemon_started"
            from_at = last_at if is_crash else ends[-1].at
            self._outage = Outage(from_at, self._ports.wall_time(), is_crash)

    async def note_start(self, url: str) -> None:
        """Store that the daemon is up, and how it ended the time before."""
        details: dict[str, Any] = {"url": url, "software": SOFTWARE}
        if outage := self._outage:
            after = "a crash" if outage.is_crash else "a stop"
            details |= {"after": after, "last_fact_at": outage.from_at}
        self._is_started = await self.note("daemon_started", **details)

    async def note_stop(self) -> None:
        """Store that the daemon stopped in order; may be called twice."""
        if self._is_started:
            self._is_started = False
            await self.note("daemon_stopped")

    async def note(self, kind: str, **details: Any) -> bool:
        """Store an event of the daemon; return whether that worked: it works without one, too."""
        record: list[Record] = [EventRecord(None, kind, details=details)]
        try:
            await self._ports.run_in_writer(self._store.commit, record, self._ports.wall_time())
        except StoreError:
            return False
        return True

    # --- answers --------------------------------------------------------------------------

    async def answer(self, name: str) -> dict[str, Any]:
        """Return what can be said of a run, agent or task; without a name all that waits or failed.

        Raises:
            UnknownNameError: If it names nothing, or several things.
        """
        views = await asyncio.gather(*(self._view(host) for host in self._runs))
        refusals, now = list(self._door.refusals.values()), self._ports.wall_time()
        if name:
            stored: Stored = await self._read([], self._store.tasks_beginning, name, MOST)
            found = [*self._of_broken(name)] or about(name, views, stored, refusals, now)
        else:
            found = [*await self._of_disk(), *self._of_broken(), *everything(views, refusals, now)]
        return {
            "from": "aggregator",
            "now": now,
            "findings": [finding.to_wire() for finding in found[:MOST]],
            "left_out": max(0, len(found) - MOST),
        }

    async def _view(self, host: RunHost) -> View:
        history: Sequence[PastEvent] = await self._read([], self._store.events, host.run.run_id, HISTORY)
        return host.view(history, self._outage)

    async def _read(self, otherwise: T, function: Callable[..., T], *args: object) -> T:
        """Ask the store; a database in trouble is told of by its runs, and must not hold up the answer."""
        try:
            async with asyncio.timeout(READ_S):
                return await self._ports.run_in_thread(function, *args)
        except (StoreError, TimeoutError):
            return otherwise

    def _of_broken(self, name: str | None = None) -> Iterator[Finding]:
        """Yield the runs that could not be taken up, or the one of a name."""
        for run, reason in self._runs.broken.items():
            if name in (None, run):
                remedy = "correct what the reason names, then start the aggregator again"
                yield Finding(
                    Subject.RUN,
                    run,
                    run,
                    Standing.FAILED,
                    f"cannot go on: {reason}",
                    remedy,
                    self._up_since(),
                )

    def _up_since(self) -> float | None:
        return self._outage.to_at if self._outage else None

    async def _of_disk(self) -> list[Finding]:
        least = self._database.retention.warn_free_bytes
        free: int = await self._read(least, self._store.free_bytes)
        if free >= least:
            return []
        return [
            Finding(
                Subject.DATABASE,
                str(self._database.folder),
                "",
                Standing.WAITING,
                f"only {free // MEGABYTE} MB are free for the model database",
                "free space on its disk, or let old models go: database.retention",
                evidence=(f"fewer than the {least // MEGABYTE} MB of database.retention.warn_free_bytes",),
            )
        ]
