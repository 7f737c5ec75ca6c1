"""What agents say, and what becomes of it: joins, offers, updates, refusals to work.

Every update ends as *accepted*, *rejected* (its own fault) or *discarded* (too late, too many),
and is answered, stored and counted as that.
"""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from fl_main.compression import Check
from fl_main.compression.words import in_words
from fl_main.errors import LayoutMismatchError, WeightsError
from fl_main.events import (
    AgentJoined,
    AgentLeft,
    AgentRefused,
    Answer,
    Assign,
    Cancel,
    EndRun,
    Expel,
    Offered,
    Receive,
    TaskDeclined,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.frozen import arrays_setting, difference, divided
from fl_main.ledger import Ledger
from fl_main.members import MISSED_POLLS, NEVER, UNANSWERED, Member
from fl_main.messages import Frozen
from fl_main.plan import derive_id
from fl_main.store import (
    AgentRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    StoredPayload,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies.base import Contribution
from fl_main.strategies.fold import state_layout
from fl_main.training import Kind
from fl_main.weights import FiniteCheck, Layout

MAX_EXAMPLES = 10**12  # of one update: sums over all agents still fit the database
OVER = "its round is over"  # why a task was cancelled, as a rule
SUPERSEDED = "its agent sent a newer one, and the strategy counts each agent once"
LATE = "late"  # the reason of an update that was accepted though its round was over


class Answers(Ledger):
    """The part of the round machine that judges."""

    # --- agents ------------------------------------------------------------------------------

    def refusal(self, layout: Layout | None, frozen: Frozen | None = None) -> tuple[str, str] | None:
        """Return a code and the reason why an agent cannot join, or None.

        Args:
            layout: Of the model that it can train, if it knows one.
            frozen: What it says of the arrays that the run does not train.
        """
        if self.run.frozen and frozen and (said := difference(Frozen(**self.run.frozen), frozen)):
            return "frozen", said
        if layout is None or self.layout is None or self.settings.payload == "free":
            return None
        try:
            self.layout.require_same(layout)
        except LayoutMismatchError as error:
            return "layout", str(error)
        return None

    def codec_refusal(self, known: Container[str], software: str) -> tuple[str, str] | None:
        """Return a code and the reason why an agent that knows some codecs cannot join, or None.

        Args:
            known: Names of codecs.
            software: What the agent runs on.
        """
        for codec, what in ((self.codec, "send its updates"), (self.download_codec, "take its models")):
            if codec is not None and codec.name not in known:
                return "codec", (
                    f"whoever takes part in this run must {what} by the codec {codec.name}, which this agent "
                    f"({software or 'of unknown software'}) does not know: upgrade fl_main at its site"
                )
        return None

    def is_to_say_frozen(self, layout: Layout | None, frozen: Frozen | None) -> bool:
        """Whether an agent has to learn first which arrays the run trains, and to say what others it has.

        Raises:
            WeightsError: If it cannot: it has no model, or not one of such arrays.
        """
        patterns = self.settings.compression.arrays
        if not patterns and frozen is not None:
            raise WeightsError("it keeps arrays to itself, but the run trains all: start this agent again")
        if not patterns or frozen is not None:
            return False
        if layout is None:
            raise WeightsError(
                f"the run trains only arrays of {arrays_setting(patterns)}, and it has no others to keep: "
                "give it initial_weights, the whole model"
            )
        divided({spec.name: spec for spec in layout.arrays}, patterns)
        return True

    def poll_refusal(self, poll_s: float | None) -> tuple[str, str] | None:
        """Return a code and the reason why an agent with such an interval cannot join, or None."""
        deadline_s = self.settings.round.deadline_s
        if poll_s is None or poll_s <= deadline_s:
            return None
        return "poll", (
            f"it polls every {poll_s:g} s, but a round of this run lasts {deadline_s:g} s at most: "
            "poll more often, or raise round.deadline_s"
        )

    def _join(self, event: AgentJoined) -> None:
        member = self.members.get(event.agent_id)
        record = AgentRecord(
            self.run.run_id,
            event.agent_id,
            event.name,
            event.attributes,
            event.kinds,
            event.software,
            True,
            event.poll_s,
            member.record.outlying if member else 0,
            member.record.quarantined if member else "",
        )
        if member is None:
            member = self.members[event.agent_id] = Member(record, left_at=NEVER)
            self._known_labels = None
        elif member.record.name != event.name:
            self._known_labels = None
        is_new = not member.is_present or member.record != record  # else a visit among others
        member.record, member.layout, member.frozen = record, event.layout, event.frozen
        self._stay_connected(member)
        self._give_up_lost(member, event.held)
        if not member.is_present:
            self._come(member)
        if is_new:
            member.since = self._at
            self._out.records.append(record)
            self._note("agent_joined", agent_id=event.agent_id, name=event.name)
        self._take_up(member, event.held)
        if event.frozen is not None and not self.run.frozen:  # the first one says it for all
            self.run = replace(self.run, frozen=event.frozen.model_dump())
            self._out.records.append(self.run)
        if self.run.status.is_over:
            self._out.effects.append(EndRun(event.agent_id))
        else:
            self._expel_unfit([event.agent_id])  # another one may have been the first meanwhile

    def _give_up_lost(self, member: Member, held: tuple[str, ...]) -> None:
        """Forget a task that nobody waits for, and that its agent no longer knows of."""
        task = self.tasks.get(member.task_id or "")
        if member.task_id is None or member.task_id in held:
            return
        if task is not None and task.status is TaskStatus.LATE:
            self._release(task, TaskStatus.CANCELLED, "its process ended before the late update was done")
        elif task is not None and task.status is TaskStatus.OPEN:
            return
        if task is not None:
            self.effort.wasted_s += max(0.0, member.since - task.assigned_s)
        self._rest(member)

    def _take_up(self, member: Member, held: tuple[str, ...]) -> None:
        """Go on with the task that an agent left with: it may have it, need it again, or need it no more."""
        task = self.tasks.get(member.task_id or "")
        if task is None:
            return
        if task.status is TaskStatus.OPEN and task.task_id not in held:
            self._out.effects.append(Assign(task, self._seconds_for(task)))
        elif task.status is TaskStatus.CANCELLED:
            self._out.effects.append(Cancel(task.agent_id, task.task_id, task.reason))

    def _leave(self, event: AgentLeft) -> None:
        member = self.members.get(event.agent_id)
        if member is None or not member.is_present:
            return
        if member.record.poll_s is not None and not event.for_good:
            self._hang_up(member)
        else:
            self._depart(member, event)

    def _depart(self, member: Member, event: AgentLeft) -> None:
        self._go(member, NEVER if event.for_good else self._at)
        member.record = replace(member.record, is_present=False)
        self._out.records.append(member.record)
        self._note("agent_left", agent_id=event.agent_id, reason=event.reason, for_good=event.for_good)

    def _miss_sleepers(self) -> None:
        """Take those for gone that did not poll for too long."""
        if self._at < self._next_gone_at:
            return
        for agent_id in list(self._hung_up):
            member = self.members[agent_id]
            if self._at >= member.gone_at:
                silent_s = self._at - (member.hung_up_at or 0.0)
                reason = f"it did not poll for {silent_s:.0f} s, {MISSED_POLLS} of its intervals"
                self._depart(member, AgentLeft(agent_id, reason))
        gone = (self.members[agent_id].gone_at for agent_id in self._hung_up)
        self._next_gone_at = min(gone, default=math.inf)

    def _refused(self, event: AgentRefused) -> None:
        self._note(
            "agent_refused", agent_id=event.agent_id, name=event.name, code=event.code, reason=event.reason
        )

    def _expel_unfit(self, agents: Iterable[str]) -> None:
        for agent_id in agents:
            member = self.members[agent_id]
            if member.is_present and (refusal := self.refusal(member.layout, member.frozen)):
                self._leave(AgentLeft(agent_id, refusal[1], for_good=True))  # it gets no task any more
                self._out.effects.append(Expel(agent_id, *refusal))

    # --- updates -----------------------------------------------------------------------------

    def _offered(self, event: UpdateOffered) -> None:
        offer = event.offer
        task, answer = self._known(event)
        if task is None or task.agent_id != offer.agent_id:
            self._reject(offer, None, "there was never such a task for this agent")
        elif answer is not None:
            self._answer_again(offer, task, answer)
        elif lateness := self._lateness(task):  # what nobody waits for is not judged
            self._discard(offer, task, lateness)
        elif fault := self._fault(offer, task):
            self._reject(offer, task, fault)
        elif not offer.payloads:
            self._accept(offer, task)
        else:
            self._out.effects.append(Receive(offer))

    def _known(self, event: UpdateOffered) -> tuple[TaskRecord | None, UpdateRecord | None]:
        task = self.tasks.get(event.offer.task_id)
        if task is not None:
            return task, self.updates.get(task.task_id)
        task, answer = event.earlier or (None, None)
        if task is None or (answer is not None and answer.agent_id == task.agent_id):
            return task, answer
        # Another run may still wait for its own: that one's row is not ours to close.
        return (task, None) if task.run_id == self.run.run_id else (None, None)

    def _received(self, event: UpdateReceived) -> None:
        offer = event.offer
        task = self.tasks.get(offer.task_id)
        if task is None:  # forgotten: its agent left for good, or was busy with another task
            self._answer(offer, Verdict.DISCARDED, "its round is over")
        elif answer := self.updates.get(offer.task_id):
            self._answer_again(offer, task, answer)
        elif lateness := self._lateness(task):
            self._discard(offer, task, lateness)
        elif fault := self._fault(offer, task):  # others may have settled what is wanted meanwhile
            self._reject(offer, task, fault)
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

    def check_of(self, task_id: str, payload: StoredPayload) -> FiniteCheck | Check:
        """Return what looks at a payload of an offered update as it comes."""
        task = self.tasks.get(task_id)
        is_encoded = task is not None and task.kind is Kind.TRAIN and payload.channel == "weights"
        if is_encoded and self.codec is not None and self.layout is not None:
            return Check(self.codec, self.layout)
        return FiniteCheck(payload.layout)

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
                return f"{channel}: {error}" if channel != "weights" else self._in_codec(str(error))
        if task.kind is Kind.INITIALISE:
            return self.unfit_for_codecs(offer.payloads["weights"].layout)
        return self._missing_facts(offer) if task.kind is Kind.TRAIN else ""

    def _in_codec(self, fault: str) -> str:
        """Say of a layout that is wrong what it should be."""
        return (
            fault if self.codec is None else f"this run's updates are encoded by {self.codec.name}: {fault}"
        )

    def unfit_for_codecs(self, model: Layout) -> str:
        """Return why a model cannot be encoded as the settings say, or an empty text."""
        try:
            for codec in (self.codec, self.download_codec):
                if codec is not None:
                    codec.layout(model)
        except WeightsError as error:
            return str(error)
        return ""

    def _wanted(self, task: TaskRecord) -> Mapping[str, Layout | None]:
        """Return the channels that an answer must bring; None stands for any layout."""
        if task.kind is Kind.EVALUATE:
            return {}
        if task.kind is Kind.STATISTICS:
            return {"weights": self._statistics_layout()}
        if task.kind is Kind.INITIALISE or self.layout is None or self.settings.payload == "free":
            return {"weights": None}
        return {"weights": self.sent_layout} | {name: state_layout(self.layout) for name in self.strategy.up}

    def _statistics_layout(self) -> Layout | None:
        """Return the layout of the first accepted sums: all others must be alike."""
        for update in self.accepted():
            return self.models[update.model_id or ""].payload.layout
        return None

    def _missing_facts(self, offer: Offered) -> str:
        for need in self.strategy.needs:
            known = offer.num_steps if need == "num_steps" else offer.metrics.get(need)
            if known is None:
                return f"the strategy {self.settings.strategy_name} needs {need!r} with every update"
        facts = Contribution(offer.agent_id, offer.num_examples, offer.num_steps, metrics=offer.metrics)
        try:
            return self.strategy.fault(facts)
        except Exception as error:  # noqa: BLE001 - a strategy of the user's own may raise anything
            return (
                f"the strategy {self.settings.strategy_name} cannot judge it: {type(error).__name__}: {error}"
            )

    def _lateness(self, task: TaskRecord) -> str:
        """Return why an answer to this task comes too late, or an empty text."""
        if self.run.status.is_over:
            return f"the run is {self.run.status}"
        if task.task_id in self.unanswered:  # else it was closed, whatever a slower database says
            return ""
        if task.status in (TaskStatus.DECLINED, TaskStatus.FAILED):
            return f"its task was {task.status}"
        if task.status is TaskStatus.CANCELLED and task.reason not in ("", OVER):
            return task.reason
        return f"late: round {task.round_id} is over"

    def _accept(self, offer: Offered, task: TaskRecord) -> None:
        late = task.status is TaskStatus.LATE
        if task.kind is Kind.TRAIN and self.strategy.one_each:
            self._supersede(task)
        update = self._update(offer, task, Verdict.ACCEPTED, LATE if late else "")
        self._out.records += self._stored_models(offer, update)
        self._set_update(update)
        self._close_task(task, TaskStatus.ANSWERED, "")
        self._answer(offer, Verdict.ACCEPTED, late=late)
        if task.kind is Kind.EVALUATE and task.model_id:
            self._metrics_of(update, self.whole_of(task.model_id), "evaluate")
        elif task.kind is Kind.TRAIN and update.model_id:
            self._metrics_of(update, update.model_id, "train")

    def _supersede(self, task: TaskRecord) -> None:
        """Let what an agent sent before not count beside its newer update."""
        for task_id in self.uncounted_of(task.agent_id):
            if task_id not in self.in_fold():
                self._discard_accepted(self.updates[task_id], SUPERSEDED)

    def _stored_models(self, offer: Offered, update: UpdateRecord) -> Iterable[ModelRecord]:
        for channel, payload in offer.payloads.items():
            kind = ModelKind.LOCAL if channel == "weights" else ModelKind.CHANNEL
            parents = ((base, None),) if (base := self.tasks[offer.task_id].model_id) else ()
            model_id = update.model_id if channel == "weights" else derive_id(offer.task_id, channel)
            is_trained = update.kind is Kind.TRAIN and channel == "weights"
            record = ModelRecord(
                model_id or "",
                self.run.run_id,
                update.round_id,
                kind,
                payload,
                offer.agent_id,
                parents,
                self.form if is_trained else "full",
                in_words(self.codec) if is_trained else "",
            )
            self._keep(record)
            yield record

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
            received_s=self._at,
            plain_size=self._plain_size(offer, task),
            saved_bytes=offer.saved_bytes,
        )

    def _plain_size(self, offer: Offered, task: TaskRecord | None) -> int:
        """Return the bytes that an encoded update would have had without its codec; of others 0."""
        if task is None or task.kind is not Kind.TRAIN or self.codec is None or self.layout is None:
            return 0
        others = (payload.size for channel, payload in offer.payloads.items() if channel != "weights")
        return self.layout.nbytes + sum(others)

    def _reject(self, offer: Offered, task: TaskRecord | None, reason: str) -> None:
        self._refuse_update(offer, task, Verdict.REJECTED, reason)

    def _discard(self, offer: Offered, task: TaskRecord, reason: str) -> None:
        self._refuse_update(offer, task, Verdict.DISCARDED, reason)

    def _refuse_update(self, offer: Offered, task: TaskRecord | None, verdict: Verdict, reason: str) -> None:
        update = self._update(offer, task, verdict, reason)
        self._note(f"update_{verdict}", agent_id=offer.agent_id, task_id=offer.task_id, reason=reason)
        if task is None:
            self._out.records.append(update)
        else:
            self._set_update(update)
            self._close_task(task, TaskStatus.ANSWERED, reason)
        self._answer(offer, verdict, reason)

    def _answer(self, offer: Offered, verdict: Verdict, reason: str = "", *, late: bool = False) -> None:
        self._free_from(
            offer.agent_id,
            offer.task_id,
            is_wasted=verdict is not Verdict.ACCEPTED,
            is_measured=verdict is not Verdict.REJECTED,  # who is always late is slow, too
        )
        self._out.effects.append(Answer(offer.agent_id, offer.task_id, verdict, reason, late))

    def _declined(self, event: TaskDeclined) -> None:
        self._free_from(event.agent_id, event.task_id, is_wasted=True, is_measured=False)
        task = self.tasks.get(event.task_id)
        if task is None or task.agent_id != event.agent_id or task.task_id in self.updates:
            return
        status = TaskStatus.FAILED if event.code == "error" else TaskStatus.DECLINED
        if task.status in UNANSWERED:
            self._close_task(task, status, f"{event.code}: {event.reason}")
            self._note(
                f"task_{status}",
                agent_id=event.agent_id,
                task_id=event.task_id,
                code=event.code,
                reason=event.reason,
            )
