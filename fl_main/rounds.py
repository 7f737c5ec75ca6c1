"""The round machine: what happened goes in, what is to be done comes out.

It opens no socket and no database, starts no task and reads no clock: `at` is run time, the
seconds that the run was under way. A training run with lost agents and late updates is a list
of events in a test.

What comes out is an `Outcome`: records, to be stored in one transaction, and effects, to be
carried out once they are. So an update is stored before its agent hears *accepted*, and after
a crash the machine, made anew from the stored records, goes on where it was.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fl_main.answers import OVER
from fl_main.assignments import Assignments
from fl_main.errors import InvalidTransitionError, SettingsError
from fl_main.events import (
    AgentJoined,
    AgentLeft,
    AgentRefused,
    AgentSteered,
    EndRun,
    Event,
    Fold,
    FoldFailed,
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
from fl_main.members import NEVER
from fl_main.messages import Frozen
from fl_main.plan import derive_id, download_id_of, end_reason, next_step, rounds_wanted
from fl_main.store import (
    Milestone,
    ModelKind,
    ModelRecord,
    Phase,
    RoundRecord,
    RunRecord,
    RunStatus,
    StepRecord,
    TagRecord,
    TaskStatus,
    UpdateRecord,
)
from fl_main.training import Kind

MAX_NAMES = 10  # of agents in an event


class RoundMachine(Assignments):
    """One run. See the module's text; `handle` is the only way to change it."""

    # --- asking ------------------------------------------------------------------------------

    def next_wakeup(self) -> float | None:
        """Return the run time at which `TimePassed` is next due, or None."""
        if self.run.status is not RunStatus.RUNNING:
            return None
        times = [self._next_gone_at] if self._hung_up else []
        if self.run.phase is Phase.WAITING:
            times += self._waking_times()
        elif self._is_collecting and self.step is not None:
            if self.deadline() <= self._at:  # it was extended after a long sleep, and is over again
                return self._at
            times += [self.deadline(), *self._returns(of_step=True)]
            if self.step.quorum_s is not None:
                times.append(self.step.quorum_s + self.settings.round.grace_s)
        return min((time for time in times if time > self._at), default=None)

    def _waking_times(self) -> list[float]:
        """Return when a step that waits for agents is to be looked at again."""
        times = [self.settings.end.max_s] if self.settings.end.max_s is not None else []
        if next_step(self.run, self.settings).kind is Kind.EVALUATE:
            times += self._returns(of_step=False)
        return times

    def _returns(self, *, of_step: bool) -> list[float]:
        """Return until when agents whose connection broke may be back: all, or those who were asked."""
        times = []
        for agent_id in list(self._away):
            [until] = self.rejoin_times([agent_id])
            if until <= self._at:
                del self._away[agent_id]
            elif not of_step or self.members[agent_id].task_id in self.unanswered:
                times.append(until)
        return times

    def objection(self, order: str) -> str:
        """Return why an operator's order cannot be followed, or an empty text."""
        status = self.run.status
        stands = f"run {self.run.name!r} is {status}: {self.run.reason}"
        if order == "resume" and status is RunStatus.FINISHED:
            return f"{stands}; a finished run stays so, roll it back or create another"
        if order == "pause" and status.is_over:
            return f"{stands}; there is nothing to pause"
        return ""

    def objection_to_rollback(self, order: RolledBack) -> str:
        """Return why the run cannot go on from an earlier round, or an empty text."""
        to = order.to
        if self.run.round_id == 0:
            return "no round has followed on that one yet"
        if to.model_id not in to.models:
            return f"the model of round {to.round_id} is not stored any more"
        gone = sorted(name for name, state_id in to.state_ids.items() if state_id not in to.models)
        if gone and not order.fresh_state:
            return (
                f"the strategy's {', '.join(gone)} after round {to.round_id} is not stored any more; "
                "with --fresh-state it begins anew"
            )
        if reason := end_reason(self._back_at(order), self.settings):
            return (
                f"it would end at once: {reason}; ask for more --rounds, "
                "or start another run from that model (`fl run create --from`)"
            )
        return ""

    def _back_at(self, order: RolledBack) -> RunRecord:
        """Return the run as it goes on from an earlier round."""
        to = order.to
        return replace(
            self.run,
            kind=Kind.EVALUATE,  # as far as it was to be measured, it was
            model_id=to.model_id,
            state_ids={} if order.fresh_state else self._restored(to),
            rounds_done=to.rounds_done,
            best_model_id=to.best_model_id,
            best_value=to.best_value,
            best_round=to.best_round,
            failed_rounds=0,
            rollbacks=self.run.rollbacks + 1,
            rounds_wanted=self.run.rounds_wanted if order.rounds is None else to.rounds_done + order.rounds,
        )

    def _restored(self, to: Milestone) -> dict[str, str]:
        """Return the strategy's state as it goes on: not what agents keep the other part of."""
        return {name: key for name, key in to.state_ids.items() if name not in self.strategy.paired}

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

    def adopt(self, model: ModelRecord, frozen: Frozen | None = None) -> Outcome:
        """Start from a model that did not come from an agent: a file, or another run's.

        Args:
            model: What is trained of it.
            frozen: Of its other arrays, if it has some: agents must have the same.
        """
        if frozen is not None:
            self.run = replace(self.run, frozen=frozen.model_dump())
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
        self._miss_sleepers()
        if self._is_collecting:
            self._try_to_close()
        if self.run.phase is Phase.WAITING:
            self._try_to_start()
            if self.settings.mode != "sync" and self._is_collecting:  # the buffer may be full already
                self._try_to_close()
        if self._is_collecting:
            try:
                self._keep_busy()
            except SettingsError as error:  # a rule of the user's own
                self._break_off(RunStatus.FAILED, str(error))

    @property
    def _is_collecting(self) -> bool:
        return self.run.phase is Phase.COLLECTING

    def _try_to_start(self) -> None:
        step = next_step(self.run, self.settings)
        need = self.need(step.kind)
        if step.kind is not Kind.EVALUATE and (reason := end_reason(self.run, self.settings)):
            self._end(RunStatus.FINISHED, reason)
        elif need.is_met:
            try:
                self._begin(step)
            except SettingsError as error:  # a rule of the user's own
                self._end(RunStatus.FAILED, str(error))
        elif step.kind is Kind.EVALUATE and not self._may_be_back():
            self._note("evaluation_skipped", reason="no agent that can evaluate is here")
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
        able = [
            agent
            for agent, member in self.members.items()
            if Kind.EVALUATE in member.record.kinds and not member.record.quarantined
        ]
        return any(self._at < time for time in self.rejoin_times(able))

    def _try_to_close(self) -> None:
        step = self.step
        if step is None:
            return
        accepted, least = len(self._ready[step.kind]), self.least()
        if step.quorum_s is None and accepted >= least and self.answered(step) >= self.enough(step):
            self.step = step = replace(step, quorum_s=self._at)
            self._out.records.append(step)
            if self.settings.round.grace_s and any(self._asked()):
                self._note("quorum_reached", step=str(step.kind), updates=accepted)
        if accepted >= least and (self._is_graced(step) or self._is_nobody_waited_for(step)):
            self._close("enough")
        elif self._at >= self.deadline():
            self._run_out(step, accepted >= least)
        elif accepted < least and self._is_nobody_left(step):
            self._fail(f"{accepted} updates; {least} are needed and nobody else is working")
        elif accepted < least and self._is_left_to_others(step):
            self._fail(f"{accepted} updates; {least} are needed, who is missing left, and others are free")
        elif step.kind is Kind.INITIALISE and self.eligible(step.kind) and self._is_nobody_waited_for(step):
            self._fail("the agent that was asked for a model is gone; another one is asked")
        else:
            self._note_absence(step, accepted)

    def _is_graced(self, step: StepRecord) -> bool:
        """Whether enough answers are there, for long enough."""
        if self.is_async and step.kind is Kind.EVALUATE and not end_reason(self.run, self.settings):
            # Agents that become free measure the model before they go on, until the next one can be made.
            ready = len(self._ready[Kind.TRAIN])
            is_measured = len(self._ready[step.kind]) > 0
            return is_measured and ready >= self.least_of(Kind.TRAIN) and ready >= self.buffer()
        # Nobody is waited for where whoever is free is asked.
        grace_s = 0.0 if self.is_open_to_all(step.kind) else self.settings.round.grace_s
        return step.quorum_s is not None and self._at >= step.quorum_s + grace_s

    def _is_nobody_waited_for(self, step: StepRecord) -> bool:
        """Whether all that may answer soon have answered."""
        if any(map(self._is_waited_for, self._asked())):
            return False
        return not self.is_open_to_all(step.kind) or self._is_everybody_asked(step)

    def _is_nobody_left(self, step: StepRecord) -> bool:
        """Whether no answer can come any more."""
        return not self.is_open_to_all(step.kind) and not any(True for _ in self._asked())

    def _is_left_to_others(self, step: StepRecord) -> bool:
        """Whether all that are still to answer said goodbye, and enough others could do the step at once.

        Where there are no others, those who left may come again, and go on with their tasks.
        """
        has_left = all(self.members[agent].left_at == NEVER for agent in self._asked())
        return has_left and not self.is_open_to_all(step.kind) and self.need(step.kind).is_met

    def _note_absence(self, step: StepRecord, accepted: int) -> None:
        """Write down that nothing can come before agents that are away return."""
        is_stuck = accepted < self.least() and not any(
            self.members[agent].is_present for agent in self._asked()
        )
        away = [self.members[agent].record.name for agent in self._asked()] if is_stuck else []
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
        updates = self.accepted()
        if self.is_async and step.kind is Kind.TRAIN:
            updates = updates[: self.enough(step)]  # the rest is the beginning of the next buffer
        updates.sort(key=lambda update: (labels[update.agent_id], update.received_s, update.task_id))
        self._release_tasks(step)
        self.step = replace(
            step,
            status="frozen",
            invited=self._invited(step, updates),
            frozen=tuple(update.task_id for update in updates),
            ended_s=self._at,
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
        """Tell those who are still at work that nobody waits for them; where late updates count, nobody."""
        for task_id, agent_id in list(self.unanswered.items()):
            task = self.tasks[task_id]
            if task.kind is not step.kind:
                continue
            if step.kind is not Kind.TRAIN or self.settings.mode == "sync":
                self._cancel(task, OVER)
            elif self.members[agent_id].left_at == NEVER:
                self._release(task, TaskStatus.CANCELLED, "its agent left for good")
            elif self.settings.mode == "semi-sync" and task.status is TaskStatus.OPEN:
                self._release(task, TaskStatus.LATE, OVER)

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
            self._end_round("done", model_id=model_id or self.run.model_id)
        self._move(trigger)

    def _end_round(self, status: str, **changes: Any) -> None:
        """Store how a round ended, and what the agents' time went into meanwhile."""
        if self.round is None:
            return
        self.round = replace(self.round, status=status, ended_s=self._at, **changes)
        self._store_effort(self.round)

    def _store_effort(self, record: RoundRecord) -> None:
        """Add to a round what the agents' time went into."""
        effort = self._take_effort()
        self.round = replace(
            record,
            busy_s=record.busy_s + effort.busy_s,
            wasted_s=record.wasted_s + effort.wasted_s,
            idle_s=record.idle_s + effort.idle_s,
        )
        self._out.records.append(self.round)

    # --- failing, steering, ending -----------------------------------------------------------

    def _fold_failed(self, event: FoldFailed) -> None:
        if self.is_wanted(event.fold):
            self._fail(event.reason)

    def _fail(self, reason: str) -> None:
        """Give this round up; the next one starts from the same model."""
        if self.step is None or self.round is None:
            raise InvalidTransitionError("there is no round to fail")
        self._drop_updates(f"round {self.run.round_id} failed: {reason}", self._spoiled_by_failure(self.step))
        self._release_tasks(self.step)
        self.step = replace(self.step, status="failed", ended_s=self._at, reason=reason)
        self._out.records.append(self.step)
        self._end_round("failed", reason=reason)
        self._note("round_failed", reason=reason)
        before = self.run.kind if self.run.kind is not Kind.TRAIN else Kind.EVALUATE
        self._move("retry", failed_rounds=self.run.failed_rounds + 1, kind=before)
        if self.run.failed_rounds >= self.settings.round.max_failed_rounds:
            self._end(
                RunStatus.FAILED, f"{self.run.failed_rounds} rounds in a row failed, the last: {reason}"
            )

    def _spoiled_by_failure(self, step: StepRecord) -> list[UpdateRecord]:
        """Return the accepted updates that a failed round takes with it."""
        if not self.is_async or step.kind is not Kind.TRAIN:
            return [*self.accepted(), *self.ready(Kind.TRAIN)]
        return [
            self.updates[task_id] for task_id in step.frozen
        ]  # they could not be combined tomorrow either

    def _drop_updates(self, reason: str, updates: Iterable[UpdateRecord]) -> None:
        """Turn accepted updates that will never count into discarded ones."""
        for update in {update.task_id: update for update in updates}.values():
            self._discard_accepted(update, reason)

    def _steered(self, event: Steered) -> None:
        self._note(f"run_{event.order}", actor=event.actor)
        if event.order == "stop" and not self.run.status.is_over:
            self._break_off(RunStatus.STOPPED, f"stopped by {event.actor}")
        elif event.order == "pause" and self.run.status is RunStatus.RUNNING:
            self._set(status=RunStatus.PAUSED, reason=f"paused by {event.actor}")
        elif event.order == "resume" and self.run.status is RunStatus.PAUSED:
            self._set(status=RunStatus.RUNNING, reason="")
        elif event.order == "resume" and self.run.status in (RunStatus.FAILED, RunStatus.STOPPED):
            self._set(status=RunStatus.RUNNING, reason="", failed_rounds=0)
            self._move("reopened")

    def _rolled_back(self, event: RolledBack) -> None:
        """Go on from an earlier round: what came after it stays written down, and counts no more."""
        to, before = event.to, self.run
        reason = f"the run was rolled back to round {to.round_id}"
        self._release_all(reason)
        self._give_up(reason)
        self._recall(to.past)
        # Closed tasks may name its encoded form, which retention has deleted: it travels as it is.
        self.models.pop(download_id_of(to.model_id) or "", None)
        for model in to.models.values():
            self._keep(model)
        self.run = self._back_at(event)
        if self.run.phase is not Phase.WAITING:
            self._move("reopened" if self.run.phase is Phase.ENDED else "retry")
        if before.status.is_over:
            self._set(status=RunStatus.RUNNING, reason="")
        self._out.records += [
            TagRecord(self.run.run_id, "final", to.model_id),
            TagRecord(self.run.run_id, "best", to.best_model_id or to.model_id),  # a tag must name one
        ]
        self.last_staleness = {}
        self._note(
            "run_rolled_back",
            actor=event.actor,
            reason=event.reason,
            to=to.round_id,
            model_id=to.model_id,
            last_model_id=before.model_id,
            rounds_done=to.rounds_done,
            rounds=rounds_wanted(self.run, self.settings),
            fresh_state=sorted(to.state_ids.keys() - self.run.state_ids.keys()),
        )

    def _break_off(self, status: RunStatus, reason: str) -> None:
        """End in the middle of whatever is under way."""
        self._give_up(reason)
        self._end(status, reason)

    def _give_up(self, reason: str) -> None:
        """Close the step that is under way, if one is, without a result."""
        is_under_way = self.step is not None and self.step.status in ("open", "frozen")
        self._drop_updates(reason, [*(self.accepted() if is_under_way else []), *self.ready(Kind.TRAIN)])
        if self.step is not None and is_under_way:
            self._release_tasks(self.step)
            self.step = replace(self.step, status="failed", ended_s=self._at, reason=reason)
            self._out.records.append(self.step)
            if self.round is not None and self.round.status == "open":
                self._end_round("failed", reason=reason)
            if self.run.kind is Kind.TRAIN and self.step.kind is Kind.TRAIN:
                self._set(kind=Kind.EVALUATE)

    def _end(self, status: RunStatus, reason: str) -> None:
        self._drop_updates(f"the run is {status}: {reason}", self.ready(Kind.TRAIN))
        if self.is_async:
            self._release_all(f"the run is {status}")
        if self.round is not None:  # the last one: what came after it, a final evaluation say, is its own
            self._store_effort(self.round)
        self._move("ended", status=status, reason=reason)
        self._note("run_ended", status=status, reason=reason)
        self._out.effects.append(EndRun())


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
    AgentSteered: RoundMachine._agent_steered,
    RolledBack: RoundMachine._rolled_back,
}
