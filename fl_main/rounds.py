"""The round machine: what happened goes in, what is to be done comes out.

It opens no socket and no database, starts no task and reads no clock: `at` is run time, the
seconds that the run was under way. A training run with lost agents and late updates is a list
of events in a test.

What comes out is an `Outcome`: records, to be stored in one transaction, and effects, to be
carried out once they are. So an update is stored before its agent hears *accepted*, and after
a crash the machine, made anew from the stored records, goes on where it was.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fl_main.errors import InvalidTransitionError, LayoutMismatchError
from fl_main.events import (
    AgentJoined,
    AgentLeft,
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
    Steered,
    StepFolded,
    TaskDeclined,
    TellCounted,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.plan import Step, choose_cohort, derive_id, derive_seed, end_reason, is_better, next_step
from fl_main.settings import RunSettings
from fl_main.store import (
    AgentRecord,
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RoundRecord,
    RunSnapshot,
    RunStatus,
    StepRecord,
    StoredPayload,
    TagRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies.base import Strategy
from fl_main.strategies.fold import state_layout
from fl_main.training import Kind
from fl_main.weights import Layout

# Phases and what moves a run from one to the next. `retry`: a failed step is tried again.
TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.WAITING, "started"): Phase.COLLECTING,
    (Phase.COLLECTING, "enough"): Phase.AGGREGATING,
    (Phase.COLLECTING, "deadline"): Phase.AGGREGATING,
    (Phase.COLLECTING, "retry"): Phase.WAITING,
    (Phase.AGGREGATING, "published"): Phase.WAITING,
    (Phase.AGGREGATING, "retry"): Phase.WAITING,
    (Phase.WAITING, "ended"): Phase.ENDED,
    (Phase.COLLECTING, "ended"): Phase.ENDED,
    (Phase.AGGREGATING, "ended"): Phase.ENDED,
    (Phase.ENDED, "reopened"): Phase.WAITING,
}


def next_phase(phase: Phase, trigger: str) -> Phase:
    """Return the phase after trigger.

    Raises:
        InvalidTransitionError: If there is none.
    """
    try:
        return TRANSITIONS[phase, trigger]
    except KeyError:
        raise InvalidTransitionError(f"{trigger!r} in phase {phase.value}") from None


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


NEVER = -math.inf  # left for good
MAX_EXAMPLES = 10**12  # of one update: sums over all agents still fit the database
LATE = "late"  # the reason of an update that was accepted though its round was over


class RoundMachine:
    """One run. See the module's text; `handle` is the only way to change it.

    Attributes:
        run: The run as it stands.
        layout: Of the run's model, once there is one.
        models: Stored models that the run refers to, by id.
        members: Agents by id.
        tasks: Those of the current step, and older ones that may still be answered.
        updates: Accepted ones that no round has counted yet, and those of the current step.
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
            agent.agent_id: Member(replace(agent, is_present=False), left_at=self.run.run_time_s)
            for agent in snapshot.agents
        }
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

    # --- asking ---------------------------------------------------------------------------

    def refusal(self, layout: Layout | None) -> tuple[str, str] | None:
        """Return a code and the reason why an agent with this layout cannot join, or None."""
        if layout is None or self.layout is None or self.settings.payload == "free":
            return None
        try:
            self.layout.require_same(layout)
        except LayoutMismatchError as error:
            return "layout", str(error)
        return None

    def next_wakeup(self) -> float | None:
        """Return the run time at which `TimePassed` is next due, or None."""
        if self.run.status is not RunStatus.RUNNING:
            return None
        if self.run.phase is Phase.WAITING:
            return min((time for time in self._waking_times() if time > self._at), default=None)
        if self.run.phase is not Phase.COLLECTING or self.step is None:
            return None
        times = [self._deadline(), *self._rejoin_times(self._asked())]
        if self.step.quorum_s is not None:
            times.append(self.step.quorum_s + self.settings.round.grace_s)
        return min((time for time in times if time > self._at), default=self._at)

    def _waking_times(self) -> list[float]:
        """Return when a step that waits for agents is to be looked at again."""
        times = [self.settings.end.max_s] if self.settings.end.max_s is not None else []
        if next_step(self.run, self.settings).kind is Kind.EVALUATE:
            times += self._rejoin_times(self.members)
        return times

    def _rejoin_times(self, agents: Iterable[str]) -> list[float]:
        """Return until when those agents whose connection broke may be back."""
        left = [self.members[agent].left_at for agent in agents]
        return [at + self.settings.round.rejoin_s for at in left if at is not None and at != NEVER]

    def waiting_for(self) -> str:
        """Return what the run waits for, in words for people."""
        if self.run.status is not RunStatus.RUNNING:
            return f"{self.run.status}: {self.run.reason}" if self.run.reason else str(self.run.status)
        if self.run.phase is Phase.AGGREGATING:
            return "combining the updates"
        if self.run.phase is Phase.WAITING or self.step is None:
            return self._missing(next_step(self.run, self.settings))
        here = [agent for agent in self._asked() if self.members[agent].is_present]
        gone = [agent for agent in self._asked() if not self.members[agent].is_present]
        text = f"{self.step.kind}: {len(self._accepted())} of {len(self.step.invited)} answered"
        if here:
            text += f"; waiting for {self._names(here)}"
        if gone:
            text += f"; not connected: {self._names(gone)}"
        return f"{text}; at the latest in {self._seconds_left():.0f} s"

    def _names(self, agents: list[str]) -> str:
        names = [self.members[agent].record.name for agent in agents[:10]]
        return ", ".join(names) + (f" and {len(agents) - 10} more" if len(agents) > 10 else "")

    def payloads_of(self, update: UpdateRecord) -> list[StoredPayload]:
        """Return where the arrays of a stored update lie."""
        ids = [
            update.model_id if channel == "weights" else derive_id(update.task_id, channel)
            for channel in update.digests
        ]
        return [self.models[model_id or ""].payload for model_id in ids]

    # --- telling --------------------------------------------------------------------------

    def start(self, at: float) -> Outcome:
        """Begin, or go on after a restart: what was under way is done again.

        No agent is connected yet. A frozen step is folded again.
        """
        self._at = max(at, self._at)
        if self.run.phase is Phase.AGGREGATING and self.step is not None:
            self._out.effects.append(self._fold(self.step))
        self._look()
        return self._taken()

    def handle(self, event: Event, at: float) -> Outcome:
        """Take an event and return what is to be done.

        Args:
            event: What happened.
            at: Run time in seconds; it never goes back.

        Raises:
            InvalidTransitionError: If the event makes no sense now: a bug of the caller.
        """
        self._at = max(at, self._at)
        _HANDLERS[type(event)](self, event)
        self._look()
        return self._taken()

    def adopt(self, model: ModelRecord) -> Outcome:
        """Start from a model that did not come from an agent: a file, or another run's."""
        self._publish_initial(model)
        self.round = RoundRecord(
            self.run.run_id, 0, "done", model_id=model.model_id, started_s=self._at, ended_s=self._at
        )
        self._out.records.append(self.round)
        self._look()
        return self._taken()

    def _taken(self) -> Outcome:
        outcome, self._out = self._out, Outcome()
        if outcome.records:
            outcome.records.append(self.run)
        return outcome

    # --- agents ---------------------------------------------------------------------------

    def _join(self, event: AgentJoined) -> None:
        record = AgentRecord(
            self.run.run_id, event.agent_id, event.name, event.attributes, event.kinds, event.software, True
        )
        member = self.members.get(event.agent_id)
        if member is None:
            member = self.members[event.agent_id] = Member(record)
        member.record, member.layout, member.left_at, member.since = record, event.layout, None, self._at
        self._out.records.append(record)
        self._note("agent_joined", agent_id=event.agent_id, name=event.name)
        self._take_up(member, event.held)
        if self.run.status.is_over:
            self._out.effects.append(EndRun(event.agent_id))

    def _take_up(self, member: Member, held: tuple[str, ...]) -> None:
        """Go on with the task that an agent left with: it may have it, or need it again."""
        task = self.tasks.get(member.task_id or "")
        if task is None or task.status not in (TaskStatus.OPEN, TaskStatus.LATE):
            if member.task_id not in held:
                member.task_id = None
            return
        if task.task_id in held:
            return
        if task.status is TaskStatus.OPEN:
            self._out.effects.append(Assign(task, self._seconds_left()))
        else:
            self._close_task(task, TaskStatus.CANCELLED, "its process ended before the late update was done")
            member.task_id = None

    def _leave(self, event: AgentLeft) -> None:
        member = self.members.get(event.agent_id)
        if member is None or not member.is_present:
            return
        member.left_at = NEVER if event.for_good else self._at
        member.since = self._at
        member.record = replace(member.record, is_present=False)
        self._out.records.append(member.record)
        self._note("agent_left", agent_id=event.agent_id, reason=event.reason, for_good=event.for_good)

    def _expel_unfit(self) -> None:
        for agent_id, member in self.members.items():
            if member.is_present and (refusal := self.refusal(member.layout)):
                self._leave(AgentLeft(agent_id, refusal[1], for_good=True))  # it gets no task any more
                self._out.effects.append(Expel(agent_id, *refusal))

    # --- updates --------------------------------------------------------------------------

    def _offered(self, event: UpdateOffered) -> None:
        offer = event.offer
        task, answer = self._known(event)
        if task is None or task.agent_id != offer.agent_id:
            self._reject(offer, None, "there was never such a task for this agent")
        elif answer is not None:
            self._answer_again(offer, task, answer)
        elif fault := self._fault(offer, task):
            self._reject(offer, task, fault)
        elif lateness := self._lateness(task):
            self._discard(offer, task, lateness)
        elif not offer.payloads:
            self._accept(offer, task)
        else:
            self._out.effects.append(Receive(offer))

    def _known(self, event: UpdateOffered) -> tuple[TaskRecord | None, UpdateRecord | None]:
        task = self.tasks.get(event.offer.task_id)
        if task is not None:
            return task, self.updates.get(task.task_id)
        task, answer = event.earlier or (None, None)
        is_own = task is not None and answer is not None and answer.agent_id == task.agent_id
        return task, answer if is_own else None

    def _received(self, event: UpdateReceived) -> None:
        offer = event.offer
        task = self.tasks.get(offer.task_id)
        if task is None:  # forgotten: its agent left for good, or was busy with another task
            self._answer(offer, Verdict.DISCARDED, "its round is over")
        elif answer := self.updates.get(offer.task_id):
            self._answer_again(offer, task, answer)
        elif fault := self._fault(offer, task):  # others may have settled what is wanted meanwhile
            self._reject(offer, task, fault)
        elif lateness := self._lateness(task):
            self._discard(offer, task, lateness)
        else:
            self._accept(offer, task)

    def _spoiled(self, event: UpdateSpoiled) -> None:
        task = self.tasks.get(event.offer.task_id)
        if task is None:
            self._answer(event.offer, Verdict.REJECTED, event.reason)
        elif answer := self.updates.get(task.task_id):
            self._answer_again(event.offer, task, answer)
        else:
            self._reject(event.offer, task, event.reason)

    def _answer_again(self, offer: Offered, task: TaskRecord, answer: UpdateRecord) -> None:
        if dict(answer.digests) == offer.digests:
            late = answer.verdict is Verdict.ACCEPTED and answer.reason == LATE
            self._answer(offer, answer.verdict, "" if late else answer.reason, late=late)
        else:
            reason = "its task was already answered with another update"
            self._out.records.append(self._update(offer, task, Verdict.REJECTED, reason))
            self._answer(offer, Verdict.REJECTED, reason)

    def _fault(self, offer: Offered, task: TaskRecord) -> str:
        """Return what is wrong with the facts of an update, or an empty text."""
        if task.kind in (Kind.TRAIN, Kind.EVALUATE) and offer.num_examples <= 0:
            return f"num_examples is {offer.num_examples}; it must be at least 1"
        if offer.num_examples > MAX_EXAMPLES:
            return f"num_examples is {offer.num_examples}; it can be at most {MAX_EXAMPLES}"
        wanted = self._wanted(task)
        if missing := sorted(wanted.keys() - offer.payloads.keys()):
            return f"the payload {missing[0]!r} is missing"
        if extra := sorted(offer.payloads.keys() - wanted.keys()):
            return f"the payload {extra[0]!r} is not part of such an update"
        for channel, layout in wanted.items():
            if layout is None:
                continue
            try:
                layout.require_same(offer.payloads[channel].layout)
            except LayoutMismatchError as error:
                return f"{channel}: {error}" if channel != "weights" else str(error)
        return self._missing_facts(offer) if task.kind is Kind.TRAIN else ""

    def _wanted(self, task: TaskRecord) -> Mapping[str, Layout | None]:
        """Return the channels that an answer must bring; None stands for any layout."""
        if task.kind is Kind.EVALUATE:
            return {}
        if task.kind is Kind.STATISTICS:
            return {"weights": self._statistics_layout()}
        if task.kind is Kind.INITIALISE or self.layout is None or self.settings.payload == "free":
            return {"weights": None}
        return {"weights": self.layout} | {name: state_layout(self.layout) for name in self.strategy.up}

    def _statistics_layout(self) -> Layout | None:
        """Return the layout of the first accepted sums: all others must be alike."""
        for update in self._accepted():
            return self.models[update.model_id or ""].payload.layout
        return None

    def _missing_facts(self, offer: Offered) -> str:
        for need in self.strategy.needs:
            known = offer.num_steps if need == "num_steps" else offer.metrics.get(need)
            if known is None:
                return f"the strategy {self.settings.strategy} needs {need!r} with every update"
        return ""

    def _lateness(self, task: TaskRecord) -> str:
        """Return why an answer to this task comes too late, or an empty text."""
        if self.run.status.is_over:
            return f"the run is {self.run.status}"
        if task.task_id in self.tasks:  # else it was closed, whatever a slower database says
            if task.status is TaskStatus.OPEN and self.run.phase is Phase.COLLECTING:
                return ""
            if task.status is TaskStatus.LATE:
                return ""
        if task.status in (TaskStatus.DECLINED, TaskStatus.FAILED):
            return f"its task was {task.status}"
        return f"late: round {task.round_id} is over"

    def _accept(self, offer: Offered, task: TaskRecord) -> None:
        late = task.status is TaskStatus.LATE
        update = self._update(offer, task, Verdict.ACCEPTED, LATE if late else "")
        self._out.records += self._stored_models(offer, update)
        self._out.records.append(update)
        self.updates[task.task_id] = update
        self._close_task(task, TaskStatus.ANSWERED, "")
        self._answer(offer, Verdict.ACCEPTED, late=late)
        if task.kind is Kind.EVALUATE and task.model_id:
            self._metrics_of(update, task.model_id, "evaluate")
        elif task.kind is Kind.TRAIN and update.model_id:
            self._metrics_of(update, update.model_id, "train")

    def _stored_models(self, offer: Offered, update: UpdateRecord) -> Iterable[ModelRecord]:
        for channel, payload in offer.payloads.items():
            kind = ModelKind.LOCAL if channel == "weights" else ModelKind.CHANNEL
            parents = ((base, None),) if (base := self.tasks[offer.task_id].model_id) else ()
            model_id = update.model_id if channel == "weights" else derive_id(offer.task_id, channel)
            record = ModelRecord(
                model_id or "", self.run.run_id, update.round_id, kind, payload, offer.agent_id, parents
            )
            self._keep(record)
            yield record

    def _keep(self, model: ModelRecord) -> None:
        """Remember a model as it lies in the store once this outcome is stored."""
        self.models[model.model_id] = replace(model, payload=replace(model.payload, staged=None))

    def _update(self, offer: Offered, task: TaskRecord | None, verdict: Verdict, reason: str) -> UpdateRecord:
        stored = verdict is Verdict.ACCEPTED and "weights" in offer.payloads
        return UpdateRecord(
            offer.task_id,
            self.run.run_id,
            task.round_id if task else -1,
            task.kind if task else Kind.TRAIN,
            offer.agent_id,
            verdict,
            reason,
            offer.num_examples,
            offer.num_steps,
            dict(offer.metrics),
            offer.digests,
            derive_id(offer.task_id, "weights") if stored else None,
            task.version if task else 0,
            size=sum(payload.size for payload in offer.payloads.values()),
            seconds=offer.seconds,
        )

    def _reject(self, offer: Offered, task: TaskRecord | None, reason: str) -> None:
        self._refuse_update(offer, task, Verdict.REJECTED, reason)

    def _discard(self, offer: Offered, task: TaskRecord, reason: str) -> None:
        self._refuse_update(offer, task, Verdict.DISCARDED, reason)

    def _refuse_update(self, offer: Offered, task: TaskRecord | None, verdict: Verdict, reason: str) -> None:
        update = self._update(offer, task, verdict, reason)
        self._out.records.append(update)
        self._note(f"update_{verdict}", agent_id=offer.agent_id, task_id=offer.task_id, reason=reason)
        if task is not None:
            self.updates[task.task_id] = update
            self._close_task(task, TaskStatus.ANSWERED, reason)
        self._answer(offer, verdict, reason)

    def _answer(self, offer: Offered, verdict: Verdict, reason: str = "", *, late: bool = False) -> None:
        self._free(offer.agent_id, offer.task_id)
        self._out.effects.append(Answer(offer.agent_id, offer.task_id, verdict, reason, late))

    def _declined(self, event: TaskDeclined) -> None:
        self._free(event.agent_id, event.task_id)
        task = self.tasks.get(event.task_id)
        if task is None or task.agent_id != event.agent_id or task.task_id in self.updates:
            return
        status = TaskStatus.FAILED if event.code == "error" else TaskStatus.DECLINED
        if task.status in (TaskStatus.OPEN, TaskStatus.LATE):
            self._close_task(task, status, f"{event.code}: {event.reason}")
            self._note(f"task_{status}", agent_id=event.agent_id, code=event.code, reason=event.reason)

    def _free(self, agent_id: str, task_id: str) -> None:
        member = self.members.get(agent_id)
        if member is not None and member.task_id == task_id:
            member.task_id, member.since = None, self._at

    def _close_task(self, task: TaskRecord, status: TaskStatus, reason: str) -> None:
        self.tasks[task.task_id] = replace(task, status=status, reason=reason)
        self._out.records.append(self.tasks[task.task_id])

    # --- steps ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Go as far as the facts allow: start a step, end it, end the run."""
        self.run = replace(self.run, run_time_s=self._at)
        if self.run.status is not RunStatus.RUNNING:
            return
        if self.run.phase is Phase.COLLECTING:
            self._try_to_close()
        if self.run.phase is Phase.WAITING:
            self._try_to_start()

    def _try_to_start(self) -> None:
        step = next_step(self.run, self.settings)
        if step.kind is not Kind.EVALUATE and (reason := end_reason(self.run, self.settings)):
            self._end(RunStatus.FINISHED, reason)
        elif not self._missing(step):
            self._begin(step)
        elif step.kind is Kind.EVALUATE and not self._may_be_back():
            self._note("evaluation_skipped", reason=self._missing(step))
            self._set(kind=Kind.EVALUATE)
            self._try_to_start()

    def _may_be_back(self) -> bool:
        """Whether an agent that can evaluate lost its connection, or we just started again."""
        able = [agent for agent, member in self.members.items() if Kind.EVALUATE in member.record.kinds]
        return any(self._at < time for time in self._rejoin_times(able))

    def _eligible(self, kind: Kind) -> list[str]:
        return [
            agent_id
            for agent_id, member in self.members.items()
            if member.is_present and member.task_id is None and kind in member.record.kinds
        ]

    def _missing(self, step: Step) -> str:
        """Return what a step still needs before it can begin, or an empty text."""
        eligible = len(self._eligible(step.kind))
        if step.kind is Kind.INITIALISE:
            return "" if eligible else "an agent that offers an initial model"
        if step.kind is Kind.EVALUATE:
            return "" if eligible else "an agent that can evaluate"
        needed = max(self.settings.round.min_agents, self._least_of(step.kind))
        if eligible >= needed:
            return ""
        busy = sum(1 for member in self.members.values() if member.is_present and member.task_id is not None)
        text = f"{needed} agents for {step.kind}; {eligible} are here"
        return f"{text}, {busy} more still busy with an earlier task" if busy else text

    def _begin(self, step: Step) -> None:
        settings = self.settings
        seed = derive_seed(settings.seed, step.round_id, step.kind)
        eligible = self._eligible(step.kind)
        invited, rule = tuple(sorted(eligible)), "all that can"
        if step.kind is Kind.INITIALISE:
            first = min(eligible, key=lambda agent: (self.members[agent].since, agent))
            invited, rule = (first,), "the first that offers"
        elif step.kind is Kind.TRAIN:
            labels = self._labels()
            ids = {labels[agent_id]: agent_id for agent_id in eligible}
            chosen, rule = choose_cohort(list(ids), settings.cohort, seed, self._least_of(step.kind))
            invited = tuple(sorted(ids[label] for label in chosen))
        deadline_s = settings.evaluate.deadline_s if step.kind is Kind.EVALUATE else settings.round.deadline_s
        self.step = StepRecord(
            self.run.run_id,
            step.round_id,
            step.kind,
            self._attempt(step),
            "open",
            tuple(sorted(eligible)),
            invited,
            rule,
            self._at,
            deadline_s,
        )
        if step.kind is not Kind.EVALUATE:
            self.round = RoundRecord(
                self.run.run_id, step.round_id, "open", self.run.model_id, started_s=self._at
            )
            self._out.records.append(self.round)
        self._out.records.append(self.step)
        self._move("started", round_id=step.round_id, kind=step.kind)
        self._forget()
        labels = self._labels()
        for agent_id in invited:
            self._assign(self.step, agent_id, labels[agent_id])

    def _labels(self) -> dict[str, str]:
        """Return the names by which agents are seeded and put in order, by their ids.

        Names, not ids: an id is drawn when an agent's state folder is made, and a run that is
        repeated with fresh folders shall give the same bits. Agents of one name are told apart
        by their ids.
        """
        names = Counter(member.record.name for member in self.members.values())
        return {
            agent_id: member.record.name if names[member.record.name] == 1 else f"{member.record.name}/{agent_id}"
            for agent_id, member in self.members.items()
        }

    def _attempt(self, step: Step) -> int:
        """Return how often this step was tried before; an operator may have reset the failures."""
        last = self.step
        if last is not None and (last.round_id, last.kind) == (step.round_id, step.kind):
            return last.attempt + 1
        return self.run.failed_rounds

    def _assign(self, step: StepRecord, agent_id: str, label: str) -> None:
        place = (self.run.run_id, step.round_id, step.kind, step.attempt, repr(step.started_s), agent_id)
        task = TaskRecord(
            derive_id(*place),
            self.run.run_id,
            step.round_id,
            step.kind,
            agent_id,
            TaskStatus.OPEN,
            self.run.model_id,
            self._model_round(),
            self.run.rounds_done,
            derive_seed(self.settings.seed, step.round_id, step.kind, label),
            self._at,
        )
        member = self.members[agent_id]
        member.task_id, member.since = task.task_id, self._at
        self.tasks[task.task_id] = task
        self._out.records.append(task)
        self._out.effects.append(Assign(task, self._seconds_left()))

    def _model_round(self) -> int:
        model = self.models.get(self.run.model_id or "")
        return model.round_id if model else 0

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

    def _is_uncounted(self, update: UpdateRecord) -> bool:
        return update.verdict is Verdict.ACCEPTED and update.counted_in is None and update.kind is Kind.TRAIN

    def _try_to_close(self) -> None:
        step = self.step
        if step is None:
            return
        updates, waited, least = self._accepted(), self._waited_for(), self._least()
        accepted = len(updates)
        answered = sum(update.round_id == step.round_id for update in updates)
        if step.quorum_s is None and answered >= self._quorum(step) and accepted >= least:
            self.step = step = replace(step, quorum_s=self._at)
            self._out.records.append(step)
        graced = step.quorum_s is not None and self._at >= step.quorum_s + self.settings.round.grace_s
        if (graced or not waited) and accepted >= least:
            self._close("enough")
        elif self._at >= self._deadline():
            self._run_out(step, accepted >= least)
        elif accepted < least and not self._asked():
            self._fail(f"{accepted} updates; {least} are needed and nobody else is working")
        elif step.kind is Kind.INITIALISE and not waited and self._eligible(step.kind):
            self._fail("the agent that was asked for a model is gone; another one is asked")

    def _run_out(self, step: StepRecord, is_enough: bool) -> None:
        if is_enough or step.kind is Kind.EVALUATE:
            self._close("deadline")
        elif not step.extended:
            self.step = replace(step, extended=True)
            self._out.records.append(self.step)
            self._note("deadline_extended", reason=f"{len(self._accepted())} updates; {self._least()} needed")
        else:
            self._fail(f"{len(self._accepted())} updates by the deadline; {self._least()} are needed")

    def _quorum(self, step: StepRecord) -> int:
        """Return how many answers end the step early: a fraction of those who were asked."""
        return math.ceil(self.settings.round.quorum * len(step.invited) - 1e-9)  # 0.55 x 100 is 55.00…01

    def _least(self) -> int:
        """Return how many updates the current step needs at least."""
        return self._least_of(self.step.kind) if self.step else 0

    def _least_of(self, kind: Kind) -> int:
        if kind is Kind.EVALUATE:
            return 0
        if kind is Kind.INITIALISE:
            return 1
        return max(self.settings.round.min_updates, self.strategy.min_updates)

    def _accepted(self) -> list[UpdateRecord]:
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

    def _asked(self) -> list[str]:
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
            for agent in self._asked()
            if (left_at := self.members[agent].left_at) is None or self._at < left_at + patience
        ]

    def _deadline(self) -> float:
        if self.step is None:
            return math.inf
        return self.step.started_s + self.step.deadline_s * (2 if self.step.extended else 1)

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline() - self._at)

    def _close(self, trigger: str) -> None:
        """Freeze the list of updates: from here on the step's result is decided."""
        step = self.step
        if step is None:
            raise InvalidTransitionError("there is no step to close")
        labels = self._labels()
        updates = sorted(self._accepted(), key=lambda update: (labels[update.agent_id], update.task_id))
        self._release_tasks(step)
        self.step = replace(
            step, status="frozen", frozen=tuple(update.task_id for update in updates), ended_s=self._at
        )
        self._out.records.append(self.step)
        self._move(trigger)
        if step.kind is Kind.EVALUATE:
            self._evaluated(updates)
        elif step.kind is Kind.INITIALISE:
            self._initialised(updates[0])
        else:
            self._out.effects.append(self._fold(self.step))

    def _fold(self, step: StepRecord) -> Fold:
        return Fold(step.round_id, step.kind, tuple(self.updates[task_id] for task_id in step.frozen))

    def _release_tasks(self, step: StepRecord) -> None:
        """Tell those who are still at work that nobody waits for them."""
        counts_late = (
            step.kind is Kind.TRAIN
            and self.settings.round.late_updates == "count"
            and self.strategy.late_allowed
        )
        for task in list(self.tasks.values()):
            if task.status is not TaskStatus.OPEN:
                continue
            self._close_task(
                task, TaskStatus.LATE if counts_late else TaskStatus.CANCELLED, "its round is over"
            )
            if not counts_late:
                self._out.effects.append(Cancel(task.agent_id, task.task_id, "its round is over"))

    # --- results --------------------------------------------------------------------------

    def _folded(self, event: StepFolded) -> None:
        step = self._frozen_step(event.round_id, event.kind)
        if step is None:
            return
        updates = [self.updates[task_id] for task_id in step.frozen]
        if event.kind is Kind.STATISTICS:
            self._publish_sums(event, updates)
        else:
            self._publish_global(event, updates)

    def _frozen_step(self, round_id: int, kind: Kind) -> StepRecord | None:
        """Return the frozen step that a fold belongs to; None if the run was stopped meanwhile."""
        step = self.step
        if step is None or self.run.phase is not Phase.AGGREGATING:
            return None
        return step if (step.round_id, step.kind) == (round_id, kind) else None

    def _initialised(self, update: UpdateRecord) -> None:
        local = self.models[update.model_id or ""]
        record = ModelRecord(
            derive_id(self.run.run_id, 0, "initial"),
            self.run.run_id,
            0,
            ModelKind.INITIAL,
            replace(local.payload, staged=None),
            update.agent_id,
            ((local.model_id, 1.0),),
        )
        self._count([update], (1.0,))
        self._publish_initial(record)
        self._finish_step("published")

    def _publish_initial(self, model: ModelRecord) -> None:
        self._keep(model)
        self._out.records.append(model)
        self._set(model_id=model.model_id, round_id=0, kind=Kind.INITIALISE, failed_rounds=0)
        self._note("initial_model", model_id=model.model_id, agent_id=model.agent_id)
        self._expel_unfit()

    def _publish_sums(self, event: StepFolded, updates: list[UpdateRecord]) -> None:
        model = self._new_model(event.model, ModelKind.STATISTICS, "statistics", updates, ())
        self._set(statistics_id=model.model_id, failed_rounds=0)
        self._count(updates, ())
        self._finish_step("published")

    def _publish_global(self, event: StepFolded, updates: list[UpdateRecord]) -> None:
        model = self._new_model(event.model, ModelKind.GLOBAL, "global", updates, event.shares)
        states = {
            name: self._new_model(payload, ModelKind.STATE, f"state/{name}", [], ())
            for name, payload in event.state.items()
        }
        self._set(
            model_id=model.model_id,
            state_ids={name: state.model_id for name, state in states.items()},
            rounds_done=self.run.rounds_done + 1,
            failed_rounds=0,
        )
        self._out.records.append(TagRecord(self.run.run_id, "final", model.model_id))
        self._count(updates, event.shares)
        if any(event.notes):
            self._note(
                "measured", notes={u.agent_id: dict(n) for u, n in zip(updates, event.notes, strict=True)}
            )
        self._note("round_done", updates=len(updates), model_id=model.model_id)
        self._mean_metrics("train", updates)
        self._finish_step("published", model.model_id)
        self._out.effects.append(Prune())

    def _new_model(
        self,
        payload: StoredPayload,
        kind: ModelKind,
        what: str,
        updates: list[UpdateRecord],
        shares: tuple[float | None, ...],
    ) -> ModelRecord:
        parents = tuple(
            (update.model_id, share)
            for update, share in zip(updates, shares or [None] * len(updates), strict=True)
            if update.model_id
        )
        model = ModelRecord(
            derive_id(self.run.run_id, self.run.round_id, self.run.failed_rounds, what),
            self.run.run_id,
            self.run.round_id,
            kind,
            payload,
            None,
            parents,
        )
        self._keep(model)
        self._out.records.append(model)
        return model

    def _count(self, updates: list[UpdateRecord], shares: tuple[float | None, ...]) -> None:
        """Write down that these updates are part of the model that was just made."""
        for update, share in zip(updates, shares or [None] * len(updates), strict=True):
            version = self.run.rounds_done - (1 if update.kind is Kind.TRAIN else 0)
            counted = replace(
                update,
                counted_in=self.run.round_id,
                staleness=max(0, version - update.version),
                share=share,
            )
            self.updates[update.task_id] = counted
            self._out.records.append(counted)
            self._out.effects.append(TellCounted(update.agent_id, update.task_id, self.run.round_id))

    def _finish_step(self, trigger: str, model_id: str | None = None) -> None:
        if self.step is not None:
            self.step = replace(self.step, status="done")
            self._out.records.append(self.step)
        if self.round is not None and (model_id or self.round.status == "open"):
            self.round = replace(
                self.round, status="done", model_id=model_id or self.run.model_id, ended_s=self._at
            )
            self._out.records.append(self.round)
        self._move(trigger)

    def _evaluated(self, updates: list[UpdateRecord]) -> None:
        self._mean_metrics("evaluate", updates)
        self._finish_step("published")

    def _mean_metrics(self, source: str, updates: list[UpdateRecord]) -> None:
        """Average each metric over the agents that reported it, weighted by their examples."""
        names = dict.fromkeys(name for update in updates for name in update.metrics)
        for name in names:
            reported = [(u.metrics[name], u.num_examples) for u in updates if name in u.metrics]
            total = sum(count for _, count in reported)
            mean = sum(value * (count / total) for value, count in reported)
            self._out.records.append(
                MetricRecord(
                    self.run.run_id,
                    self.run.round_id,
                    self.run.model_id or "",
                    None,
                    source,
                    name,
                    mean,
                    total,
                    len(reported),
                )
            )
            if not math.isfinite(mean):
                self._note("metric_not_finite", source=source, metric=name)
            elif (name, source) == (self.settings.best.metric, self.settings.best.source):
                self._judge_best(mean)

    def _metrics_of(self, update: UpdateRecord, model_id: str, source: str) -> None:
        """Write down what one agent measured of a model."""
        for name, value in update.metrics.items():
            self._out.records.append(
                MetricRecord(
                    update.run_id,
                    update.round_id,
                    model_id,
                    update.agent_id,
                    source,
                    name,
                    value,
                    update.num_examples,
                )
            )

    def _judge_best(self, value: float) -> None:
        if is_better(value, self.run.best_value, self.settings.best) and self.run.model_id:
            self._set(best_value=value, best_round=self.run.rounds_done, best_model_id=self.run.model_id)
            self._out.records.append(TagRecord(self.run.run_id, "best", self.run.model_id))

    # --- failing, steering, ending --------------------------------------------------------

    def _fold_failed(self, event: FoldFailed) -> None:
        if self._frozen_step(event.round_id, event.kind) is not None:
            self._fail(event.reason)

    def _fail(self, reason: str) -> None:
        """Give this round up; the next one starts from the same model."""
        if self.step is None or self.round is None:
            raise InvalidTransitionError("there is no round to fail")
        self._drop_updates(f"round {self.run.round_id} failed: {reason}")
        self._release_tasks(self.step)
        self.step = replace(self.step, status="failed", ended_s=self._at, reason=reason)
        self.round = replace(self.round, status="failed", ended_s=self._at, reason=reason)
        self._out.records += [self.step, self.round]
        self._note("round_failed", reason=reason)
        before = self.run.kind if self.run.kind is not Kind.TRAIN else Kind.EVALUATE
        self._move("retry", failed_rounds=self.run.failed_rounds + 1, kind=before)
        if self.run.failed_rounds >= self.settings.round.max_failed_rounds:
            self._end(
                RunStatus.FAILED, f"{self.run.failed_rounds} rounds in a row failed, the last: {reason}"
            )

    def _drop_updates(self, reason: str) -> None:
        """Turn accepted updates that will never count into discarded ones."""
        is_under_way = self.step is not None and self.step.status in ("open", "frozen")
        of_step = {update.task_id for update in self._accepted()} if is_under_way else set()
        for task_id, update in self.updates.items():
            if task_id in of_step or self._is_uncounted(update):
                self.updates[task_id] = replace(update, verdict=Verdict.DISCARDED, reason=reason)
                self._out.records.append(self.updates[task_id])

    def _steered(self, event: Steered) -> None:
        self._note(f"run_{event.order}", actor=event.actor)
        if event.order == "stop" and not self.run.status.is_over:
            self._stop(event.actor)
        elif event.order == "pause" and self.run.status is RunStatus.RUNNING:
            self._set(status=RunStatus.PAUSED, reason=f"paused by {event.actor}")
        elif event.order == "resume" and self.run.status is RunStatus.PAUSED:
            self._set(status=RunStatus.RUNNING, reason="")
        elif event.order == "resume" and self.run.status in (RunStatus.FAILED, RunStatus.STOPPED):
            self._set(status=RunStatus.RUNNING, reason="", failed_rounds=0)
            self._move("reopened")

    def _stop(self, actor: str) -> None:
        reason = f"stopped by {actor}"
        self._drop_updates(reason)
        if self.step is not None and self.step.status in ("open", "frozen"):
            self._release_tasks(self.step)
            self.step = replace(self.step, status="failed", ended_s=self._at, reason=reason)
            self._out.records.append(self.step)
            if self.round is not None and self.round.status == "open":
                self.round = replace(self.round, status="failed", ended_s=self._at, reason=reason)
                self._out.records.append(self.round)
            if self.run.kind is Kind.TRAIN and self.step.kind is Kind.TRAIN:
                self._set(kind=Kind.EVALUATE)
        self._end(RunStatus.STOPPED, reason)

    def _end(self, status: RunStatus, reason: str) -> None:
        self._drop_updates(f"the run is {status}: {reason}")
        self._move("ended", status=status, reason=reason)
        self._note("run_ended", status=status, reason=reason)
        self._out.effects.append(EndRun())

    # --- writing down ---------------------------------------------------------------------

    def _move(self, trigger: str, **changes: Any) -> None:
        self._set(phase=next_phase(self.run.phase, trigger), **changes)

    def _set(self, **changes: Any) -> None:
        self.run = replace(self.run, **changes)

    def _note(self, kind: str, agent_id: str | None = None, actor: str = "", **details: Any) -> None:
        self._out.records.append(
            EventRecord(self.run.run_id, kind, self.run.round_id, agent_id, actor or agent_id or "", details)
        )


_HANDLERS: dict[type, Any] = {
    AgentJoined: RoundMachine._join,
    AgentLeft: RoundMachine._leave,
    UpdateOffered: RoundMachine._offered,
    UpdateReceived: RoundMachine._received,
    UpdateSpoiled: RoundMachine._spoiled,
    TaskDeclined: RoundMachine._declined,
    StepFolded: RoundMachine._folded,
    FoldFailed: RoundMachine._fold_failed,
    TimePassed: lambda machine, event: None,
    Steered: RoundMachine._steered,
}
