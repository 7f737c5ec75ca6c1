"""The round machine: what happened goes in, what is to be done comes out.

It opens no socket and no database, starts no task and reads no clock: `at` is run time, the
seconds that the run was under way. A training run with lost agents and late updates is a list
of events in a test.

What comes out is an `Outcome`: records, to be stored in one transaction, and effects, to be
carried out once they are. So an update is stored before its agent hears *accepted*, and after
a crash the machine, made anew from the stored records, goes on where it was.
"""

from dataclasses import replace
from typing import Any

from fl_main.errors import InvalidTransitionError
from fl_main.events import (
    AgentJoined,
    AgentLeft,
    AgentRefused,
    Assign,
    Cancel,
    EndRun,
    Event,
    Fold,
    FoldFailed,
    Steered,
    StepFolded,
    TaskDeclined,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.ledger import Outcome
from fl_main.plan import Step, choose_cohort, derive_id, derive_seed, end_reason, next_step
from fl_main.results import Results
from fl_main.store import (
    ModelKind,
    ModelRecord,
    Phase,
    RoundRecord,
    RunStatus,
    StepRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.training import Kind

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


MAX_NAMES = 10  # of agents in an event


class RoundMachine(Results):
    """One run. See the module's text; `handle` is the only way to change it."""

    # --- asking ------------------------------------------------------------------------------

    def next_wakeup(self) -> float | None:
        """Return the run time at which `TimePassed` is next due, or None."""
        if self.run.status is not RunStatus.RUNNING:
            return None
        if self.run.phase is Phase.WAITING:
            return min((time for time in self._waking_times() if time > self._at), default=None)
        if self.run.phase is not Phase.COLLECTING or self.step is None:
            return None
        times = [self.deadline(), *self.rejoin_times(self.asked())]
        if self.step.quorum_s is not None:
            times.append(self.step.quorum_s + self.settings.round.grace_s)
        return min((time for time in times if time > self._at), default=self._at)

    def _waking_times(self) -> list[float]:
        """Return when a step that waits for agents is to be looked at again."""
        times = [self.settings.end.max_s] if self.settings.end.max_s is not None else []
        if next_step(self.run, self.settings).kind is Kind.EVALUATE:
            times += self.rejoin_times(self.members)
        return times

    def objection(self, order: str) -> str:
        """Return why an operator's order cannot be followed, or an empty text."""
        status = self.run.status
        stands = f"run {self.run.name!r} is {status}: {self.run.reason}"
        if order == "resume" and status is RunStatus.FINISHED:
            return f"{stands}; a finished run stays finished, create another one"
        if order == "pause" and status.is_over:
            return f"{stands}; there is nothing to pause"
        return ""

    # --- telling -----------------------------------------------------------------------------

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

    # --- steps -------------------------------------------------------------------------------

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
        need = self.need(step.kind)
        if step.kind is not Kind.EVALUATE and (reason := end_reason(self.run, self.settings)):
            self._end(RunStatus.FINISHED, reason)
        elif need.is_met:
            self._begin(step)
        elif step.kind is Kind.EVALUATE and not self._may_be_back():
            self._note("evaluation_skipped", reason=str(need))
            self._set(kind=Kind.EVALUATE)
            self._try_to_start()
        else:
            self._note_wait(
                "waiting_for_agents",
                step=str(step.kind),
                needed=need.agents,
                here=need.eligible,
                busy=need.busy,
            )

    def _may_be_back(self) -> bool:
        """Whether an agent that can evaluate lost its connection, or we just started again."""
        able = [agent for agent, member in self.members.items() if Kind.EVALUATE in member.record.kinds]
        return any(self._at < time for time in self.rejoin_times(able))

    def _begin(self, step: Step) -> None:
        settings = self.settings
        seed = derive_seed(settings.seed, step.round_id, step.kind)
        eligible = self.eligible(step.kind)
        invited, rule = tuple(sorted(eligible)), "all that can"
        if step.kind is Kind.INITIALISE:
            first = min(eligible, key=lambda agent: (self.members[agent].since, agent))
            invited, rule = (first,), "the first that offers"
        elif step.kind is Kind.TRAIN:
            labels = self._labels()
            ids = {labels[agent_id]: agent_id for agent_id in eligible}
            chosen, rule = choose_cohort(list(ids), settings.cohort, seed, self.least_of(step.kind))
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
        self._note_wait("")
        self._note(
            "step_started", step=str(step.kind), invited=len(invited), eligible=len(eligible), rule=rule
        )
        self._forget()
        labels = self._labels()
        for agent_id in invited:
            self._assign(self.step, agent_id, labels[agent_id])

    def _attempt(self, step: Step) -> int:
        """Return how often this step was tried before; an operator may have reset the failures."""
        last = self.step
        if last is not None and (last.round_id, last.kind) == (step.round_id, step.kind):
            return last.attempt + 1
        return self.run.failed_rounds

    def _assign(self, step: StepRecord, agent_id: str, label: str) -> None:
        task = TaskRecord(
            self.task_id(step, agent_id),
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

    def _try_to_close(self) -> None:
        step = self.step
        if step is None:
            return
        updates, waited, least = self.accepted(), self._waited_for(), self.least()
        accepted = len(updates)
        answered = sum(update.round_id == step.round_id for update in updates)
        if step.quorum_s is None and answered >= self.quorum(step) and accepted >= least:
            self.step = step = replace(step, quorum_s=self._at)
            self._out.records.append(step)
            if waited and self.settings.round.grace_s:
                self._note("quorum_reached", step=str(step.kind), updates=accepted)
        graced = step.quorum_s is not None and self._at >= step.quorum_s + self.settings.round.grace_s
        if (graced or not waited) and accepted >= least:
            self._close("enough")
        elif self._at >= self.deadline():
            self._run_out(step, accepted >= least)
        elif accepted < least and not self.asked():
            self._fail(f"{accepted} updates; {least} are needed and nobody else is working")
        elif step.kind is Kind.INITIALISE and not waited and self.eligible(step.kind):
            self._fail("the agent that was asked for a model is gone; another one is asked")
        else:
            self._note_absence(step, accepted)

    def _note_absence(self, step: StepRecord, accepted: int) -> None:
        """Write down that nothing can come before agents that are away return."""
        asked = self.asked()
        is_stuck = accepted < self.least() and not any(self.members[agent].is_present for agent in asked)
        away = [self.members[agent].record.name for agent in asked]
        self._note_wait(
            "waiting_for_return" if is_stuck else "",
            step=str(step.kind),
            away=away[:MAX_NAMES],
            updates=accepted,
            needed=self.least(),
        )

    def _run_out(self, step: StepRecord, is_enough: bool) -> None:
        if is_enough or step.kind is Kind.EVALUATE:
            self._close("deadline")
        elif not step.extended:
            self.step = replace(step, extended=True)
            self._out.records.append(self.step)
            self._note("deadline_extended", reason=f"{len(self.accepted())} updates; {self.least()} needed")
        else:
            self._fail(f"{len(self.accepted())} updates by the deadline; {self.least()} are needed")

    def _close(self, trigger: str) -> None:
        """Freeze the list of updates: from here on the step's result is decided."""
        step = self.step
        if step is None:
            raise InvalidTransitionError("there is no step to close")
        labels = self._labels()
        updates = sorted(self.accepted(), key=lambda update: (labels[update.agent_id], update.task_id))
        self._release_tasks(step)
        self.step = replace(
            step, status="frozen", frozen=tuple(update.task_id for update in updates), ended_s=self._at
        )
        self._out.records.append(self.step)
        self._note_wait("")
        self._note("step_closed", step=str(step.kind), by=trigger, updates=len(updates))
        self._move(trigger)
        if step.kind is Kind.EVALUATE:
            self._evaluated(updates)
        elif step.kind is Kind.INITIALISE:
            self._initialised(updates[0])
        else:
            self._out.effects.append(self._fold(self.step))

    def _fold(self, step: StepRecord) -> Fold:
        return Fold(
            step.round_id, step.kind, step.attempt, tuple(self.updates[task_id] for task_id in step.frozen)
        )

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
            self._release(task, TaskStatus.LATE if counts_late else TaskStatus.CANCELLED, "its round is over")
            if not counts_late:
                self._out.effects.append(Cancel(task.agent_id, task.task_id, "its round is over"))

    # --- results -----------------------------------------------------------------------------

    def _folded(self, event: StepFolded) -> None:
        if not self.is_wanted(event.fold):
            return
        updates = [self.updates[update.task_id] for update in event.fold.updates]
        if event.fold.kind is Kind.STATISTICS:
            self._publish_sums(event, updates)
            self._finish_step("published")
        else:
            self._finish_step("published", self._publish_global(event, updates))

    def is_wanted(self, fold: Fold) -> bool:
        """Whether the run waits for a fold; not if it was stopped meanwhile, even if it goes on again."""
        step = self.step
        if step is None or self.run.phase is not Phase.AGGREGATING:
            return False
        return (step.round_id, step.kind, step.attempt) == (fold.round_id, fold.kind, fold.attempt)

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

    def _evaluated(self, updates: list[UpdateRecord]) -> None:
        self._mean_metrics("evaluate", updates)
        self._finish_step("published")

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

    # --- failing, steering, ending -----------------------------------------------------------

    def _fold_failed(self, event: FoldFailed) -> None:
        if self.is_wanted(event.fold):
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
        of_step = {update.task_id for update in self.accepted()} if is_under_way else set()
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

    def _move(self, trigger: str, **changes: Any) -> None:
        self._set(phase=next_phase(self.run.phase, trigger), **changes)


_HANDLERS: dict[type, Any] = {
    AgentJoined: RoundMachine._join,
    AgentLeft: RoundMachine._leave,
    AgentRefused: RoundMachine._refused,
    UpdateOffered: RoundMachine._offered,
    UpdateReceived: RoundMachine._received,
    UpdateSpoiled: RoundMachine._spoiled,
    TaskDeclined: RoundMachine._declined,
    StepFolded: RoundMachine._folded,
    FoldFailed: RoundMachine._fold_failed,
    TimePassed: lambda machine, event: None,
    Steered: RoundMachine._steered,
}
