"""One run on the daemon: the round machine, and the hands that do what it asks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fl_main.errors import FLError, StoreDamagedError, StoreError
from fl_main.events import (
    Answer,
    Effect,
    EndRun,
    Event,
    Expel,
    Fold,
    FoldFailed,
    Offered,
    Prune,
    Receive,
    StepFolded,
    TellCounted,
    TimePassed,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.folding import fold_plan, fold_step, staging_name
from fl_main.ledger import Outcome
from fl_main.messages import Frozen, Hold, Message, Waiting
from fl_main.ports import Ports
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import (
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    PastEvent,
    Record,
    RunRecord,
    RunSnapshot,
    RunStatus,
    Store,
    TaskRecord,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies import strategy_of
from fl_main.training import Kind
from fl_main.weights import Layout
from fl_main.why.agents import find_agent
from fl_main.why.findings import Outage, Transfer, Trouble, View

from .journal import RETRY_S, Journal
from .wording import ending_of, message_of

logger = logging.getLogger("fl_main.aggregator")

FOLD = "fold"  # what of it can be in trouble, see `Journal`
PRUNE_EVERY_S = 1.0
KEEP_TIME_S = 60.0  # of run time that a crash may let pass once more
TELL_EVERY_S = 0.5
MAX_TOLD_PER_S = 500  # agents


class Seat(Protocol):
    """What a run needs of a connected agent."""

    @property
    def transfer(self) -> Transfer | None:
        """The bytes that are on their way to it or from it."""

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
        journal: What was decided and waits to be stored.
        counted: How many updates were said to be part of a model since the start.
    """

    def __init__(
        self,
        settings: RunSettings,
        snapshot: RunSnapshot,
        store: Store,
        ports: Ports,
        folds: asyncio.Semaphore,
        on_progress: Callable[["RunHost", Record], None] | None = None,
    ) -> None:
        self.settings = settings
        self.machine = RoundMachine(settings, strategy_of(settings), snapshot)
        self.seats: dict[str, Seat] = {}
        self.counted = 0
        self.journal = Journal(lambda: self.run, store, ports, self._hold)
        self._told: dict[str, str] = {}  # what idle agents were told that they wait for
        self._is_telling = False
        self.clock = RunClock(ports, snapshot.run.run_time_s)
        self._store = store
        self._ports = ports
        self._folds = folds
        self._on_progress = on_progress
        self._background: dict[asyncio.Task[None], None] = {}  # in order, to be ended in order
        self._timer: asyncio.TimerHandle | None = None
        self._kept_time_s = snapshot.run.run_time_s
        self._is_pruning = False
        self._ended: set[tuple[str, str]] = set()  # (agent, task) of uploads whose verdict is to be stored
        self._left_over: dict[str, None] = {}  # staged files to be deleted
        self._is_sweeping = False

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

    def adopt(self, initial: ModelRecord, frozen: Frozen | None = None) -> list[Record]:
        """Take the model that a new run begins with; the caller stores what comes of it."""
        return self.machine.adopt(initial, frozen).records

    def start(self) -> None:
        """Begin, or go on after a restart."""
        self.clock.set_running(self.run.status is RunStatus.RUNNING)
        self._put(self.machine.start(self.clock.now()))

    def tell(self, event: Event) -> None:
        """Take an event; what follows from it is done soon, in order."""
        if isinstance(event, UpdateReceived | UpdateSpoiled):
            self._ended.add((event.offer.agent_id, event.offer.task_id))
        self._put(self.machine.handle(event, self.clock.now()))
        self.clock.set_running(self.run.status is RunStatus.RUNNING)

    def _put(self, outcome: Outcome) -> None:
        self.journal.put(outcome)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        due = self.machine.next_wakeup()
        if due is not None:
            delay = max(0.0, min(due - self.clock.now(), KEEP_TIME_S))
            self._timer = asyncio.get_running_loop().call_later(delay, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """Let the machine see the time, and keep it: a crash shall not put off what is due for long."""
        self.tell(TimePassed())
        if self.run.run_time_s - self._kept_time_s >= KEEP_TIME_S:
            self._put(Outcome([self.run]))

    # --- carrying out ---------------------------------------------------------------------

    async def work(self) -> None:
        """Store and carry out until cancelled."""
        while True:
            decided = await self.journal.stored()
            for record in decided.records:
                self._see(record)
            for effect in decided.effects:
                self._perform(effect)
            if over := _over(decided):
                self._unstage(over)
            if not self._is_telling:
                self._is_telling = True
                self._spawn(self._tell_idle())

    def _see(self, record: Record) -> None:
        """Let people see what was stored."""
        if isinstance(record, RunRecord):
            self._kept_time_s = record.run_time_s
        _log(self.run.name, record)
        if self._on_progress:
            self._on_progress(self, record)

    def _hold(self, outcome: Outcome) -> None:
        """Tell the agents that wait for something which cannot be stored yet."""
        for effect in outcome.effects:
            waiting = effect.offer if isinstance(effect, Receive) else effect
            if isinstance(waiting, Answer | Offered):
                hold = Hold(task_id=waiting.task_id, reason=self.journal.trouble)
                self._post(waiting.agent_id, hold)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Fold):
            self._spawn(self._fold(effect))
        elif isinstance(effect, Prune):
            self._spawn(self._prune())
        elif isinstance(effect, EndRun):
            if not self.run.status.is_over:  # resumed before the end could be stored
                return
            for agent_id in [effect.agent_id] if effect.agent_id else list(self.seats):
                self._post(agent_id, ending_of(self.machine))
        elif isinstance(effect, Receive):
            self._receive(effect.offer)
        elif isinstance(effect, Expel):
            if seat := self.seats.get(effect.agent_id):
                seat.expel(effect.code, effect.reason)
        else:
            self.counted += isinstance(effect, TellCounted)
            if isinstance(effect, Answer):
                self._ended.discard((effect.agent_id, effect.task_id))
            self._post(*message_of(self.machine, effect))

    def _receive(self, offer: Offered) -> None:
        """Let an update's bytes come, unless it was offered twice and they are here.

        They are about to be moved into their place: nothing may write to that file any more.
        """
        if (offer.agent_id, offer.task_id) not in self._ended and (seat := self.seats.get(offer.agent_id)):
            seat.receive(offer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work go on beside the records; `stop` cancels it."""
        task = asyncio.create_task(work)
        self._background[task] = None
        task.add_done_callback(lambda _: self._background.pop(task))

    def _post(self, agent_id: str, message: Message) -> None:
        if seat := self.seats.get(agent_id):
            seat.post(message)

    def view(self, history: Sequence[PastEvent] = (), outage: Outage | None = None) -> View:
        """Return what `fl why` looks at; history and outage are of the database."""
        still = ("run_pause", "run_ended") if self.run.status is not RunStatus.RUNNING else ()
        return View(
            self.machine,
            self.clock.now(),
            self._ports.wall_time(),
            history,
            {agent: transfer for agent, seat in self.seats.items() if (transfer := seat.transfer)},
            Trouble(self.journal.trouble, self.journal.trouble_since) if self.journal.trouble else None,
            outage,
            still_since=next((past.at for past in reversed(history) if past.event.kind in still), None),
        )

    def fetchable(self, digest: str) -> ModelRecord | None:
        """Return a model that this run's agents may have: never another agent's update."""
        private = (ModelKind.LOCAL, ModelKind.CHANNEL)
        for model in self.machine.models.values():
            if model.payload.digest == digest and model.kind not in private:
                return model
        return None

    def described(self, model: ModelRecord) -> Layout:
        """Return the layout from which an agent can tell that of a model's file."""
        return (self.machine.layout if model.codec else None) or model.payload.layout

    async def _tell_idle(self) -> None:
        """Tell agents without a task what they wait for, if it is another thing than before.

        Soon, not at once: what follows from the same news is told together, and the more agents
        there are, the more rarely.
        """
        await asyncio.sleep(max(TELL_EVERY_S, len(self.seats) / MAX_TOLD_PER_S))
        self._is_telling = False
        view, told = self.view(), self._told
        idle = [agent for agent in self.seats if self.machine.members[agent].task_id is None]
        self._told = {agent: find_agent(view, agent).what.removeprefix("idle: ") for agent in idle}
        for agent, reason in self._told.items():
            if told.get(agent) != reason:
                self._post(agent, Waiting(reason=reason))

    # --- folding --------------------------------------------------------------------------

    async def _fold(self, effect: Fold) -> None:
        event = await self._folded(effect)
        while event is None and self.machine.is_wanted(effect):
            await asyncio.sleep(RETRY_S)
            event = await self._folded(effect)
        self.journal.set_trouble(FOLD, "")
        if not isinstance(event, StepFolded) or not self.machine.is_wanted(effect):
            self._unstage([staging_name(self.run.run_id, effect)])
        if event is not None:
            self.tell(event)

    async def _folded(self, effect: Fold) -> StepFolded | FoldFailed | None:
        """Fold; None if the disk hinders it: an update that was acknowledged is not lost by that.

        None as well if nobody waits for it any more: the run may have been stopped, and gone on,
        before the step's end could be stored, or while other folds were under way.
        """
        try:
            async with self._folds:
                if not self.machine.is_wanted(effect):
                    return None
                plan = fold_plan(self.machine, effect)
                return await self._ports.run_in_thread(fold_step, self._store, self.settings, plan)
        except StoreDamagedError as error:
            return FoldFailed(effect, str(error))
        except StoreError as error:
            self.journal.set_trouble(FOLD, str(error))
            return None
        except FLError as error:
            return FoldFailed(effect, str(error))
        except Exception as error:  # a user's strategy may raise anything
            logger.exception("the strategy failed run=%s round=%d", self.run.name, effect.round_id)
            return FoldFailed(effect, f"{type(error).__name__}: {error}")

    def _unstage(self, names: list[str]) -> None:
        """Delete, in the background, what came of updates or a fold that nobody waits for any more."""
        self._left_over |= dict.fromkeys(names)
        if not self._is_sweeping:
            self._is_sweeping = True
            self._spawn(self._sweep())

    async def _sweep(self) -> None:
        while names := list(self._left_over):
            try:
                await self._ports.run_in_thread(self._store.unstage, names)
            except StoreError as error:
                logger.debug("cannot delete what is left in models/.staging yet: %s", error)
                await asyncio.sleep(RETRY_S)
            else:
                self._left_over = {name: None for name in self._left_over if name not in names}
        self._is_sweeping = False

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
            logger.warning("pruning failed, it is tried again: %s", error)
            await asyncio.sleep(RETRY_S)
            self._spawn(self._prune())
            return
        if freed:
            logger.debug("pruned bytes=%d", freed)

    async def stop(self) -> None:
        """Store what was decided and end; the machine goes on from there at the next start."""
        try:
            await self.journal.flush()
        finally:
            self.end()

    def end(self) -> None:
        """Do nothing more by itself; may be called twice."""
        if self._timer:
            self._timer.cancel()
        for task in self._background:
            task.cancel()


def _over(decided: Outcome) -> list[str]:
    """Return the tasks whose staged bytes, if there are some, will never be used."""
    closed = [record for record in decided.records if isinstance(record, TaskRecord)]
    answers = [effect for effect in decided.effects if isinstance(effect, Answer)]
    # Who is refused as it was never given the task has staged nothing; the task's own agent may have.
    strange = {
        (record.agent_id, record.task_id)
        for record in decided.records
        if isinstance(record, UpdateRecord) and record.round_id < 0
    }
    return [task.task_id for task in closed if task.status.is_given_up] + [
        answer.task_id
        for answer in answers
        if answer.verdict is not Verdict.ACCEPTED and (answer.agent_id, answer.task_id) not in strange
    ]


def _log(name: str, record: Record) -> None:
    if isinstance(record, EventRecord):
        details = " ".join(f"{key}={value}" for key, value in record.details.items())
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
