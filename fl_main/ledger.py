"""What the round machine knows: the run as it stands, who is here, what is out, what came back.

Everything is a record that was stored or is about to be; a ledger is made anew from the stored
ones after a restart. It answers questions and writes down; it decides nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fl_main.cohort import target_of
from fl_main.compression import download_codec_of, update_codec_of
from fl_main.events import Cancel, Effect
from fl_main.members import NEVER, UNANSWERED, Membership
from fl_main.phases import next_phase
from fl_main.plan import derive_id, download_id_of
from fl_main.settings import RunSettings
from fl_main.staleness import discount
from fl_main.store import (
    EventRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RunSnapshot,
    StepRecord,
    StoredPayload,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies.base import Contribution, Strategy
from fl_main.training import Kind
from fl_main.weights import Layout

BUFFER = 10  # updates that make a new model in mode async: K of Nguyen et al. 2022 (FedBuff)


@dataclass(slots=True)
class Outcome:
    """Records to store in one transaction, and effects to carry out after that."""

    records: list[Record] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Need:
    """The agents that a step needs before it can begin.

    Attributes:
        agents: How many must be here, free, and able to do it.
        eligible: How many are.
        busy: How many more are here, still at work on an earlier task.
        unfit: How many more are here, and do not meet the condition `where` of the settings.
        quarantined: How many more are here, and are left out.
    """

    kind: Kind
    agents: int
    eligible: int
    busy: int
    unfit: int = 0
    where: str = ""
    quarantined: int = 0

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
        text += f", {self.busy} more still busy with an earlier task" if self.busy else ""
        text += f", {self.quarantined} more in quarantine" if self.quarantined else ""
        return f"{text}; {self.unfit} more do not meet cohort.where: {self.where}" if self.unfit else text


class Ledger(Membership):
    """One run's facts.

    Attributes:
        run: The run as it stands.
        layout: Of the run's model, once there is one.
        codec: Of updates; None if they travel as they are.
        download_codec: Of global models; None if they travel as they are.
        models: Stored models that the run refers to, by id.
        updates: Accepted ones that no round has counted yet, and those of the current step.
        last_staleness: Mean and maximum over the updates of the last global model.
        waits_for: What it was last written down as waiting for, or an empty text.
        waits_since: Run time since when.
    """

    def __init__(self, settings: RunSettings, strategy: Strategy, snapshot: RunSnapshot) -> None:
        super().__init__(settings, snapshot)
        self.strategy = strategy
        self.codec = update_codec_of(settings.compression)
        self.download_codec = download_codec_of(settings.compression)
        self.run = snapshot.run
        self.round = snapshot.round
        self.step = snapshot.step
        self.models: dict[str, ModelRecord] = dict(snapshot.models)
        self.updates: dict[str, UpdateRecord] = {}
        for update in snapshot.updates:  # the first one counts: others that came for its task were refused
            task = self.tasks.get(update.task_id)
            if task is None or task.agent_id == update.agent_id:
                self.updates.setdefault(update.task_id, update)
        self.waits_for = ""
        self.waits_since = self.run.run_time_s
        self.last_staleness: dict[str, float] = {}
        self._out = Outcome()
        self._ready: dict[Kind, dict[str, None]] = {kind: {} for kind in Kind}  # accepted, not counted
        for update in self.updates.values():
            self._index(update)

    def _index(self, update: UpdateRecord) -> None:
        """Keep in mind whether an update waits to be counted."""
        if update.verdict is Verdict.ACCEPTED and update.counted_in is None:
            self._ready[update.kind][update.task_id] = None
        else:
            self._ready[update.kind].pop(update.task_id, None)

    @property
    def layout(self) -> Layout | None:
        """The layout of the run's model, once there is one."""
        model = self.models.get(self.run.model_id or "")
        return model.payload.layout if model else None

    @property
    def sent_layout(self) -> Layout | None:
        """The layout of the weights of an update on their way."""
        return self.layout if self.layout is None or self.codec is None else self.codec.layout(self.layout)

    @property
    def sent_model_id(self) -> str | None:
        """The run's model as agents are given it: encoded, where that was made."""
        download_id = download_id_of(self.run.model_id)
        return download_id if download_id in self.models else self.run.model_id

    def whole_of(self, model_id: str) -> str:
        """Return the global model that a model is the encoded form of; of any other the model itself."""
        model = self.models.get(model_id)
        return model.parents[0][0] if model and model.kind is ModelKind.DOWNLOAD else model_id

    def payloads_of(self, update: UpdateRecord) -> list[StoredPayload]:
        """Return where the arrays of a stored update lie."""
        ids = [
            update.model_id if channel == "weights" else derive_id(update.task_id, channel)
            for channel in update.digests
        ]
        return [self.models[model_id or ""].payload for model_id in ids]

    def base_of(self, update: UpdateRecord) -> str | None:
        """Return the model that a stored update was trained on."""
        model = self.models.get(update.model_id or "")
        return model.parents[0][0] if model and model.parents else None

    def is_delta(self, update: UpdateRecord) -> bool:
        """Whether the weights of a stored update are differences from its base."""
        model = self.models.get(update.model_id or "")
        return model is not None and model.form == "delta"

    def codec_of(self, update: UpdateRecord) -> str:
        """Return what decodes the weights of a stored update, in words."""
        model = self.models.get(update.model_id or "")
        return model.codec if model else ""

    def contribution_of(self, update: UpdateRecord) -> Contribution:
        """Return the facts of an update as its strategy is to see them now."""
        staleness = max(0, self.run.rounds_done - update.version)
        counts = 1.0 if self.settings.mode == "sync" else discount(staleness, self.settings.staleness)
        return Contribution(
            self._labels()[update.agent_id],
            update.num_examples,
            update.num_steps,
            staleness,
            update.metrics,
            counts,
        )

    def _taken(self) -> Outcome:
        outcome, self._out = self._out, Outcome()
        if outcome.records:
            outcome.records.append(self.run)
        return outcome

    # --- who is here -------------------------------------------------------------------------

    @property
    def is_async(self) -> bool:
        """Whether agents are given tasks at any time, not only when a round begins."""
        return self.settings.mode == "async"

    def is_open_to_all(self, kind: Kind) -> bool:
        """Whether a step of a kind asks whoever becomes free, instead of a cohort when it begins."""
        return self.is_async and kind in (Kind.TRAIN, Kind.EVALUATE)

    @property
    def form(self) -> str:
        """What agents answer training tasks with: `full` models, or a `delta` to their base."""
        return self.settings.form

    def eligible(self, kind: Kind) -> list[str]:
        """Return the agents that can be given a task of a kind now."""
        return [agent_id for agent_id in self._free if self._can(agent_id, kind)]

    def _can(self, agent_id: str, kind: Kind) -> bool:
        """Whether an agent is one for tasks of a kind, busy or not."""
        record = self.members[agent_id].record
        if kind not in record.kinds or record.quarantined:
            return False
        if kind is Kind.EVALUATE:  # a sleeper would not hear of it in time
            return record.poll_s is None or record.poll_s <= self.settings.evaluate.deadline_s
        return kind is not Kind.TRAIN or self.is_meant(agent_id)

    def is_meant(self, agent_id: str) -> bool:
        """Whether an agent is one of those that the settings want in the cohorts."""
        where = self.settings.cohort.where
        return not where or self.candidate(agent_id).meets(where)

    def trainers(self) -> int:
        """Return how many agents of the run may train, here or not."""
        known = self.members.items()
        return sum(Kind.TRAIN in member.record.kinds and self.is_meant(agent) for agent, member in known)

    def need(self, kind: Kind) -> Need:
        """Return what a step of a kind needs to begin."""
        least = max(self.settings.round.min_agents, self.least_of(kind))
        if kind in (Kind.INITIALISE, Kind.EVALUATE):
            least = 1
        is_open = self.is_open_to_all(kind)  # it does not wait for the busy ones
        return Need(
            kind,
            least,
            len(self.able(kind) if is_open else self.eligible(kind)),
            0 if is_open else self._busy,
            self._unfit(kind),
            self.settings.cohort.where,
            self._quarantined_here(),
        )

    def _unfit(self, kind: Kind) -> int:
        """Return how many are here that the settings leave out of the cohorts."""
        if kind is not Kind.TRAIN or not self.settings.cohort.where:
            return 0
        here = (member.record for member in self.members.values() if member.is_present)
        meant = sum(kind in record.kinds and not record.quarantined for record in here)
        return meant - len(self.able(kind))

    def _quarantined_here(self) -> int:
        return sum(member.is_present and bool(member.record.quarantined) for member in self.members.values())

    def able(self, kind: Kind) -> list[str]:
        """Return the agents that are here and can do tasks of a kind, busy or not."""
        return list(self._able(kind))

    def _able(self, kind: Kind) -> Iterator[str]:
        here = (agent_id for agent_id, member in self.members.items() if member.is_present)
        return (agent_id for agent_id in here if self._can(agent_id, kind))

    # --- what is out and what came -----------------------------------------------------------

    def accepted(self) -> list[UpdateRecord]:
        """Return what the current step can count: its own updates, and late ones where allowed."""
        return self.ready(self.step.kind) if self.step else []

    def ready(self, kind: Kind) -> list[UpdateRecord]:
        """Return accepted answers of a kind that were not counted yet, in the order in which they came."""
        return [self.updates[task_id] for task_id in self._ready[kind]]

    def in_fold(self) -> tuple[str, ...]:
        """Return the tasks whose updates are being combined: it is too late to leave one of them out."""
        return self.step.frozen if self.step and self.run.phase is Phase.AGGREGATING else ()

    def uncounted_of(self, agent_id: str) -> list[str]:
        """Return an agent's training tasks whose updates were accepted and will still be counted."""
        return [task_id for task_id in self._ready[Kind.TRAIN] if self.updates[task_id].agent_id == agent_id]

    def asked(self) -> list[str]:
        """Return the agents whose answers the current step can still count."""
        return list(self._asked())

    def _asked(self) -> Iterator[str]:
        step = self.step
        if step is None:
            return
        for task_id, agent_id in self.unanswered.items():
            task = self.tasks[task_id]
            if task.kind is step.kind and (task.kind is Kind.TRAIN or task.round_id == step.round_id):
                yield agent_id

    def _is_waited_for(self, agent_id: str) -> bool:
        """Whether an agent is here, or may be back at any moment."""
        left_at = self.members[agent_id].left_at
        return left_at is None or self._at < left_at + self.settings.round.rejoin_s

    def tasks_of(self, step: StepRecord) -> list[TaskRecord]:
        """Return the tasks that a step gave out, whatever became of them."""
        return [
            task
            for task in self.tasks.values()
            if (task.round_id, task.kind) == (step.round_id, step.kind) and task.assigned_s >= step.started_s
        ]

    def task_of(self, step: StepRecord, agent_id: str) -> TaskRecord | None:
        """Return the last task that a step gave to an agent."""
        task = self.last_task(agent_id, step.kind)
        return task if task and task.round_id == step.round_id else None

    def last_task(self, agent_id: str, kind: Kind) -> TaskRecord | None:
        """Return the last task of a kind that an agent was given, unless that is long ago."""
        return self.tasks.get(self.members[agent_id].last_tasks.get(kind, ""))

    def answered(self, step: StepRecord) -> int:
        """Return how many answers count towards what ends the step early: for a quorum none that is late."""
        ready = self._ready[step.kind]
        if step.kind is Kind.TRAIN and self.settings.mode == "semi-sync" and self._buffer_given() is None:
            return sum(self.updates[task_id].round_id == step.round_id for task_id in ready)
        return len(ready)

    def enough(self, step: StepRecord) -> int:
        """Return how many answers end the step early."""
        return step.enough or self.quorum_of(len(step.invited))

    def quorum_of(self, number: int) -> int:
        """Return what part of so many answers ends a step early."""
        return math.ceil(self.settings.round.quorum * number - 1e-9)  # 0.55 x 100 is 55.00…01

    def _buffer_given(self) -> int | None:
        """Return K as the settings or the strategy state it; in mode sync there is none."""
        if self.settings.mode == "sync":
            return None
        return self.settings.round.buffer or self.strategy.buffer

    def buffer(self) -> int:
        """Return K: how many updates make a new model where rounds do not wait for all."""
        given = self._buffer_given()
        if given is None:
            at_work = target_of(self.settings.cohort, len(self.able(Kind.TRAIN)))
            given = min(BUFFER, -(-at_work // 2))
        return max(given, self.least_of(Kind.TRAIN))

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

    def _seconds_for(self, task: TaskRecord) -> float | None:
        """Return how long an answer is waited for; in mode async tasks outlive their rounds."""
        if self.is_async and task.kind is Kind.TRAIN:
            return None
        return max(0.0, self.deadline() - self._at)

    def _model_round(self) -> int:
        model = self.models.get(self.run.model_id or "")
        return model.round_id if model else 0

    # --- writing down ------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        self.run = replace(self.run, **changes)

    def _move(self, trigger: str, **changes: Any) -> None:
        self._set(phase=next_phase(self.run.phase, trigger), **changes)

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
        if status not in UNANSWERED:
            self.unanswered.pop(task.task_id, None)
        self._out.records.append(self.tasks[task.task_id])

    def _set_update(self, update: UpdateRecord) -> None:
        """Write down what became of an update, or has now."""
        self.updates[update.task_id] = update
        self._out.records.append(update)
        self._index(update)

    def _release(self, task: TaskRecord, status: TaskStatus, reason: str) -> None:
        """Close a task that nobody waits for any more."""
        self._close_task(task, status, reason)
        self._note(f"task_{status}", agent_id=task.agent_id, task_id=task.task_id, reason=reason)

    def _cancel(self, task: TaskRecord, reason: str) -> None:
        """Release a task, and tell its agent."""
        self._release(task, TaskStatus.CANCELLED, reason)
        self._out.effects.append(Cancel(task.agent_id, task.task_id, reason))

    def _release_all(self, reason: str) -> None:
        for task_id in list(self.unanswered):
            self._cancel(self.tasks[task_id], reason)

    def _discard_accepted(self, update: UpdateRecord, reason: str) -> None:
        """Turn an accepted update that will never count into a discarded one."""
        self._set_update(replace(update, verdict=Verdict.DISCARDED, reason=reason))
        task = self.tasks.get(update.task_id)
        took_s = update.received_s - task.assigned_s if task else update.seconds
        self.effort.wasted_s += took_s
        self.effort.busy_s = max(0.0, self.effort.busy_s - took_s)

    def _forget(self) -> None:
        """Drop what no later event can need: memory does not grow with the rounds."""
        for other in Kind:
            if other is not Kind.TRAIN:
                self._ready[other].clear()
        uncounted = self._ready[Kind.TRAIN]
        here = (member for member in self.members.values() if member.left_at != NEVER)
        busy = {member.task_id for member in here}  # their answers may still come
        open_ones = {*self.unanswered, *busy, *uncounted}
        self.tasks = {key: task for key, task in self.tasks.items() if key in open_ones}
        self.updates = {key: self.updates[key] for key in uncounted}
        named = {self.run.model_id, self.sent_model_id, self.run.statistics_id, *self.run.state_ids.values()}
        channels = {derive_id(key, channel) for key in self.updates for channel in self.strategy.up}
        needed = (
            named
            | channels
            | {update.model_id for update in self.updates.values()}
            | {task.model_id for task in self.tasks.values()}
            | {self.base_of(update) for update in self.updates.values()}
            | self._states_of_bases()
        )
        self.models = {key: model for key, model in self.models.items() if key in needed}

    def _states_of_bases(self) -> set[str]:
        """Return the strategy's arrays that go with the models of tasks: a slow agent may yet fetch them."""
        bases = {task.model_round for task in self.tasks.values()}
        return {
            key
            for key, model in self.models.items()
            if model.kind is ModelKind.STATE and model.round_id in bases
        }
