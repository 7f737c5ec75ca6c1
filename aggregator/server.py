"""The daemon: its life from start to ordered stop, and what operators ask of it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fl_main.errors import SettingsError, StoreError
from fl_main.events import AgentSteered, RolledBack, Steered
from fl_main.messages import Ask
from fl_main.ports import Listener, Ports
from fl_main.printable import printable
from fl_main.settings import AggregatorSettings, RunSettings
from fl_main.store import Record, Store

from .door import SOFTWARE, Door
from .host import RunHost
from .runs import Runs
from .sessions import Shared
from .status import status_of
from .why import Why

logger = logging.getLogger("fl_main.aggregator")

GUESSES_EVERY_S = 60.0
CLOSE_S = 3.0  # for the last connections: the WebSocket library gives each 2 s


class Daemon:
    """An aggregator: hosts runs on one port until it is stopped.

    Args:
        settings: Where to listen and what to take.
        runs: Settings of runs to begin with.
        store: The model database; the caller closes it.
        ports: Clocks and threads.
        listener: Where connections come in.
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
        listener: Listener,
        *,
        join_token: str = "",
        operator_token: str = "",
        on_record: Callable[[RunHost, Record], None] | None = None,
    ) -> None:
        self._settings = settings
        self._first_runs = runs
        self._store = store
        self._ports = ports
        self._listener = listener
        self.runs = Runs(store, ports, on_record)
        self._shared = Shared(store, ports, settings.limits, _in_words(settings))
        self.door = Door(self.runs, self._shared, join_token, operator_token, self._carry_out)
        self._why = Why(self.runs, self.door, store, ports, settings.database)
        self._started_at = ports.wall_time()
        self._watches: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where agents reach it."""
        return self._listener.url

    async def start(self) -> None:
        """Find the runs, begin new ones, and accept agents.

        Raises:
            SettingsError: If the port or address cannot be used, or a run cannot be made.
        """
        await self._why.look_back()
        await self.runs.load()
        for run in self._first_runs:
            await self.runs.ensure(run)
        await self._listener.start(self.door.serve, self._trouble)
        self._watches = [
            asyncio.create_task(self._watch_disk()),
            asyncio.create_task(self._watch_guesses()),
        ]
        await self._why.note_start(self.url)
        logger.info("listening url=%s runs=%d", self.url, len(self.runs))

    async def stop(self) -> None:
        """Stop accepting, tell the agents, store everything; may be called twice."""
        for watch in self._watches:
            watch.cancel()
        self._listener.stop_accepting()
        try:
            async with asyncio.timeout(self._settings.limits.stop_s):
                await self.door.close()
                await self.runs.stop()
                await self._why.note_stop()
        except TimeoutError:
            logger.warning("not everything ended within %g s", self._settings.limits.stop_s)
            self.runs.end()  # it may have been the sessions that took so long
        with suppress(TimeoutError):  # a session may wait for a thread that is busy with a fold
            async with asyncio.timeout(CLOSE_S):
                await self._listener.close()
        self._shared.frames.close()
        logger.info("stopped")

    def _trouble(self) -> str:
        """Return why the daemon is not ready, or an empty text."""
        return "stopping" if self.door.is_closing else self.runs.trouble

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
            if (free < least) != was_scarce:
                await self._why.note("disk_scarce" if free < least else "disk_has_room", free_bytes=free)
            was_scarce = free < least
            await asyncio.sleep(30.0)

    async def _watch_guesses(self) -> None:
        """Keep as events that tokens are guessed, at most one a minute."""
        guesses = self.door.guesses
        while True:
            await guesses.news()
            await self._why.note("tokens_guessed", count=guesses.total, last_from=guesses.last_from)
            await asyncio.sleep(GUESSES_EVERY_S)

    # --- operators ------------------------------------------------------------------------

    async def _carry_out(self, actor: str, ask: Ask) -> dict[str, Any]:
        if ask.order in ("status", "why"):
            await self.runs.settle()  # people, too, hear only what a crash cannot undo
            return self.status() if ask.order == "status" else await self._why.answer(ask.about)
        if ask.order == "create":
            return status_of(await self.runs.create_as_told(ask.settings, ask.about, ask.run, actor))
        host = self.runs.find(ask.run)
        if host is None:
            names = ", ".join(sorted(run.run.name for run in self.runs)) or "none yet"
            raise SettingsError(f"there is no run {ask.run!r} (runs: {names})")
        if ask.order == "rollback":
            await self._roll_back(host, actor, ask)
        elif ask.order in ("quarantine", "release"):
            host.tell(AgentSteered(ask.order, _agent_of(host, ask.about), actor))
        elif objection := host.machine.objection(ask.order):
            raise SettingsError(objection)
        else:
            host.tell(Steered(ask.order, actor))
        if not await host.journal.flush_or_trouble():
            trouble = host.journal.trouble
            raise StoreError(
                f"{ask.order} is decided, and takes effect once the database can be written: {trouble}"
            )
        return status_of(host)

    async def _roll_back(self, host: RunHost, actor: str, ask: Ask) -> None:
        """Let a run go on from an earlier round.

        Raises:
            SettingsError: If it cannot.
        """
        await host.journal.flush_or_trouble()  # what is decided is found only once it is stored
        run_id, name = host.run.run_id, host.run.name
        to = await self._ports.run_in_thread(self._store.milestone, run_id, ask.to)
        if to is None:
            raise SettingsError(f"run {name!r} has no model of round {ask.to}; see `fl db rounds {name}`")
        order = RolledBack(to, actor, ask.reason, ask.rounds, ask.fresh_state)
        if objection := host.machine.objection_to_rollback(order):
            raise SettingsError(f"run {name!r} cannot go on from round {ask.to}: {objection}")
        host.tell(order)

    def status(self) -> dict[str, Any]:
        """Return what `fl status` shows."""
        return {
            "url": self.url,
            "software": SOFTWARE,
            "started_at": self._started_at,
            "agents": len(self.door.sessions),
            "guesses": self.door.guesses.to_wire(),
            "runs": [status_of(host) for host in self.runs],
        }


def _agent_of(host: RunHost, name: str) -> str:
    """Return the id of the agent that an operator means.

    Raises:
        SettingsError: If there is none, or several.
    """
    found = host.machine.agents_named(name)
    if len(found) > 1:
        raise SettingsError(f"{len(found)} agents are called {name!r}; give one's id: {', '.join(found)}")
    if not found:
        names = sorted(member.record.name for member in host.machine.members.values())
        known = ", ".join(map(printable, names))
        raise SettingsError(
            f"there is no agent {name!r} in run {host.run.name!r} (agents: {known or 'none yet'})"
        )
    return found[0]


def _in_words(settings: AggregatorSettings) -> str:
    retention = settings.database.retention
    return {
        "all": "every update is kept",
        "rounds": f"updates of the last {retention.rounds} rounds are kept",
        "bytes": f"the newest updates are kept, up to {retention.bytes} bytes",
    }[retention.keep]
