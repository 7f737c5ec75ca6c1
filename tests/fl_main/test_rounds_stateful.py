"""Random runs: agents come, go, answer, repeat and lie; the daemon pauses and crashes."""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from fl_main.events import Answer, Assign, Cancel, Effect, Offered, Receive, RolledBack, UpdateReceived
from fl_main.plan import next_step
from fl_main.store import ModelKind, Phase, RunStatus, TaskRecord, TaskStatus, Verdict
from fl_main.training import Kind
from fl_main.why import of_run
from fl_main.why.agents import find_agent, find_task
from fl_main.why.findings import Standing, Subject
from tests.fl_main.story import Story, payload, run_settings

AGENTS = "abcd"
agents = st.sampled_from(AGENTS)
SLEEPERS = "cd"  # they may poll
POLL_S = 8.0
BEGINNINGS_OF_REASONS = ("round ", "stopped by", "the run ", "late: ", "its ", "stale: ")


class Runs(RuleBasedStateMachine):
    """One run; `sent` holds every offer that was ever made."""

    sent: Bundle[Offered] = Bundle("sent")

    @initialize(
        mode=st.sampled_from(["sync", "semi-sync", "async"]),
        quorum=st.sampled_from([0.3, 0.5, 1.0]),
        buffer=st.sampled_from([None, 2, 3]),
        most=st.sampled_from([None, 0, 1]),
        over_selection=st.sampled_from([1.0, 1.5]),
        adaptive=st.sampled_from([None, 2.0]),
        polling=st.booleans(),
        min_agents=st.integers(1, 3),
        grace_s=st.sampled_from([0.0, 3.0]),
        rejoin_s=st.sampled_from([0.0, 5.0]),
        cohort=st.sampled_from(
            [
                {},
                {"rule": "fraction", "fraction": 0.5},
                {"rule": "number", "number": 2, "choose": "least_recent"},
                {"where": 'region == "eu"'},
            ]
        ),
        every=st.integers(0, 2),
        rounds=st.sampled_from([2, 1000]),
        initial=st.booleans(),
        statistics=st.booleans(),
    )
    def begin(
        self,
        mode: str,
        quorum: float,
        buffer: int | None,
        most: int | None,
        over_selection: float,
        adaptive: float | None,
        polling: bool,
        min_agents: int,
        grace_s: float,
        rejoin_s: float,
        cohort: dict[str, object],
        every: int,
        rounds: int,
        initial: bool,
        statistics: bool,
    ) -> None:
        round_settings = {
            "quorum": quorum,
            "buffer": buffer if mode != "sync" else None,
            "adaptive_deadline": adaptive if mode != "async" else None,
            "min_agents": min_agents,
            "min_updates": min(2, min_agents),
            "grace_s": grace_s,
            "rejoin_s": rejoin_s,
            "deadline_s": 20.0,
            "max_failed_rounds": 1000,
        }
        chosen = run_settings(
            mode=mode,
            round=round_settings,
            cohort=cohort
            | ({"over_selection": over_selection} if "rule" in cohort and mode != "async" else {}),
            staleness={"most": most},
            evaluate={"every": every, "deadline_s": 10.0},
            end={"rounds": rounds},
            statistics=statistics,
        )
        self.story = Story(chosen, initial=initial)
        self.work: dict[str, dict[str, TaskRecord]] = {agent: {} for agent in AGENTS}
        self.transfers: dict[str, Offered] = {}
        self.present: set[str] = set()  # connected
        self.polling = SLEEPERS if polling else ""
        self.counted: dict[str, int] = {}
        self.cancelled: set[str] = set()

    def see(self, effects: list[Effect]) -> None:
        """Let the agents that are connected hear what concerns them."""
        for effect in effects:
            if isinstance(effect, Assign):
                agent = effect.task.agent_id
                assert agent in self.present or agent in self.polling, "only agents that are here get tasks"
                if agent in self.present:
                    self.work[agent][effect.task.task_id] = effect.task
            elif isinstance(effect, Answer):
                self.hear(effect)
            elif isinstance(effect, Receive):
                self.transfers[effect.offer.agent_id] = effect.offer
            elif isinstance(effect, Cancel):
                assert effect.task_id in self.story.store.tasks
                self.cancelled.add(effect.task_id)

    def hear(self, answer: Answer) -> None:
        self.work[answer.agent_id].pop(answer.task_id, None)
        if self.transfers.get(answer.agent_id) and self.transfers[answer.agent_id].task_id == answer.task_id:
            del self.transfers[answer.agent_id]
        if answer.verdict is Verdict.ACCEPTED:  # stored before it is said
            recorded = self.story.store.answers(answer.task_id)
            # The last one of a round that is too few after all was accepted, and its round failed.
            assert any(u.verdict is Verdict.ACCEPTED or u.reason.startswith("round ") for u in recorded)

    # --- agents ---------------------------------------------------------------------------

    @rule(agent=agents, forgets=st.booleans())
    def join(self, agent: str, forgets: bool) -> None:
        if agent in self.present:
            return
        if forgets:
            self.work[agent].clear()
        self.present.add(agent)
        poll_s = POLL_S if agent in self.polling else None
        attributes = {"region": "us" if agent == "b" else "eu"}
        held = tuple(self.work[agent])
        self.see(self.story.join(agent, held=held, poll_s=poll_s, attributes=attributes))

    @rule()
    def join_all(self) -> None:
        for agent in AGENTS:
            self.join(agent, False)

    @rule(agent=agents, for_good=st.booleans())
    def leave(self, agent: str, for_good: bool) -> None:
        if agent in self.present:
            self.present.remove(agent)
            self.transfers.pop(agent, None)
            self.see(self.story.leave(agent, for_good=for_good))

    @rule(target=sent, agent=agents, num_examples=st.sampled_from([1, 5, 5, 0]), index=st.integers(0, 3))
    def offer(self, agent: str, num_examples: int, index: int) -> Offered:
        """Offer an answer to one of the tasks that the agent has."""
        tasks = list(self.work[agent].values())
        if agent not in self.present or not tasks:
            return Offered("0" * 24, agent, 1)
        offer = self.story.offer(agent, task=tasks[index % len(tasks)], num_examples=num_examples)
        self.see(self.story.propose(offer))
        return offer

    @rule(agent=agents)
    def receive(self, agent: str) -> None:
        """The last bytes of an offered update arrive."""
        if offer := self.transfers.pop(agent, None):
            self.see(self.story.tell(UpdateReceived(offer)))

    @rule()
    def all_answer(self) -> None:
        for agent in AGENTS:
            self.offer(agent, 5, 0)
            self.receive(agent)

    @rule(agent=st.sampled_from(SLEEPERS))
    def visit(self, agent: str) -> None:
        """An agent that polls comes, takes what there is, and hangs up; others lose their connection."""
        self.join(agent, False)
        self.leave(agent, False)

    @rule()
    def obey(self) -> None:
        """Agents stop working on what was cancelled."""
        for agent in self.present:
            for task_id in self.cancelled & self.work[agent].keys():
                self.story.assigned[agent] = self.work[agent].pop(task_id)
                self.transfers.pop(agent, None)
                self.see(self.story.decline(agent, "lost"))

    @rule(offer=sent, other=st.booleans(), arrived=st.booleans())
    def repeat(self, offer: Offered, other: bool, arrived: bool) -> None:
        """An agent that lost our answer sends again, perhaps something else."""
        if offer.agent_id not in self.present:
            return
        if other:
            changed = {channel: payload("other", p.layout, channel) for channel, p in offer.payloads.items()}
            offer = replace(offer, payloads=changed)
        before = [str(update.verdict) for update in self.story.store.answers(offer.task_id)]
        self.see(self.story.propose(offer))
        if arrived:
            self.receive(offer.agent_id)
        after = [str(update.verdict) for update in self.story.store.answers(offer.task_id)]
        assert after[: len(before)] == before, "a verdict that was given stands"

    @rule(agent=agents, code=st.sampled_from(["skipped", "error"]), index=st.integers(0, 3))
    def decline(self, agent: str, code: str, index: int) -> None:
        tasks = list(self.work[agent].values())
        if agent in self.present and tasks:
            task = tasks[index % len(tasks)]
            self.work[agent].pop(task.task_id)
            self.transfers.pop(agent, None)
            self.story.assigned[agent] = task
            self.see(self.story.decline(agent, code))

    @rule(agent=agents)
    def spoil(self, agent: str) -> None:
        if offer := self.transfers.pop(agent, None):
            self.see(self.story.spoil(offer, "its bytes do not match its digest"))

    # --- the daemon -----------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 20.0, 50.0]))
    def wait(self, seconds: float) -> None:
        if self.story.run.status is RunStatus.RUNNING:
            self.see(self.story.wait(seconds))
            while self.story.machine.next_wakeup() == self.story.at:  # a long sleep: look again at once
                self.see(self.story.wait(0.0))

    @rule()
    def wake_up(self) -> None:
        """Time passes until the machine wants to look again."""
        if (due := self.story.machine.next_wakeup()) is not None:
            assert due >= self.story.at
            self.see(self.story.wait(due - self.story.at))

    @precondition(lambda self: self.story.folds)
    @rule(fails=st.sampled_from([False, False, True]))
    def fold(self, fails: bool) -> None:
        self.see(self.story.fail_fold() if fails else self.story.fold())

    @rule(order=st.sampled_from(["pause", "resume", "resume"]))
    def steer(self, order: str) -> None:
        self.see(self.story.steer(order))

    @precondition(lambda self: self.story.run.rounds_done > 1)
    @rule()
    def stop(self) -> None:
        self.see(self.story.steer("stop"))

    @precondition(lambda self: self.story.run.model_id is not None)
    @rule(back=st.integers(0, 3), rounds=st.sampled_from([None, 2, 1000]), fresh_state=st.booleans())
    def roll_back(self, back: int, rounds: int | None, fresh_state: bool) -> None:
        """Go on from the model of one of the last rounds, if the run would not end there at once."""
        store = self.story.store
        made = [model.round_id for model in store.models.values() if model.kind is ModelKind.GLOBAL]
        to = store.milestone([0, *made][-1 - min(back, len(made))])
        assert to is not None
        order = RolledBack(to, "anna", "it diverged", rounds, fresh_state)
        if self.story.machine.objection_to_rollback(order):
            return
        was, pending = self.story.run, self.story.machine.ready(Kind.TRAIN)
        self.see(self.story.tell(order))
        run = self.story.run
        assert (run.model_id, run.rounds_done) == (to.model_id, to.rounds_done)
        assert run.round_id in (was.round_id, was.round_id + 1)
        assert run.status is (RunStatus.PAUSED if was.status is RunStatus.PAUSED else RunStatus.RUNNING)
        assert all(store.answers(update.task_id)[0].verdict is Verdict.DISCARDED for update in pending)

    @rule()
    def restart(self) -> None:
        before = self.story.run
        self.present.clear()
        self.transfers.clear()
        self.see(self.story.restart())
        after = self.story.run
        assert after.model_id == before.model_id
        assert (after.phase is Phase.AGGREGATING) == bool(self.story.folds)

    # --- what always holds ----------------------------------------------------------------

    @invariant()
    def no_update_counts_twice(self) -> None:
        store = self.story.store
        for update in store.updates.values():
            if update.counted_in is not None:
                assert self.counted.setdefault(update.task_id, update.counted_in) == update.counted_in
                assert update.verdict is Verdict.ACCEPTED
        models = [model for model in store.models.values() if model.kind is ModelKind.GLOBAL]
        parents = [parent for model in models for parent, _ in model.parents]
        assert len(parents) == len(set(parents))
        trained = [u for u in store.updates.values() if u.counted_in is not None and u.kind is Kind.TRAIN]
        assert sorted(parents) == sorted(u.model_id or "" for u in trained)

    @invariant()
    def nothing_accepted_is_lost(self) -> None:
        machine = self.story.machine
        for update in self.story.store.updates.values():
            if update.verdict is Verdict.DISCARDED:
                assert update.reason.startswith(BEGINNINGS_OF_REASONS), update.reason
            is_pending = update.verdict is Verdict.ACCEPTED and update.counted_in is None
            if is_pending and update.kind is not Kind.EVALUATE:
                assert machine.updates[update.task_id] == update
                assert not machine.run.status.is_over

    @invariant()
    def nothing_stalls(self) -> None:
        machine, at = self.story.machine, self.story.at
        if machine.run.status is not RunStatus.RUNNING:
            return
        if machine.run.phase is Phase.COLLECTING:
            assert machine.step is not None
            assert at < machine.step.started_s + machine.step.deadline_s * (1 + machine.step.extended)
            wakeup = machine.next_wakeup()
            assert wakeup is not None
            assert at < wakeup
            assert all(at < member.gone_at for member in machine.members.values())
        elif machine.run.phase is Phase.AGGREGATING:
            assert sum(map(machine.is_wanted, self.story.folds)) == 1  # others came of a step given up
        else:
            step = next_step(machine.run, machine.settings)
            assert not machine.need(step.kind).is_met, "a step that could begin has begun"
            if step.kind is Kind.EVALUATE:
                assert machine.next_wakeup() is not None

    @invariant()
    def whoever_waits_is_told_why(self) -> None:
        view, machine = self.story.view(), self.story.machine
        run, *others = of_run(view)
        assert run.subject is Subject.RUN
        assert (run.standing is Standing.DONE) == (machine.run.status is RunStatus.FINISHED)
        told = [run, *others, *(find_agent(view, agent) for agent in machine.members)]
        open_tasks = [task for task in machine.tasks.values() if task.status is TaskStatus.OPEN]
        told += [find_task(view, task) for task in open_tasks]
        for finding in told:
            assert finding.what
            assert finding.evidence
            assert finding.remedy
            if finding.subject is not Subject.UPDATE:
                assert finding.since_at is not None
                assert finding.since_at <= view.now
            if finding.ends_at is not None:
                assert finding.ends_at >= view.now
        named = {name for finding in others for name in finding.name.split(", ")}
        assert named >= {agent.upper() for agent in machine.members}

    @invariant()
    def global_models_form_one_chain(self) -> None:
        store, last = self.story.store, None
        back = {event.round_id: event.details["model_id"] for event in store.events if "to" in event.details}
        for round_id in sorted(store.rounds):
            record = store.rounds[round_id]
            if round_id > 0:
                assert record.base_model_id == last
            if record.status == "done" or round_id == 0:  # opened again for the statistics
                last = record.model_id or record.base_model_id
            last = back.get(round_id, last)
            for task in store.tasks.values():
                # Who is free in mode async begins on the next round while the last one is measured.
                is_undone = "rolled back" in task.reason
                if task.round_id == round_id and task.kind is Kind.TRAIN and not is_undone:
                    assert task.model_id == record.base_model_id
        assert self.story.run.model_id == last

    @invariant()
    def an_agent_has_one_task_at_most(self) -> None:
        waiting = [
            t.agent_id
            for t in self.story.store.tasks.values()
            if t.status in (TaskStatus.OPEN, TaskStatus.LATE)
        ]
        assert len(waiting) == len(set(waiting))

    @invariant()
    def indexes_say_what_is_so(self) -> None:
        machine = self.story.machine
        here = {agent: member for agent, member in machine.members.items() if member.is_present}
        assert set(machine._free) == {agent for agent, member in here.items() if member.task_id is None}
        assert machine._busy == len(here) - len(machine._free)
        hung_up = {agent for agent, member in here.items() if member.hung_up_at is not None}
        assert set(machine._hung_up) == hung_up
        assert set(here) == hung_up | self.present - hung_up
        unanswered = {
            task.task_id: task.agent_id
            for task in self.story.store.tasks.values()
            if task.status in (TaskStatus.OPEN, TaskStatus.LATE)
        }
        assert machine.unanswered == unanswered
        assert all(machine.tasks[task_id] == self.story.store.tasks[task_id] for task_id in unanswered)
        waiting = {
            update.task_id
            for update in self.story.store.updates.values()
            if update.verdict is Verdict.ACCEPTED and update.counted_in is None and update.kind is Kind.TRAIN
        }
        assert set(machine._ready[Kind.TRAIN]) == waiting

    @invariant()
    def what_may_still_be_answered_has_its_base(self) -> None:
        machine = self.story.machine
        bases = {machine.tasks[task_id].model_id for task_id in machine.unanswered}
        bases |= {machine.base_of(update) for update in machine.ready(Kind.TRAIN)}
        assert bases - {None} <= machine.models.keys()

    @invariant()
    def the_agents_time_is_not_negative(self) -> None:
        for record in self.story.store.rounds.values():
            assert min(record.busy_s, record.wasted_s, record.idle_s) >= 0.0

    @invariant()
    def whoever_is_free_has_something_to_do(self) -> None:
        machine, run = self.story.machine, self.story.run
        if not machine.is_async or run.status is not RunStatus.RUNNING or run.phase is not Phase.COLLECTING:
            return
        if run.kind is Kind.TRAIN and machine.settings.cohort.rule == "all":
            free = {agent for agent in machine.eligible(Kind.TRAIN) if agent in self.present}
            assert all(machine._is_spared(agent) for agent in free)

    @invariant()
    def memory_is_bounded(self) -> None:
        machine = self.story.machine
        assert len(machine.tasks) <= 4 * len(AGENTS)
        assert len(machine.updates) <= 4 * len(AGENTS)
        assert len(machine.models) <= 4 + 4 * len(AGENTS)

    def teardown(self) -> None:
        """Whatever happened, the run goes on once the agents are well again."""
        if not hasattr(self, "story"):
            return
        story = self.story
        if not story.run.status.is_over:
            done = story.run.rounds_done
            self.steer("resume")
            for agent in AGENTS:
                self.leave(agent, for_good=False)
                self.join(agent, forgets=True)
            for number in range(24):
                self.obey()
                self.all_answer()
                while story.folds:
                    self.fold(fails=False)
                if number % 2:
                    self.wake_up()
            assert story.run.rounds_done > done or story.run.status.is_over
        self.nothing_accepted_is_lost()


Runs.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
test_any_sequence_of_events = Runs.TestCase
