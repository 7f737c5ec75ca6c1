"""A run as a daemon would write it: the real round machine, fold and store; only the agents are made up.

Time is virtual. An agent takes as long as chance says, its model is chance, too, and now and then
it is too slow, sends nonsense, or goes away for a while. What is decided goes into the store in
groups, as it does where much happens while the database writes.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from fl_main.events import (
    AgentJoined,
    AgentLeft,
    Answer,
    Assign,
    Effect,
    Event,
    Fold,
    Offered,
    Receive,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.folding import fold_plan, fold_step
from fl_main.ledger import Outcome
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import (
    EventRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RunRecord,
    RunSnapshot,
    Store,
    StoredPayload,
    TaskRecord,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies import strategy_of
from fl_main.training import Kind
from fl_main.weights import ArraySpec, DType, Layout

GROUP = 50  # decisions in a transaction
EVALUATORS = 5  # agents that have data to measure global models on
BAD = 0.002  # part of the updates that are wrong
GONE = 0.002  # part of the tasks after which an agent goes away for a while
SECONDS = (20.0, 60.0)  # that training takes
AWAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to look like.

    Attributes:
        values: Numbers in its model.
        at: Wall time of its beginning, Unix seconds.
        is_left_open: Stop in the middle of its last round.
    """

    name: str
    mode: str
    rounds: int
    agents: int
    values: int
    at: float
    seed: int
    is_left_open: bool

    def settings(self) -> RunSettings:
        """Return settings with which a few updates of every round come too late."""
        least = max(1, self.agents * 9 // 10)
        sections = {
            "name": self.name,
            "mode": self.mode,
            "seed": self.seed,
            "round": {"min_agents": least, "min_updates": 1, "quorum": 0.97, "deadline_s": 600.0},
            "end": {"rounds": self.rounds},
            "config": {"learning_rate": 0.1, "local_epochs": 1},
        }
        return RunSettings.model_validate(sections)


class Fleet:
    """The agents of a run, and the daemon's part in it.

    Args:
        plan: What the run is to look like.
        store: Where all goes.
        group: Decisions in a transaction.
    """

    def __init__(self, plan: Plan, store: Store, group: int = GROUP) -> None:
        self._plan = plan
        self._group = group
        self._store = store
        self._at = 0.0
        self._coming: list[tuple[float, int, Callable[[], Event]]] = []  # a heap
        self._number = 0
        self._decided: list[Outcome] = []
        settings = plan.settings()
        self._chance = random.Random(plan.seed)
        self._layout = Layout([ArraySpec("w", DType.F32, (self._plan.values,))])
        run_id = hashlib.sha256(self._plan.name.encode()).hexdigest()[:24]
        self._created = RunRecord.begun(run_id, settings)
        self._settings = settings
        self._machine = RoundMachine(settings, strategy_of(settings), RunSnapshot(self._created))

    def train(self) -> None:
        """Do the whole run."""
        self._begin()
        while self._coming and not self._is_over():
            due = self._machine.next_wakeup()
            if due is not None and due < self._coming[0][0]:
                self._at = max(self._at, due)
                self._take(self._machine.handle(TimePassed(), self._at))
            else:
                self._at, _, happening = heapq.heappop(self._coming)
                self._take(self._machine.handle(happening(), self._at))
        self._commit()

    def _is_over(self) -> bool:
        """Whether the run is at its end, or at the place where it is to be left."""
        run = self._machine.run
        if not self._plan.is_left_open:
            return run.status.is_over
        is_last = run.rounds_done == self._plan.rounds - 1 and run.phase is Phase.COLLECTING
        return is_last and len(self._machine.ready(Kind.TRAIN)) > 0

    def _begin(self) -> None:
        run_id = self._created.run_id
        initial = self._arrays(f"{run_id}.initial")
        created = EventRecord(run_id, "run_created", actor="bench")
        model = ModelRecord(f"{run_id[:16]}.initial", run_id, 0, ModelKind.INITIAL, initial)
        self._take(Outcome([created]))
        self._take(self._machine.adopt(model))
        self._take(self._machine.start(0.0))
        for number in range(self._plan.agents):
            self._schedule(number * 0.01, partial(self._joined, f"site-{number:04}"))

    def _joined(self, agent_id: str) -> Event:
        number = int(agent_id.removeprefix("site-"))
        kinds = (Kind.TRAIN, Kind.EVALUATE) if number < EVALUATORS else (Kind.TRAIN,)
        held = tuple(task_id for task_id, agent in self._machine.unanswered.items() if agent == agent_id)
        attributes = {"beds": 100 + number, "region": "eu" if number % 2 else "us"}
        return AgentJoined(
            agent_id, agent_id, kinds, attributes, self._layout, held, software="fl_main bench"
        )

    def _schedule(self, delay_s: float, happening: Callable[[], Event]) -> None:
        self._number += 1
        heapq.heappush(self._coming, (self._at + delay_s, self._number, happening))

    # --- what follows from a decision -----------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        self._decided.append(outcome)
        if any(isinstance(effect, Fold) for effect in outcome.effects) or len(self._decided) >= self._group:
            self._commit()
        for effect in outcome.effects:
            self._perform(effect)

    def _commit(self) -> None:
        records = list(_grouped(self._decided))
        self._decided.clear()
        if records:
            self._store.commit(records, self._plan.at + self._at)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Assign):
            self._schedule(self._seconds(effect.task), partial(self._answer, effect.task))
        elif isinstance(effect, Receive):
            self._schedule(0.01, partial(self._received, effect.offer))
        elif isinstance(effect, Fold):
            plan = fold_plan(self._machine, effect)
            self._schedule(0.1, partial(fold_step, self._store, self._settings, plan))
        elif isinstance(effect, Answer) and effect.verdict is not Verdict.ACCEPTED:
            self._store.unstage([effect.task_id])

    def _seconds(self, task: TaskRecord) -> float:
        least, most = SECONDS
        return 1.0 if task.kind is Kind.EVALUATE else self._chance.uniform(least, most)

    # --- what agents do -------------------------------------------------------------------

    def _answer(self, task: TaskRecord) -> Event:
        if not self._machine.members[task.agent_id].is_present:
            self._schedule(AWAY_S, partial(self._answer, task))
            return TimePassed()
        progress = 1.0 / (1 + task.version)
        if task.kind is Kind.EVALUATE:
            metrics = {"accuracy": 1 - 0.5 * progress, "loss": progress}
            return UpdateOffered(Offered(task.task_id, task.agent_id, 40, metrics=metrics, seconds=1.0))
        if self._chance.random() < GONE:
            self._schedule(0.02, lambda: AgentLeft(task.agent_id, "connection lost"))
            self._schedule(AWAY_S, partial(self._joined, task.agent_id))
        examples = 0 if self._chance.random() < BAD else self._chance.randrange(50, 500)
        seconds = self._chance.uniform(*SECONDS)
        metrics = {"loss": progress * self._chance.uniform(0.9, 1.1)}
        payloads = {"weights": self._arrays(f"{task.task_id}.weights")}
        offer = Offered(task.task_id, task.agent_id, examples, 10, metrics, payloads, seconds)
        known = task.task_id in self._machine.tasks
        return UpdateOffered(offer, None if known else self._earlier(task))

    def _earlier(self, task: TaskRecord) -> tuple[TaskRecord, UpdateRecord | None] | None:
        self._commit()
        return self._store.find_task(task.task_id)

    def _received(self, offer: Offered) -> Event:
        if self._chance.random() < BAD:
            return UpdateSpoiled(offer, "weights: array 'w' has values that are NaN or infinite")
        return UpdateReceived(offer)

    def _arrays(self, name: str) -> StoredPayload:
        """Stage an array of noise."""
        values = np.frombuffer(self._chance.randbytes(4 * self._plan.values), np.uint32)
        data = (values / np.float32(2**32)).astype(np.float32)
        staging = self._store.stage(name, self._layout)
        staging.write(data.tobytes())
        return StoredPayload("weights", staging.finish(), self._layout.nbytes, self._layout, name)


def _grouped(outcomes: list[Outcome]) -> Iterator[Record]:
    """Yield the records of one transaction, of the run only what it is in the end."""
    last: RunRecord | None = None
    for outcome in outcomes:
        for record in outcome.records:
            if isinstance(record, RunRecord):
                last = record
            else:
                yield record
    if last is not None:
        yield last
