"""What the round machine knows: the run as it stands, who is here, what is out, what came back.

Everything is a record that was stored or is about to be; a ledger is made anew from the stored
ones after a restart. It answers questions and writes down; it decides nothing.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fl_main.events import (
    Effect,
)
from fl_main.plan import derive_id
from fl_main.settings import RunSettings
from fl_main.store import (
    AgentRecord,
    EventRecord,
    ModelRecord,
    Record,
    RunSnapshot,
    StepRecord,
    StoredPayload,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies.base import Strategy
from fl_main.training import Kind
from fl_main.weights import Layout

NEVER = -math.inf  # left for good


@dataclass(slots=True)
class Outcome:
    """Records to store in one transaction, and effects to carry out after that."""

    records: list[Record] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


@dataclass(slots=True)
class Member:
    """An agent that is or was here.

    Attributes:
        left_at: Run time at which its connection ended; None while it is here.
        task_id: What it is busy with, even if nobody waits for that any more.
    """

    record: AgentRecord
    layout: Layout | None = None
    left_at: float | None = None
    task_id: str | None = None
    since: float = 0.0

    @property
    def is_present(self) -> bool:
        """Whether it is connected."""
        return self.left_at is None


@dataclass(frozen=True, slots=True)
class Need:
    """The agents that a step needs before it can begin.

    Attributes:
        agents: How many must be here, free, and able to do it.
        eligible: How many are.
        busy: How many more are here, still at work on an earlier task.
    """

    kind: Kind
    agents: int
    eligible: int
    busy: int

    @property
    def is_met(self) -> bool:
        """Whether there are enough."""
        return self.eligible >= self.agents

    def __str__(self) -> str:
        if self.kind is Kind.INITIALISE:
            return "an agent that offers an initial model"
        if self.kind is Kind.EVALUATE:
            return "an agent that can evaluate"
        agents = f"{self.agents} agent{'s' * (self.agents != 1)} for {self.kind}"
        text = f"{agents}; {self.eligible} {'is' if self.eligible == 1 else 'are'} here"
        return f"{text}, {self.busy} more still busy with an earlier task" if self.busy else text


class Ledger:
    """One run's facts.

    Attributes:
        run: The run as it stands.
        layout: Of the run's model, once there is one.
        models: Stored models that the run refers to, by id.
        members: Agents by id.
        tasks: Those of the current step, and older ones that may still be answered.
        updates: Accepted ones that no round has counted yet, and those of the current step.
        waits_for: What it was last written down as waiting for, or an empty text.
        waits_since: Run time since when.
    """

    def __init__(self, settings: RunSettings, strategy: Strategy, snapshot: RunSnapshot) -> None:
        self.settings = settings
        self.strategy = strategy
        self.run = snapshot.run
        self.round = snapshot.round
        self.step = snapshot.step
        self.models: dict[str, ModelRecord] = dict(snapshot.models)
        self.tasks = {task.task_id: task for task in snapshot.tasks}
        self.updates: dict[str, UpdateRecord] = {}
        for update in snapshot.updates:  # the first one counts: others that came for its task were refused
            task = self.tasks.get(update.task_id)
            if task is None or task.agent_id == update.agent_id:
                self.updates.setdefault(update.task_id, update)
        self.members = {
            agent.agent_id: Member(
                replace(agent, is_present=False), left_at=self.run.run_time_s, since=self.run.run_time_s
            )
            for agent in snapshot.agents
        }
        self.waits_for = ""
        self.waits_since = self.run.run_time_s
        self._out = Outcome()
        self._at = self.run.run_time_s
        self._restore_busy()

    def _restore_busy(self) -> None:
        for task in self.tasks.values():
            if task.status in (TaskStatus.OPEN, TaskStatus.LATE) and task.agent_id in self.members:
                self.members[task.agent_id].task_id = task.task_id

    @property
    def layout(self) -> Layout | None:
        """The layout of the run's model, once there is one."""
        model = self.models.get(self.run.model_id or "")
        return model.payload.layout if model else None

    def payloads_of(self, update: UpdateRecord) -> list[StoredPayload]:
        """Return where the arrays of a stored update lie."""
        ids = [
            update.model_id if channel == "weights" else derive_id(update.task_id, channel)
            for channel in update.digests
        ]
        return [self.models[model_id or ""].payload for model_id in ids]

    def _taken(self) -> Outcome:
        outcome, self._out = self._out, Outcome()
        if outcome.records:
            outcome.records.append(self.run)
        return outcome

    # --- who is here -------------------------------------------------------------------------

    def _labels(self) -> dict[str, str]:
        """Return the names by which agents are seeded and put in order, by their ids.

        Names, not ids: an id is drawn when an agent's state folder is made, and a run that is
        repeated with fresh folders shall give the same bits. Agents of one name are told apart
        by their ids.
        """
        names = Counter(member.record.name for member in self.members.values())
        return {
            agent_id: member.record.name
            if names[member.record.name] == 1
            else f"{member.record.name}/{agent_id}"
            for agent_id, member in self.members.items()
        }

    def eligible(self, kind: Kind) -> list[str]:
        """Return the agents that can be given a task of a kind now."""
        return [
            agent_id
            for agent_id, member in self.members.items()
            if member.is_present and member.task_id is None and kind in member.record.kinds
        ]

    def need(self, kind: Kind) -> Need:
        """Return what a step of a kind needs to begin."""
        least = max(self.settings.round.min_agents, self.least_of(kind))
        if kind in (Kind.INITIALISE, Kind.EVALUATE):
            least = 1
        busy = sum(1 for member in self.members.values() if member.is_present and member.task_id is not None)
        return Need(kind, least, len(self.eligible(kind)), busy)

    def rejoin_times(self, agents: Iterable[str]) -> list[float]:
        """Return until when those agents whose connection broke may be back."""
        left = [self.members[agent].left_at for agent in agents]
        return [at + self.settings.round.rejoin_s for at in left if at is not None and at != NEVER]

    # --- what is out and what came -----------------------------------------------------------

    def accepted(self) -> list[UpdateRecord]:
        """Return what the current step can count: its own updates, and late ones where allowed."""
        step = self.step
        if step is None:
            return []
        return [
            update
            for update in self.updates.values()
            if update.verdict is Verdict.ACCEPTED
            and update.counted_in is None
            and update.kind is step.kind
            and (update.round_id == step.round_id or step.kind is Kind.TRAIN)
        ]

    def asked(self) -> list[str]:
        """Return the agents whose answers to the current step are still out."""
        step = self.step
        if step is None:
            return []
        return [
            task.agent_id
            for task in self.tasks.values()
            if task.status is TaskStatus.OPEN and (task.round_id, task.kind) == (step.round_id, step.kind)
        ]

    def _waited_for(self) -> list[str]:
        """Return those of them that are here, or may be back at any moment."""
        patience = self.settings.round.rejoin_s
        return [
            agent
            for agent in self.asked()
            if (left_at := self.members[agent].left_at) is None or self._at < left_at + patience
        ]

    def task_id(self, step: StepRecord, agent_id: str) -> str:
        """Return the id of the task that a step has for an agent."""
        place = (step.round_id, step.kind, step.attempt, repr(step.started_s))
        return derive_id(self.run.run_id, *place, agent_id)

    def tasks_of(self, step: StepRecord) -> list[TaskRecord]:
        """Return the tasks that a step gave out, whatever became of them."""
        return [
            task
            for task in self.tasks.values()
            if (task.round_id, task.kind) == (step.round_id, step.kind) and task.assigned_s >= step.started_s
        ]

    def _is_uncounted(self, update: UpdateRecord) -> bool:
        return update.verdict is Verdict.ACCEPTED and update.counted_in is None and update.kind is Kind.TRAIN

    def quorum(self, step: StepRecord) -> int:
        """Return how many answers end the step early: a fraction of those who were asked."""
        return math.ceil(self.settings.round.quorum * len(step.invited) - 1e-9)  # 0.55 x 100 is 55.00…01

    def least(self) -> int:
        """Return how many updates the current step needs at least."""
        return self.least_of(self.step.kind) if self.step else 0

    def least_of(self, kind: Kind) -> int:
        """Return how many updates a step of a kind needs at least."""
        if kind is Kind.EVALUATE:
            return 0
        if kind is Kind.INITIALISE:
            return 1
        return max(self.settings.round.min_updates, self.strategy.min_updates)

    def deadline(self) -> float:
        """Return the run time at which the current step ends or is extended."""
        if self.step is None:
            return math.inf
        return self.step.started_s + self.step.deadline_s * (2 if self.step.extended else 1)

    def _seconds_left(self) -> float:
        return max(0.0, self.deadline() - self._at)

    def _model_round(self) -> int:
        model = self.models.get(self.run.model_id or "")
        return model.round_id if model else 0

    # --- writing down ------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        self.run = replace(self.run, **changes)

    def _note(self, kind: str, agent_id: str | None = None, actor: str = "", **details: Any) -> None:
        self._out.records.append(
            EventRecord(self.run.run_id, kind, self.run.round_id, agent_id, actor or agent_id or "", details)
        )

    def _note_wait(self, what: str, **details: Any) -> None:
        """Write down, once for each wait, that it has begun; an empty text ends it."""
        if what and what != self.waits_for:
            self.waits_since = self._at
            self._note(what, **details)
        self.waits_for = what

    def _keep(self, model: ModelRecord) -> None:
        """Remember a model as it lies in the store once this outcome is stored."""
        self.models[model.model_id] = replace(model, payload=replace(model.payload, staged=None))

    def _close_task(self, task: TaskRecord, status: TaskStatus, reason: str) -> None:
        self.tasks[task.task_id] = replace(task, status=status, reason=reason)
        self._out.records.append(self.tasks[task.task_id])

    def _release(self, task: TaskRecord, status: TaskStatus, reason: str) -> None:
        """Close a task that nobody waits for any more."""
        self._close_task(task, status, reason)
        self._note(f"task_{status}", agent_id=task.agent_id, task_id=task.task_id, reason=reason)

    def _free(self, agent_id: str, task_id: str) -> None:
        member = self.members.get(agent_id)
        if member is not None and member.task_id == task_id:
            member.task_id, member.since = None, self._at

    def _forget(self) -> None:
        """Drop what no later event can need: memory does not grow with the rounds."""
        busy = {member.task_id for member in self.members.values()}  # their answers may still come
        self.tasks = {
            key: task for key, task in self.tasks.items() if task.status is TaskStatus.LATE or key in busy
        }
        self.updates = {key: update for key, update in self.updates.items() if self._is_uncounted(update)}
        named = {self.run.model_id, self.run.statistics_id, *self.run.state_ids.values()}
        channels = {derive_id(key, channel) for key in self.updates for channel in self.strategy.up}
        needed = (
            named
            | channels
            | {update.model_id for update in self.updates.values()}
            | {task.model_id for task in self.tasks.values()}
        )
        self.models = {key: model for key, model in self.models.items() if key in needed}
