"""One run on the daemon: the round machine, and the hands that do what it asks."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fl_main.errors import FLError, StoreError, StoreFullError
from fl_main.events import (
    Answer,
    Assign,
    Cancel,
    Effect,
    EndRun,
    Event,
    Expel,
    Fold,
    FoldFailed,
    Offered,
    Prune,
    Receive,
    TellCounted,
    TimePassed,
)
from fl_main.ledger import Outcome
from fl_main.messages import Assign as AssignMessage
from fl_main.messages import Cancel as CancelMessage
from fl_main.messages import Counted, Message, Payload, RunEnded, Verdict
from fl_main.ports import Ports
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import (
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    Record,
    RunRecord,
    RunSnapshot,
    RunStatus,
    Store,
    StoredPayload,
)
from fl_main.strategies import strategy_of
from fl_main.training import Kind

from .folding import fold_step

logger = logging.getLogger("fl_main.aggregator")

STORE_RETRY_S = 5.0
PRUNE_EVERY_S = 1.0


class Seat(Protocol):
    """What a run needs of a connected agent."""

    @property
    def doing(self) -> str:
        """What its transfers tell, or an empty text."""

    def post(self, message: Message) -> None:
        """Queue a message for it."""

    def receive(self, offer: Offered) -> None:
        """Start taking the bytes of an offered update."""

    def expel(self, code: str, reason: str) -> None:
        """End its session for good."""


class RunClock:
    """Run time: seconds that the daemon was up and the run not paused."""

    def __init__(self, ports: Ports, start_s: float) -> None:
        self._monotonic = ports.monotonic
        self._before_s = start_s
        self._since: float | None = None

    def now(self) -> float:
        """Return the run time."""
        return self._before_s + (self._monotonic() - self._since if self._since is not None else 0.0)

    def set_running(self, is_running: bool) -> None:
        """Let the time pass, or stand still."""
        if is_running == (self._since is not None):
            return
        self._before_s, self._since = self.now(), self._monotonic() if is_running else None


class RunHost:
    """Feeds one run's machine with events and carries out what comes of them.

    Records are stored before effects are carried out, in the order in which they were decided;
    what is decided while the database writes goes into its next transaction together.

    Attributes:
        machine: The run itself.
        seats: Connected agents by id.
        trouble: Why nothing can be stored at the moment, or an empty text.
    """

    def __init__(
        self,
        settings: RunSettings,
        snapshot: RunSnapshot,
        store: Store,
        ports: Ports,
        on_progress: Callable[["RunHost", Record], None] | None = None,
    ) -> None:
        self.settings = settings
        self.machine = RoundMachine(settings, strategy_of(settings), snapshot)
        self.seats: dict[str, Seat] = {}
        self.trouble = ""
        self.clock = RunClock(ports, snapshot.run.run_time_s)
        self._store = store
        self._ports = ports
        self._on_progress = on_progress
        self._queue: deque[Outcome] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_pruning = False

    @property
    def run(self) -> RunRecord:
        """The run as it stands."""
        return self.machine.run

    def kinds(self) -> list[str]:
        """Return the kinds of tasks that the run may ask for."""
        kinds = [Kind.TRAIN]
        if self.settings.initial.file is None and self.settings.initial.model is None:
            kinds.append(Kind.INITIALISE)
        if self.settings.statistics:
            kinds.append(Kind.STATISTICS)
        if self.settings.evaluate.every:
            kinds.append(Kind.EVALUATE)
        return [str(kind) for kind in kinds]

    def adopt(self, initial: ModelRecord) -> list[Record]:
        """Take the model that a new run begins with; the caller stores what comes of it."""
        return self.machine.adopt(initial).records

    def start(self) -> None:
        """Begin, or go on after a restart."""
        self.clock.set_running(self.run.status is RunStatus.RUNNING)
        self._put(self.machine.start(self.clock.now()))

    def tell(self, event: Event) -> None:
        """Take an event; what follows from it is done soon, in order."""
        self._put(self.machine.handle(event, self.clock.now()))
        self.clock.set_running(self.run.status is RunStatus.RUNNING)

    def _put(self, outcome: Outcome) -> None:
        self._queue.append(outcome)
        self._idle.clear()
        self._wake.set()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        due = self.machine.next_wakeup()
        if due is not None:
            delay = max(0.0, due - self.clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tell, TimePassed())

    # --- carrying out ---------------------------------------------------------------------

    async def work(self) -> None:
        """Store and carry out until cancelled."""
        while True:
            if not self._queue:
                self._idle.set()
            await self._wake.wait()
            self._wake.clear()
            outcomes, self._queue = list(self._queue), deque()
            await self._commit([record for outcome in outcomes for record in outcome.records])
            for outcome in outcomes:
                for effect in outcome.effects:
                    self._perform(effect)

    async def flush(self) -> None:
        """Wait until everything decided so far is stored and done."""
        await self._idle.wait()

    async def _commit(self, records: list[Record]) -> None:
        last_run = next((record for record in reversed(records) if isinstance(record, RunRecord)), None)
        records = [record for record in records if not isinstance(record, RunRecord) or record is last_run]
        while records:
            try:
                await self._ports.run_in_writer(self._store.commit, records, self._ports.wall_time())
            except StoreError as error:
                self._say_trouble(str(error))
                await asyncio.sleep(STORE_RETRY_S)
            else:
                break
        if self.trouble:
            logger.info("the database can be written again run=%s", self.run.name)
            self.trouble = ""
        for record in records:
            self._log(record)
            if self._on_progress:
                self._on_progress(self, record)

    def _say_trouble(self, reason: str) -> None:
        if reason != self.trouble:
            logger.error("nothing is stored, and no update is acknowledged: %s run=%s", reason, self.run.name)
        self.trouble = reason

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Fold):
            self._spawn(self._fold(effect))
        elif isinstance(effect, Prune):
            self._spawn(self._prune())
        elif isinstance(effect, EndRun):
            for agent_id in [effect.agent_id] if effect.agent_id else list(self.seats):
                self._post(agent_id, self._ended())
        elif isinstance(effect, Receive):
            if seat := self.seats.get(effect.offer.agent_id):
                seat.receive(effect.offer)
        elif isinstance(effect, Expel):
            if seat := self.seats.get(effect.agent_id):
                seat.expel(effect.code, effect.reason)
        else:
            self._post(*self._message(effect))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work go on beside the records; `stop` cancels it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _post(self, agent_id: str, message: Message) -> None:
        if seat := self.seats.get(agent_id):
            seat.post(message)

    def _message(self, effect: Assign | Answer | TellCounted | Cancel) -> tuple[str, Message]:
        if isinstance(effect, Assign):
            return effect.task.agent_id, self._assignment(effect)
        if isinstance(effect, Answer):
            return effect.agent_id, Verdict(
                task_id=effect.task_id, verdict=effect.verdict.value, reason=effect.reason, late=effect.late
            )
        if isinstance(effect, TellCounted):
            return effect.agent_id, Counted(task_id=effect.task_id, round_id=effect.round_id)
        return effect.agent_id, CancelMessage(task_id=effect.task_id, reason=effect.reason)

    def _assignment(self, effect: Assign) -> AssignMessage:
        task = effect.task
        models = {"weights": task.model_id} if task.kind in (Kind.TRAIN, Kind.EVALUATE) else {}
        if task.kind is Kind.TRAIN:
            models |= {name: self.run.state_ids.get(name) for name in self.machine.strategy.down}
        if task.kind in (Kind.TRAIN, Kind.EVALUATE):
            models["statistics"] = self.run.statistics_id
        return AssignMessage(
            task_id=task.task_id,
            kind=task.kind,
            round_id=task.round_id,
            model_round=task.model_round,
            payloads=[
                payload for channel, model in models.items() if (payload := self._payload(channel, model))
            ],
            config=self.settings.config if task.kind is Kind.TRAIN else {},
            seed=task.seed,
            deadline_s=effect.deadline_s,
        )

    def _payload(self, channel: str, model_id: str | None) -> Payload | None:
        model = self.machine.models.get(model_id or "")
        if model is None:
            return None
        stored = model.payload
        return Payload(channel=channel, layout=stored.layout.digest, digest=stored.digest, size=stored.size)

    def _ended(self) -> RunEnded:
        return RunEnded(
            status=self.run.status,
            reason=self.run.reason,
            round_id=self.run.round_id,
            final=self._payload("weights", self.run.model_id),
            statistics=self._payload("statistics", self.run.statistics_id),
        )

    def doing(self, agent_id: str) -> str:
        """Return what an agent is doing, in words for people."""
        member = self.machine.members[agent_id]
        seat = self.seats.get(agent_id)
        if seat is not None and seat.doing:
            return seat.doing
        task = self.machine.tasks.get(member.task_id or "")
        if task is None:
            return "idle" if member.is_present else "away"
        verb = {Kind.TRAIN: "training", Kind.EVALUATE: "evaluating"}.get(task.kind, str(task.kind))
        return f"{verb}, round {task.round_id}" + ("" if member.is_present else " (not connected)")

    def fetchable(self, digest: str) -> StoredPayload | None:
        """Return a payload that this run's agents may have: never another agent's update."""
        private = (ModelKind.LOCAL, ModelKind.CHANNEL)
        for model in self.machine.models.values():
            if model.payload.digest == digest and model.kind not in private:
                return model.payload
        return None

    # --- folding --------------------------------------------------------------------------

    async def _fold(self, effect: Fold) -> None:
        while True:
            try:
                event: Event = await self._ports.run_in_thread(
                    fold_step, self._store, self.settings, self.machine, effect
                )
                break
            except StoreFullError as error:
                self._say_trouble(str(error))
                await asyncio.sleep(STORE_RETRY_S)
            except FLError as error:
                event = FoldFailed(effect.round_id, effect.kind, str(error))
                break
            except Exception as error:  # a user's strategy may raise anything
                logger.exception("the strategy failed run=%s round=%d", self.run.name, effect.round_id)
                event = FoldFailed(effect.round_id, effect.kind, f"{type(error).__name__}: {error}")
                break
        self.tell(event)

    async def _prune(self) -> None:
        """Apply the retention settings, at most once a second however short the rounds are."""
        if self._is_pruning:
            return
        self._is_pruning = True
        await asyncio.sleep(PRUNE_EVERY_S)
        self._is_pruning = False
        try:
            freed = await self._ports.run_in_thread(self._store.prune)
        except StoreError as error:
            logger.warning("pruning failed: %s", error)
            return
        if freed:
            logger.debug("pruned bytes=%d", freed)

    # --- telling people -------------------------------------------------------------------

    def _log(self, record: Record) -> None:
        name = self.run.name
        if isinstance(record, EventRecord):
            details = " ".join(f"{key}={value}" for key, value in record.details.items() if key != "notes")
            logger.info(
                "%s run=%s round=%s agent=%s %s",
                record.kind.replace("_", " "),
                name,
                record.round_id,
                record.agent_id or "-",
                details,
            )
        elif isinstance(record, MetricRecord) and record.agent_id is None:
            logger.info(
                "metric run=%s round=%d %s_%s=%.6g agents=%d",
                name,
                record.round_id,
                record.source,
                record.name,
                record.value,
                record.agents,
            )

    async def stop(self) -> None:
        """Store what was decided and end; the machine goes on from there at the next start."""
        if self._timer:
            self._timer.cancel()
        await self.flush()
        for task in self._background:
            task.cancel()


def status_of(host: RunHost) -> dict[str, Any]:
    """Return what `fl status` says of a run."""
    run, machine = host.run, host.machine
    is_running = run.status is RunStatus.RUNNING
    return {
        "run": run.name,
        "run_id": run.run_id,
        "status": str(run.status),
        "phase": str(run.phase),
        "round": run.round_id,
        "step": str(run.kind) if run.kind else None,
        "rounds_done": run.rounds_done,
        "rounds": host.settings.end.rounds,
        "run_time_s": round(host.clock.now(), 3),
        "reason": run.reason,
        "best": {
            "metric": f"{host.settings.best.source} {host.settings.best.metric}",
            "value": run.best_value,
            "model": run.best_model_id,
        },
        "waiting_for": host.trouble or machine.waiting_for(host.clock.now()),
        "agents": [
            {
                "agent_id": agent_id,
                "name": member.record.name,
                "present": member.is_present,
                "doing": host.doing(agent_id),
                # Run time stands still while the run does.
                "since_s": round(host.clock.now() - member.since, 1) if is_running else None,
            }
            for agent_id, member in machine.members.items()
        ],
    }
