"""A training run told as a list of events: the round machine, a store in memory, and agents."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fl_main.events import (
    AgentJoined,
    AgentLeft,
    Answer,
    Assign,
    Effect,
    Event,
    Fold,
    FoldFailed,
    Offered,
    Receive,
    RolledBack,
    Steered,
    StepFolded,
    TaskDeclined,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.ledger import Outcome
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import (
    EventRecord,
    ModelKind,
    ModelRecord,
    PastEvent,
    Phase,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StoredPayload,
    TaskRecord,
)
from fl_main.strategies import FedAvg, Strategy
from fl_main.training import Kind
from fl_main.weights import ArraySpec, DType, Layout
from fl_main.why.findings import View
from tests.fl_main.memory_store import MemoryStore

E = TypeVar("E")

LAYOUT = Layout([ArraySpec("w", DType.F32, (2,))])
SUMS = Layout([ArraySpec("n", DType.I64, ()), ArraySpec("sum", DType.F64, (3,))])
ALL_KINDS = tuple(str(kind) for kind in Kind)


def payload(
    content: str, layout: Layout = LAYOUT, channel: str = "weights", staged: str | None = None
) -> StoredPayload:
    """Return a payload whose digest follows from `content`."""
    digest = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
    return StoredPayload(channel, digest, layout.nbytes, layout, staged)


def run_settings(**sections: Any) -> RunSettings:
    """Return settings of a run without evaluation, unless the story is about that."""
    return RunSettings.model_validate({"name": "r", "evaluate": {"every": 0}, **sections})


class Story:
    """Feeds the machine, stores its records and plays the shell and the agents.

    Attributes:
        effects: What the last event led to.
        assigned: The last task that each agent was given.
        folds: Folds that were asked for and not yet done.
        history: All events; the wall clock of a story shows its run time.
    """

    def __init__(
        self,
        settings: RunSettings | None = None,
        strategy: Callable[[], Strategy] = FedAvg,
        *,
        initial: bool = True,
    ) -> None:
        self.settings = settings or run_settings()
        self.make_strategy = strategy
        self.at = 0.0
        run = RunRecord("1", "r", {}, self.settings.digest, RunStatus.RUNNING, Phase.WAITING)
        self.store = MemoryStore(run)
        self.history: list[PastEvent] = []
        self.effects: list[Effect] = []
        self.assigned: dict[str, TaskRecord] = {}
        self.folds: list[Fold] = []
        self.machine = self._machine(RunSnapshot(run))
        if initial:
            self._take(
                self.machine.adopt(
                    ModelRecord("initial", "1", 0, ModelKind.INITIAL, payload("initial", staged="f"))
                )
            )
        self._take(self.machine.start(0.0))

    def _machine(self, snapshot: RunSnapshot) -> RoundMachine:
        return RoundMachine(self.settings, self.make_strategy(), snapshot)

    def _take(self, outcome: Outcome) -> list[Effect]:
        self.store.commit(outcome.records)
        self.history += [
            PastEvent(self.at, event) for event in outcome.records if isinstance(event, EventRecord)
        ]
        assert not outcome.records or outcome.records[-1] == self.machine.run
        self.effects = outcome.effects
        for effect in outcome.effects:
            if isinstance(effect, Assign):
                self.assigned[effect.task.agent_id] = effect.task
            elif isinstance(effect, Fold):
                self.folds.append(effect)
        return outcome.effects

    # --- what happens ---------------------------------------------------------------------

    def tell(self, event: Event) -> list[Effect]:
        return self._take(self.machine.handle(event, self.at))

    def join(
        self,
        *agents: str,
        held: tuple[str, ...] = (),
        kinds: tuple[str, ...] = ALL_KINDS,
        layout: Layout | None = None,
        poll_s: float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> list[Effect]:
        found: list[Effect] = []
        for agent in agents:
            found += self.tell(
                AgentJoined(agent, agent.upper(), kinds, attributes or {}, layout, held, poll_s=poll_s)
            )
        return found

    def visit(self, agent: str, poll_s: float, held: tuple[str, ...] = ()) -> list[Effect]:
        """Let an agent that polls come, hear what there is for it, and hang up."""
        found = self.join(agent, poll_s=poll_s, held=held)
        return found + self.leave(agent)

    def gather(self, *agents: str, **facts: Any) -> None:
        """Let all of them join before anything begins."""
        self.steer("pause")
        self.join(*agents, **facts)
        self.steer("resume")

    def leave(self, agent: str, *, for_good: bool = False) -> list[Effect]:
        return self.tell(AgentLeft(agent, for_good=for_good))

    def wait(self, seconds: float) -> list[Effect]:
        self.at += seconds
        return self.tell(TimePassed())

    def steer(self, order: str) -> list[Effect]:
        return self.tell(Steered(order, "anna"))

    def roll_back(self, round_id: int, **facts: Any) -> list[Effect]:
        """Go on from an earlier round, which must be possible."""
        to = self.store.milestone(round_id)
        assert to is not None
        order = RolledBack(to, "anna", **facts)
        assert self.machine.objection_to_rollback(order) == ""
        return self.tell(order)

    def decline(self, agent: str, code: str = "skipped") -> list[Effect]:
        return self.tell(TaskDeclined(self.assigned[agent].task_id, agent, code, "because"))

    def offer(self, agent: str, content: str = "", task: TaskRecord | None = None, **facts: Any) -> Offered:
        """Return the facts of an agent's answer to its last task, right unless told otherwise."""
        task = task or self.assigned[agent]
        payloads: Mapping[str, StoredPayload] = {}
        if task.kind is not Kind.EVALUATE:
            layout = SUMS if task.kind is Kind.STATISTICS else LAYOUT
            name = f"{task.task_id}.weights"
            payloads = {"weights": payload(content or f"{agent} {task.task_id}", layout, staged=name)}
        return Offered(task.task_id, agent, **{"num_examples": 10, "payloads": payloads, **facts})

    def send(self, offer: Offered) -> Answer:
        """Offer an update, send its bytes if they are wanted, and return the answer."""
        effects = self.propose(offer)
        if any(isinstance(effect, Receive) for effect in effects):
            effects = self.tell(UpdateReceived(offer))
        return only(effects, Answer)

    def propose(self, offer: Offered) -> list[Effect]:
        known = offer.task_id in self.machine.tasks
        earlier = None if known else self.store.find_task(offer.task_id)
        return self.tell(UpdateOffered(offer, earlier))

    def answer(self, *agents: str, **facts: Any) -> list[Answer]:
        return [self.send(self.offer(agent, **facts)) for agent in agents]

    def spoil(self, offer: Offered, reason: str) -> list[Effect]:
        return self.tell(UpdateSpoiled(offer, reason))

    def fold(self, **facts: Any) -> list[Effect]:
        """Do the fold that was asked for."""
        fold = self.folds.pop(0)
        total = sum(update.num_examples for update in fold.updates)
        shares = () if fold.kind is Kind.STATISTICS else [u.num_examples / total for u in fold.updates]
        state = {
            name: payload(f"{name} {fold.round_id}", staged=name) for name in self.machine.strategy.state
        }
        layout = SUMS if fold.kind is Kind.STATISTICS else LAYOUT
        model = payload(f"folded {[update.task_id for update in fold.updates]}", layout, staged="fold")
        parts = {"model": model, "state": state, "shares": tuple(shares), **facts}
        return self.tell(StepFolded(fold, **parts))

    def fail_fold(self, reason: str = "not finite") -> list[Effect]:
        fold = self.folds.pop(0)
        return self.tell(FoldFailed(fold, reason))

    def restart(self) -> list[Effect]:
        """Crash, and make the machine anew from what was stored; no agent is connected."""
        self.folds.clear()
        self.machine = self._machine(self.store.snapshot())
        return self._take(self.machine.start(self.at))

    def do_round(self, *agents: str, **facts: Any) -> None:
        """Let agents answer their tasks and fold them."""
        self.answer(*agents, **facts)
        self.fold()

    def view(self, **facts: Any) -> View:
        """Return what `fl why` looks at."""
        known: dict[str, Any] = {"now": self.at, "history": self.history}
        return View(self.machine, self.at, **known | facts)

    # --- what came of it ------------------------------------------------------------------

    @property
    def run(self) -> RunRecord:
        return self.machine.run

    @property
    def stand(self) -> tuple[int, str, str]:
        """Round, kind of step, and phase."""
        return self.run.round_id, str(self.run.kind), str(self.run.phase)

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        return [event.details for event in self.store.events if event.kind == kind]

    def verdicts(self, agent: str) -> list[tuple[str, str]]:
        return [(str(u.verdict), u.reason) for u in self.store.updates.values() if u.agent_id == agent]


def of_type(effects: list[Effect], kind: type[E]) -> list[E]:
    """Return the effects of one type."""
    return [effect for effect in effects if isinstance(effect, kind)]


def only(effects: list[Effect], kind: type[E]) -> E:
    """Return the one effect of a type."""
    [effect] = of_type(effects, kind)
    return effect
