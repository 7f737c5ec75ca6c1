"""Training runs as lists of events: what comes of them, and what is stored."""

import math
from dataclasses import replace
from typing import Any

import pytest

from fl_main.answers import MAX_EXAMPLES
from fl_main.errors import InvalidTransitionError
from fl_main.events import (
    Answer,
    Assign,
    Cancel,
    EndRun,
    Expel,
    Fold,
    FoldFailed,
    Prune,
    Receive,
    StepFolded,
    TellCounted,
    UpdateOffered,
    UpdateReceived,
)
from fl_main.phases import TRANSITIONS, next_phase
from fl_main.settings import RunSettings
from fl_main.store import Phase, RoundRecord, RunStatus, TaskStatus, UpdateRecord, Verdict
from fl_main.strategies import (
    Contribution,
    FedAdam,
    FedAvg,
    FedNova,
    FedSGD,
    Pipeline,
    QFedAvg,
    Strategy,
)
from fl_main.strategies.fold import state_layout
from fl_main.training import Kind
from fl_main.weights import ArraySpec, DType, Layout
from fl_main.why import waiting_for
from tests.fl_main.story import LAYOUT, SUMS, Story, of_type, only, payload, run_settings

OTHER = Layout([ArraySpec("v", DType.F32, (2,))])


def collecting(agents: str = "ab", **sections: Any) -> Story:
    """Return a story whose first round has begun with these agents."""
    story = Story(run_settings(**sections))
    story.gather(*agents)
    assert story.stand == (1, "train", "collecting")
    assert sorted(story.assigned) == list(agents)
    return story


def test_every_phase_has_a_way_out() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)
    assert next_phase(Phase.COLLECTING, "deadline") is Phase.AGGREGATING
    with pytest.raises(InvalidTransitionError, match="'published' in phase waiting"):
        next_phase(Phase.WAITING, "published")


# --- a run that goes well ----------------------------------------------------------------


def test_two_agents_train_three_rounds() -> None:
    story = Story(run_settings(end={"rounds": 3}))
    story.join("a")
    assert story.stand == (0, "initialise", "waiting")
    assert waiting_for(story.view()) == "waits for 2 agents for train; 1 is here"
    effects = story.join("b")
    assert [assign.task.agent_id for assign in of_type(effects, Assign)] == ["a", "b"]
    for number in (1, 2, 3):
        assert story.stand == (number, "train", "collecting")
        assert [answer.verdict for answer in story.answer("a", "b")] == [Verdict.ACCEPTED] * 2
        assert story.stand == (number, "train", "aggregating")
        effects = story.fold()
        assert [told.agent_id for told in of_type(effects, TellCounted)] == ["a", "b"]
        only(effects, Prune)
    assert story.run.status is RunStatus.FINISHED
    assert story.run.reason == "3 rounds are done"
    assert only(effects, EndRun).agent_id is None
    assert story.store.tags["final"] == story.run.model_id
    assert [record.status for record in story.store.rounds.values()] == ["done"] * 4
    counted = [(u.counted_in, u.staleness, u.share) for u in story.store.updates.values()]
    assert counted == [(number, 0, 0.5) for number in (1, 1, 2, 2, 3, 3)]


def test_global_models_form_one_chain() -> None:
    story = collecting(end={"rounds": 2})
    story.do_round("a", "b")
    first = story.run.model_id
    assert [task.model_id for task in story.store.tasks.values()] == ["initial", "initial", first, first]
    assert [parent for parent, _ in story.store.models[first or ""].parents] == [
        update.model_id for update in story.store.updates.values()
    ]


def test_tasks_carry_seeds_that_repeat() -> None:
    seeds = [[task.seed for task in collecting(seed=7).store.tasks.values()] for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


def test_the_initial_model_comes_from_the_first_agent() -> None:
    story = Story(run_settings(), initial=False)
    assert waiting_for(story.view()) == "waits for an agent that offers an initial model"
    story.join("b")
    assert story.stand == (0, "initialise", "collecting")
    story.join("a")
    assert story.assigned.keys() == {"b"}
    story.answer("b")
    assert story.machine.layout == LAYOUT
    assert story.stand == (1, "train", "collecting")
    assert story.store.models[story.run.model_id or ""].agent_id == "b"


def test_another_agent_is_asked_when_the_first_one_is_gone() -> None:
    story = Story(run_settings(round={"rejoin_s": 10.0}), initial=False)
    story.join("a", "b")
    story.leave("a")
    assert "b" not in story.assigned
    assert story.machine.next_wakeup() == 10.0
    story.wait(10.0)
    assert story.assigned["b"].kind is Kind.INITIALISE
    story.answer("b")
    story.join("a")
    assert story.stand == (1, "train", "collecting")
    assert story.run.failed_rounds == 0


def test_agents_with_another_layout_are_expelled_when_the_model_is_there() -> None:
    story = Story(run_settings(), initial=False)
    story.join("a")
    story.join("b", layout=OTHER)
    story.answer("a")
    assert [(e.agent_id, e.code) for e in of_type(story.effects, Expel)] == [("b", "layout")]
    assert story.stand == (0, "initialise", "waiting")  # and b is not counted as here
    story.leave("b")
    assert story.machine.refusal(OTHER) == (
        "layout",
        "array 'w' of the run's model is missing (1 missing in all)",
    )
    assert story.machine.refusal(LAYOUT) is None
    assert story.machine.refusal(None) is None


def test_statistics_are_added_up_before_the_first_round() -> None:
    story = Story(run_settings(statistics=True))
    story.join("a", "b")
    assert story.stand == (0, "statistics", "collecting")
    story.answer("a", "b", num_examples=0)
    assert only(story.effects, Fold).kind is Kind.STATISTICS
    story.fold()
    assert story.store.models[story.run.statistics_id or ""].payload.layout == SUMS
    assert story.stand == (1, "train", "collecting")
    assert [update.counted_in for update in story.store.updates.values()] == [0, 0]


def test_sums_that_are_not_alike_are_rejected() -> None:
    story = Story(run_settings(statistics=True))
    story.gather("a", "b", "c")
    on_its_way = story.offer("b", payloads={"weights": payload("other", OTHER)})
    only(story.propose(on_its_way), Receive)  # nobody has answered yet
    story.answer("a")
    assert only(story.tell(UpdateReceived(on_its_way)), Answer).verdict is Verdict.REJECTED
    story.restart()
    story.join("c")
    [answer] = story.answer("c", payloads={"weights": payload("x", OTHER)})
    assert answer.reason == "array 'n' of the run's model is missing (2 missing in all)"


def test_cohorts_are_stored_with_their_rule() -> None:
    story = Story(run_settings(cohort={"rule": "number", "number": 2}, round={"min_agents": 4}))
    story.join("d", "c", "b", "a")
    step = story.machine.step
    assert step is not None
    assert step.eligible == ("a", "b", "c", "d")
    assert step.rule == "2 of 4 eligible agents at random"
    assert sorted(story.assigned) == list(step.invited)
    assert len(step.invited) == 2


def test_agents_that_cannot_train_are_not_asked() -> None:
    story = collecting("ab")
    story.join("c", kinds=("evaluate",))
    story.do_round("a", "b")
    assert "c" not in story.assigned


def test_an_agent_that_joins_late_takes_part_in_the_next_round() -> None:
    story = collecting("ab")
    story.join("c")
    assert "c" not in story.assigned
    story.do_round("a", "b")
    assert story.assigned["c"].round_id == 2


def test_a_strategy_that_needs_more_updates_waits_for_more_agents() -> None:
    class Krum(FedAvg):
        min_updates = 3

    story = Story(run_settings(), Krum)
    story.join("a", "b")
    assert waiting_for(story.view()) == "waits for 3 agents for train; 2 are here"
    story.join("c")
    assert story.stand == (1, "train", "collecting")


# --- when it is enough -------------------------------------------------------------------


def test_the_quorum_ends_a_round_early() -> None:
    story = collecting("abcd", round={"min_agents": 4, "quorum": 0.75})
    story.answer("a", "b")
    assert story.stand == (1, "train", "collecting")
    story.answer("c")
    assert story.stand == (1, "train", "aggregating")
    assert only(story.effects, Cancel).agent_id == "d"


def test_a_quorum_is_not_raised_by_rounding() -> None:
    agents = [f"{number:02}" for number in range(25)]
    story = Story(run_settings(round={"min_agents": 25, "quorum": 0.28}))
    story.join(*agents)
    story.answer(*agents[:6])
    assert story.stand == (1, "train", "collecting")
    story.answer(agents[6])  # 0.28 x 25 is 7.000000000000001 in floats
    assert story.stand == (1, "train", "aggregating")


def test_updates_are_folded_in_the_order_of_their_agents() -> None:
    story = collecting("abc")
    story.answer("c", "a", "b")
    assert [update.agent_id for update in only(story.effects, Fold).updates] == ["a", "b", "c"]


def test_the_rest_gets_a_grace_after_the_quorum() -> None:
    story = collecting("abc", round={"min_agents": 3, "quorum": 0.6, "grace_s": 5.0})
    story.at = 1.0
    story.answer("a", "b")
    assert story.stand == (1, "train", "collecting")
    assert story.machine.next_wakeup() == 6.0
    story.wait(4.9)
    assert story.stand == (1, "train", "collecting")
    story.wait(0.1)
    assert story.stand == (1, "train", "aggregating")


def test_the_grace_ends_when_all_are_there() -> None:
    story = collecting("abc", round={"min_agents": 3, "quorum": 0.6, "grace_s": 5.0})
    story.answer("a", "b", "c")
    assert len(only(story.effects, Fold).updates) == 3


def test_a_declined_task_is_not_waited_for() -> None:
    story = collecting("abc")
    story.decline("c")
    story.answer("a", "b")
    assert story.stand == (1, "train", "aggregating")
    assert story.store.tasks[story.assigned["c"].task_id].status is TaskStatus.DECLINED
    story.fold()
    assert story.assigned["c"].round_id == 2  # it is asked again


def test_a_failed_task_is_told_apart() -> None:
    story = collecting("abc")
    story.decline("c", "error")
    task = story.store.tasks[story.assigned["c"].task_id]
    assert (task.status, task.reason) == (TaskStatus.FAILED, "error: because")
    assert story.send(story.offer("c")).reason == "its task was failed"


def test_a_round_fails_at_once_when_nobody_is_left_who_could_answer() -> None:
    story = collecting("ab")
    story.answer("a")
    story.decline("b")
    assert story.run.failed_rounds == 1
    assert story.verdicts("a") == [
        ("discarded", "round 1 failed: 1 updates; 2 are needed and nobody else is working")
    ]
    assert story.stand == (2, "train", "collecting")


def test_a_departed_agent_is_waited_for_as_long_as_it_may_be_back() -> None:
    story = collecting("abc", round={"rejoin_s": 10.0})
    story.answer("a", "b")
    story.leave("c")
    assert story.stand == (1, "train", "collecting")
    assert story.machine.next_wakeup() == 10.0
    assert "not connected: C" in waiting_for(story.view())
    story.wait(10.0)
    assert story.stand == (1, "train", "aggregating")


def test_an_agent_that_left_for_good_is_not_waited_for() -> None:
    story = collecting("abc")
    story.answer("a", "b")
    story.leave("c", for_good=True)
    assert story.stand == (1, "train", "aggregating")


def test_a_round_begins_anew_with_others_once_all_that_are_missing_left_for_good() -> None:
    story = collecting("abc", round={"rejoin_s": 10.0})
    story.join("d")
    story.decline("a", "error")
    story.leave("a", for_good=True)
    story.leave("b", for_good=True)
    assert story.stand == (1, "train", "collecting")  # c is at work
    story.answer("c")
    assert story.verdicts("c") == [
        (
            "discarded",
            "round 1 failed: 1 updates; 2 are needed, who is missing left, and others are free",
        )
    ]
    assert story.stand == (2, "train", "collecting")
    assert {agent for agent in "cd" if story.assigned[agent].round_id == 2} == {"c", "d"}


def test_a_round_waits_for_who_left_for_good_where_nobody_else_could_do_it() -> None:
    story = collecting("ab")
    story.answer("a")
    task = story.assigned["b"]
    story.leave("b", for_good=True)
    assert story.stand == (1, "train", "collecting")
    assert only(story.join("b"), Assign).task == task
    story.answer("b")
    assert story.stand == (1, "train", "aggregating")


def test_an_agent_that_comes_back_without_its_task_is_given_it_again() -> None:
    story = collecting("ab")
    task = story.assigned["b"]
    story.leave("b")
    story.at = 3.0
    assert only(story.join("b"), Assign).task == task
    assert only(story.effects, Assign).deadline_s == 597.0


def test_an_agent_that_comes_back_with_its_task_just_goes_on() -> None:
    story = collecting("ab")
    story.leave("b")
    assert not of_type(story.join("b", held=(story.assigned["b"].task_id,)), Assign)
    story.answer("a", "b")
    assert story.stand == (1, "train", "aggregating")


# --- deadlines ---------------------------------------------------------------------------


def test_the_deadline_ends_a_round_that_has_enough() -> None:
    story = collecting("abc", round={"deadline_s": 60.0})
    story.answer("a", "b")
    assert story.machine.next_wakeup() == 60.0
    story.wait(60.0)
    assert [update.agent_id for update in only(story.effects, Fold).updates] == ["a", "b"]


def test_a_deadline_with_too_few_updates_is_extended_once_and_then_the_round_fails() -> None:
    story = collecting("ab", round={"deadline_s": 60.0})
    story.answer("a")
    story.wait(60.0)
    assert story.stand == (1, "train", "collecting")
    assert story.events("deadline_extended") == [{"reason": "1 updates; 2 needed"}]
    assert story.machine.next_wakeup() == 120.0
    story.wait(60.0)
    assert story.verdicts("a") == [("discarded", "round 1 failed: 1 updates by the deadline; 2 are needed")]
    assert story.store.rounds[1].status == "failed"
    assert story.stand == (1, "evaluate", "waiting")  # b is still busy: a new round needs both
    assert waiting_for(story.view()).endswith("1 more still busy with an earlier task")


def test_an_update_in_the_extension_saves_the_round() -> None:
    story = collecting("ab", round={"deadline_s": 60.0})
    story.answer("a")
    story.wait(61.0)
    story.answer("b")
    assert story.stand == (1, "train", "aggregating")


def test_too_many_failed_rounds_fail_the_run() -> None:
    story = collecting("ab", round={"max_failed_rounds": 2})
    story.decline("a")
    story.decline("b")
    assert story.stand == (2, "train", "collecting")
    story.decline("a")
    story.decline("b")
    assert story.run.status is RunStatus.FAILED
    assert story.run.reason.startswith("2 rounds in a row failed")
    only(story.effects, EndRun)


def test_a_good_round_forgives_failed_ones() -> None:
    story = collecting("ab", round={"max_failed_rounds": 2})
    story.decline("a")
    story.decline("b")
    story.do_round("a", "b")
    assert (story.run.failed_rounds, story.run.rounds_done, story.run.round_id) == (0, 1, 3)


def test_a_fold_that_fails_fails_the_round() -> None:
    story = collecting("ab")
    story.answer("a", "b")
    story.fail_fold("the combined model has values that are NaN or infinite")
    assert story.run.model_id == "initial"
    assert story.verdicts("a")[0][0] == "discarded"
    assert story.stand == (2, "train", "collecting")


# --- late updates ------------------------------------------------------------------------


def late_by_c(mode: str) -> Story:
    story = collecting("abc", mode=mode, round={"quorum": 0.6}, end={"rounds": 4})
    story.answer("a", "b")
    story.fold()
    assert story.assigned["c"].round_id == 1
    assert story.stand == (2, "train", "collecting")
    return story


def test_a_late_update_is_discarded() -> None:
    story = late_by_c("sync")
    assert only(story.propose(story.offer("c")), Answer).verdict is Verdict.DISCARDED
    assert story.verdicts("c") == [("discarded", "late: round 1 is over")]


def test_an_update_that_became_late_on_its_way_is_discarded_and_stored() -> None:
    story = collecting("abc", round={"quorum": 0.6})
    offer = story.offer("c")
    only(story.propose(offer), Receive)
    story.do_round("a", "b")
    story.do_round("a", "b")
    assert story.stand == (3, "train", "collecting")
    assert only(story.tell(UpdateReceived(offer)), Answer).verdict is Verdict.DISCARDED
    assert story.verdicts("c") == [("discarded", "late: round 1 is over")]


def test_a_busy_agent_is_not_given_a_second_task() -> None:
    story = late_by_c("sync")
    story.do_round("a", "b")
    assert story.assigned["c"].round_id == 1
    story.answer("c")
    story.do_round("a", "b")
    assert story.assigned["c"].round_id == 4


def test_a_late_update_counts_in_the_next_round_with_its_staleness() -> None:
    story = late_by_c("semi-sync")
    answer = story.send(story.offer("c"))
    assert (answer.verdict, answer.late) == (Verdict.ACCEPTED, True)
    assert story.stand == (2, "train", "collecting")
    repeated = story.send(story.offer("c"))
    assert repeated == answer
    story.answer("a", "b")
    assert [update.agent_id for update in only(story.effects, Fold).updates] == ["a", "b", "c"]
    story.fold()
    late = story.store.answers(answer.task_id)[0]
    assert (late.round_id, late.counted_in, late.staleness) == (1, 2, 1)


def test_a_late_update_may_come_two_rounds_later() -> None:
    story = late_by_c("semi-sync")
    story.do_round("a", "b")
    answer = story.send(story.offer("c"))
    story.do_round("a", "b")
    late = story.store.answers(answer.task_id)[0]
    assert (late.counted_in, late.staleness) == (3, 2)


def test_a_late_update_that_no_round_counts_any_more_is_discarded_at_the_end() -> None:
    story = collecting("abc", mode="semi-sync", round={"quorum": 0.6}, end={"rounds": 1})
    story.answer("a", "b")
    assert story.answer("c")[0].late
    story.fold()
    assert story.run.status is RunStatus.FINISHED
    assert story.verdicts("c") == [("discarded", "the run is finished: 1 rounds are done")]


def test_a_late_task_ends_with_the_process_that_worked_on_it() -> None:
    story = late_by_c("semi-sync")
    story.leave("c")
    story.join("c")
    assert story.store.tasks[story.assigned["c"].task_id].status is TaskStatus.CANCELLED
    story.do_round("a", "b")
    assert story.assigned["c"].round_id == 3


# --- repeats and faults ------------------------------------------------------------------


def test_the_same_update_twice_counts_once() -> None:
    story = collecting("ab")
    first = story.offer("a")
    assert story.send(first) == story.send(first)
    assert only(story.tell(UpdateReceived(first)), Answer).verdict is Verdict.ACCEPTED
    assert len(story.store.updates) == 1
    story.answer("b")
    story.fold()
    assert story.send(first).verdict is Verdict.ACCEPTED  # the database knows, when the machine forgot
    assert [update.counted_in for update in story.store.updates.values()] == [1, 1]


def test_a_second_different_update_is_rejected_and_the_first_one_counts() -> None:
    story = collecting("ab")
    story.send(story.offer("a", "one"))
    second = story.send(story.offer("a", "two"))
    assert second.verdict is Verdict.REJECTED
    assert second.reason == "its task was already answered with another update"
    story.restart()
    story.join("a", held=(story.assigned["a"].task_id,))
    story.join("b", held=(story.assigned["b"].task_id,))
    story.answer("b")
    assert only(story.effects, Fold).updates[0].digests == {"weights": payload("one").digest}
    assert [str(u.verdict) for u in story.store.answers(second.task_id)] == ["accepted", "rejected"]


def rejected(story: Story, **changes: Any) -> str:
    """Return why an otherwise good update of agent a is rejected."""
    answer = story.send(replace(story.offer("a"), **changes))
    assert answer.verdict is Verdict.REJECTED
    assert story.verdicts("a")[-1] == ("rejected", answer.reason)
    return answer.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_examples": 0}, "num_examples is 0; it must be at least 1"),
        ({"num_examples": -5}, "num_examples is -5; it must be at least 1"),
        ({"num_examples": MAX_EXAMPLES + 1}, "it can be at most"),
        ({"payloads": {}}, "the payload 'weights' is missing"),
        (
            {"payloads": {"weights": payload("w"), "extra": payload("e")}},
            "the payload 'extra' is not part of such an update",
        ),
        ({"payloads": {"weights": payload("w", OTHER)}}, "array 'w' of the run's model is missing"),
        ({"task_id": "f" * 24}, "there was never such a task for this agent"),
    ],
)
def test_a_faulty_update_is_rejected_with_the_reason_and_the_round_goes_on(
    changes: dict[str, Any], reason: str
) -> None:
    story = collecting("abc")
    assert reason in rejected(story, **changes)
    story.answer("b", "c")
    assert story.run.round_id == 1


def test_an_update_for_the_task_of_another_agent_is_rejected() -> None:
    story = collecting("ab")
    foreign = story.assigned["b"]
    assert rejected(story, task_id=foreign.task_id) == "there was never such a task for this agent"
    story.answer("a", "b")
    assert len(only(story.effects, Fold).updates) == 2
    assert story.store.answers(foreign.task_id)[0].round_id == -1


def test_a_foreign_answer_does_not_stand_for_the_agents_own() -> None:
    story = collecting("abc", round={"quorum": 0.6})
    own = story.offer("c")
    story.send(replace(story.offer("a"), task_id=own.task_id))
    story.do_round("a", "b")
    story.leave("c", for_good=True)
    story.join("c")  # a new process: the machine forgets its old task
    story.do_round("a", "b")
    assert own.task_id not in story.machine.tasks
    assert story.send(own).reason == "late: round 1 is over"


def test_task_of_another_run_is_not_closed_by_whom_its_agent_brings_its_answer_to() -> None:
    story = Story()
    story.join("a", "b")
    task = replace(story.assigned["a"], task_id="f" * 24, run_id="another")
    offer = story.offer("a", task=task)
    answer = only(story.tell(UpdateOffered(offer, (task, None))), Answer)
    assert (answer.verdict, answer.reason) == (
        Verdict.REJECTED,
        "there was never such a task for this agent",
    )
    assert task.task_id not in story.store.tasks
    answered = UpdateRecord(
        task.task_id, "another", 1, Kind.TRAIN, "a", Verdict.ACCEPTED, digests=offer.digests
    )
    answer = only(story.tell(UpdateOffered(offer, (task, answered))), Answer)
    assert answer.verdict is Verdict.ACCEPTED  # its verdict was lost; that it is stored is true all the same


def test_channels_and_facts_that_the_strategy_needs_are_demanded() -> None:
    class Scaffold(FedAvg):
        up = ("control",)
        needs = ("num_steps", "base_loss")

    story = Story(run_settings(strategy="x:Scaffold"), Scaffold)
    story.join("a", "b")
    both = {"weights": payload("w"), "control": payload("c", state_layout(LAYOUT), "control")}
    wrong = {**both, "control": payload("c", OTHER, "control")}
    for facts, reason in (
        ({}, "the payload 'control' is missing"),
        ({"payloads": wrong}, "control: array 'w' of the run's model is missing (1 missing in all)"),
        ({"payloads": both}, "the strategy x:Scaffold needs 'num_steps' with every update"),
        ({"payloads": both, "num_steps": 3}, "the strategy x:Scaffold needs 'base_loss' with every update"),
    ):
        story = Story(run_settings(strategy="x:Scaffold"), Scaffold)
        story.join("a", "b")
        assert rejected(story, **facts) == reason
    story = Story(run_settings(), Scaffold)
    story.join("a", "b")
    good = story.offer("a", payloads=both, num_steps=3, metrics={"base_loss": 0.5})
    assert story.send(good).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("strategy", "facts", "reason"),
    [
        (FedSGD(), {"num_steps": 2}, "num_steps is 2, but fedsgd is of one step on all data"),
        (FedNova(), {"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        (QFedAvg(0.1), {"metrics": {"loss": -1.0}}, "loss is -1.0; it must be a number of at least 0"),
        (
            Pipeline([("fednova", FedNova()), ("fedadam", FedAdam())]),
            {"num_steps": 0},
            "num_steps is 0; it must be at least 1",
        ),
    ],
)
def test_an_update_of_facts_that_cannot_be_is_rejected_and_the_round_goes_on(
    strategy: Strategy, facts: dict[str, Any], reason: str
) -> None:
    story = Story(run_settings(round={"min_updates": 1}), lambda: strategy)
    story.gather("a", "b")
    assert rejected(story, **facts).startswith(reason)
    story.answer("b", num_steps=1, metrics={"loss": 1.0})
    assert [update.agent_id for update in story.folds[-1].updates] == ["b"]


def test_a_strategy_that_fails_to_judge_an_update_harms_nobody_else() -> None:
    class Broken(FedAvg):
        def fault(self, update: Contribution) -> str:
            raise ZeroDivisionError("division by zero")

    story = Story(run_settings(strategy="x:Broken"), Broken)
    story.gather("a", "b")
    assert rejected(story) == "the strategy x:Broken cannot judge it: ZeroDivisionError: division by zero"


def test_spoiled_bytes_are_rejected() -> None:
    story = collecting("abc")
    offer = story.offer("a")
    story.propose(offer)
    assert only(story.spoil(offer, "array 'w' has values that are NaN"), Answer).verdict is Verdict.REJECTED
    assert story.send(offer).reason == "array 'w' has values that are NaN"


def test_spoiled_bytes_of_a_forgotten_task_are_answered_too() -> None:
    story = collecting("ab")
    stranger = replace(story.offer("a"), task_id="f" * 24)
    assert only(story.spoil(stranger, "bad"), Answer).reason == "bad"


def test_a_slow_database_does_not_reopen_a_closed_task() -> None:
    story = collecting("ab")
    stale = story.assigned["a"]
    offer = story.offer("a")
    story.do_round("a", "b")
    story.do_round("a", "b")
    assert stale.task_id not in story.machine.tasks
    assert only(story.tell(UpdateOffered(offer, (stale, None))), Answer).verdict is Verdict.DISCARDED


# --- metrics -----------------------------------------------------------------------------


def means(story: Story) -> list[tuple[str, str, float, int, int]]:
    return [
        (m.source, m.name, m.value, m.num_examples, m.agents) for m in story.store.metrics if not m.agent_id
    ]


def test_means_are_weighted_by_the_matching_counts() -> None:
    story = collecting("abc", end={"rounds": 1}, evaluate={"every": 1})
    story.answer("a", num_examples=10, metrics={"loss": 1.0})
    story.answer("b", num_examples=30, metrics={"loss": 2.0, "extra": 7.0})
    story.answer("c", num_examples=60, metrics={})
    story.fold()
    # (10 x 1 + 30 x 2) / 40 = 1.75, reported by two
    assert means(story) == [("train", "loss", 1.75, 40, 2), ("train", "extra", 7.0, 30, 1)]
    assert story.stand == (1, "evaluate", "collecting")
    story.answer("a", num_examples=1, metrics={"loss": 4.0})
    story.answer("b", "c", num_examples=2, metrics={"loss": 1.5})
    # (1 x 4 + 2 x 1.5 + 2 x 1.5) / 5 = 2
    assert means(story)[2:] == [("evaluate", "loss", 2.0, 5, 3)]
    assert {m.model_id for m in story.store.metrics if not m.agent_id} == {story.run.model_id}
    assert {m.model_id for m in story.store.metrics if m.source == "evaluate"} == {story.run.model_id}
    assert story.run.status is RunStatus.FINISHED


def test_a_metric_that_is_not_finite_is_flagged_and_rejects_nothing() -> None:
    story = collecting("ab", end={"rounds": 1}, best={"source": "train"})
    story.answer("a", metrics={"loss": math.nan})
    story.answer("b", metrics={"loss": 1.0})
    story.fold()
    assert math.isnan(means(story)[0][2])
    assert story.events("metric_not_finite") == [{"source": "train", "metric": "loss"}]
    assert story.run.best_value is None
    assert story.run.rounds_done == 1


def measured(story: Story, *losses: float) -> None:
    """Train and evaluate a round for each loss."""
    for loss in losses:
        story.do_round("a", "b")
        story.answer("a", "b", metrics={"loss": loss})


def test_the_best_model_is_tagged() -> None:
    story = collecting("ab", evaluate={"every": 1})
    measured(story, 3.0, 1.0, 2.0)
    second = next(m.model_id for m in story.store.metrics if m.value == 1.0 and m.source == "evaluate")
    assert story.store.tags["best"] == second == story.run.best_model_id
    assert (story.run.best_value, story.run.best_round) == (1.0, 2)
    assert story.store.tags["final"] != second


def test_the_larger_value_is_better_when_the_settings_say_so() -> None:
    story = collecting("ab", evaluate={"every": 1}, best={"direction": "max"})
    measured(story, 3.0, 1.0)
    assert (story.run.best_value, story.run.best_round) == (3.0, 1)


def test_evaluations_stay_accepted_when_the_run_ends_or_is_stopped() -> None:
    for rounds in (1, 2):
        story = collecting("ab", evaluate={"every": 1}, end={"rounds": rounds})
        measured(story, 1.0)
        story.steer("stop")
        assert story.run.status is (RunStatus.FINISHED if rounds == 1 else RunStatus.STOPPED)
        verdicts = [u.verdict for u in story.store.updates.values() if u.kind is Kind.EVALUATE]
        assert verdicts == [Verdict.ACCEPTED] * 2


def test_evaluation_needs_no_minimum_and_ends_at_its_own_deadline() -> None:
    story = collecting("ab", evaluate={"every": 1, "deadline_s": 5.0}, end={"rounds": 1})
    story.do_round("a", "b")
    assert story.machine.next_wakeup() == 5.0
    story.answer("a", metrics={"loss": 1.0})
    story.wait(5.0)
    assert means(story) == [("evaluate", "loss", 1.0, 10, 1)]
    assert story.run.status is RunStatus.FINISHED


def test_evaluation_is_skipped_when_nobody_can_do_it() -> None:
    story = Story(run_settings(evaluate={"every": 1}))
    story.join("a", "b", kinds=("train",))
    story.do_round("a", "b")
    assert story.stand == (2, "train", "collecting")
    assert story.events("evaluation_skipped") == [{"reason": "no agent that can evaluate is here"}]


def test_the_final_evaluation_waits_for_agents_after_a_restart() -> None:
    story = collecting("ab", evaluate={"every": 1}, end={"rounds": 1})
    story.answer("a", "b")
    only(story.restart(), Fold)  # folded again ...
    story.fold()  # ... before anybody is back
    assert not story.run.status.is_over
    assert story.machine.next_wakeup() == 10.0
    story.join("a")
    assert story.assigned["a"].kind is Kind.EVALUATE
    story.answer("a", metrics={"loss": 1.0})
    assert story.run.status is RunStatus.FINISHED


def test_the_final_evaluation_does_not_wait_for_ever() -> None:
    story = collecting("ab", evaluate={"every": 1}, end={"rounds": 1})
    story.answer("a", "b")
    story.leave("a")
    story.leave("b")
    story.fold()
    story.wait(9.9)
    assert not story.run.status.is_over
    story.wait(0.1)
    assert story.run.status is RunStatus.FINISHED


# --- ends --------------------------------------------------------------------------------


def test_a_target_ends_the_run() -> None:
    story = collecting("ab", evaluate={"every": 1}, end={"rounds": 9, "target": 1.0})
    measured(story, 2.0, 0.5)
    assert story.run.status is RunStatus.FINISHED
    assert story.run.reason == "evaluate loss reached 0.5 (target 1)"


def test_no_improvement_ends_the_run() -> None:
    story = collecting("ab", evaluate={"every": 1}, end={"rounds": 9, "patience": 2})
    measured(story, 2.0, 3.0, 2.0)
    assert (story.run.status, story.run.rounds_done) == (RunStatus.FINISHED, 3)


def test_time_ends_the_run_after_the_open_round() -> None:
    story = collecting("ab", end={"rounds": 9, "max_s": 100.0})
    story.wait(150.0)
    assert story.stand == (1, "train", "collecting")
    story.do_round("a", "b")
    assert (story.run.status, story.run.reason) == (RunStatus.FINISHED, "100 s of run time are over")


def test_time_ends_a_run_that_waits_for_agents() -> None:
    story = Story(run_settings(end={"max_s": 100.0}))
    assert story.machine.next_wakeup() == 100.0
    story.wait(100.0)
    assert story.run.status is RunStatus.FINISHED
    assert story.machine.next_wakeup() is None


def test_an_agent_that_joins_after_the_end_is_told() -> None:
    story = collecting("ab", end={"rounds": 1})
    story.do_round("a", "b")
    assert only(story.join("c"), EndRun).agent_id == "c"
    assert only(story.propose(story.offer("a")), Answer).verdict is Verdict.ACCEPTED


# --- steering ----------------------------------------------------------------------------


def test_a_paused_run_takes_updates_and_starts_nothing() -> None:
    story = collecting("ab")
    story.steer("pause")
    assert story.machine.next_wakeup() is None
    assert waiting_for(story.view()) == "paused by anna"
    story.answer("a", "b")
    assert story.stand == (1, "train", "collecting")
    only(story.steer("resume"), Fold)
    story.steer("pause")
    story.fold()
    assert story.stand == (1, "train", "waiting")
    assert not of_type(story.join("c"), Assign)
    assert len(of_type(story.steer("resume"), Assign)) == 3


def test_a_paused_run_survives_a_restart() -> None:
    story = Story(run_settings(), initial=False)
    story.join("a")
    story.steer("pause")
    story.answer("a")
    story.restart()
    assert story.run.status is RunStatus.PAUSED
    story.join("a", "b")
    story.steer("resume")
    assert story.stand == (1, "train", "collecting")


@pytest.mark.parametrize("answers", ["", "a", "ab"])
def test_a_stopped_run_discards_what_was_not_counted(answers: str) -> None:
    story = collecting("ab")
    story.answer(*answers)
    effects = story.steer("stop")
    assert story.run.status is RunStatus.STOPPED
    only(effects, EndRun)
    assert [story.verdicts(agent) for agent in answers] == [[("discarded", "stopped by anna")]] * len(answers)
    assert [cancel.agent_id for cancel in of_type(effects, Cancel)] == sorted(set("ab") - set(answers))
    assert story.store.rounds[1].status == "failed"
    if story.folds:
        story.fold()  # comes too late
    assert story.run.model_id == "initial"
    assert [event.actor for event in story.store.events if event.kind == "run_stop"] == ["anna"]


def test_a_stopped_run_goes_on_with_the_next_round() -> None:
    story = collecting("ab")
    story.answer("a")
    story.steer("stop")
    story.decline("b")
    story.steer("resume")
    assert story.stand == (2, "train", "collecting")
    story.do_round("a", "b")
    assert story.run.rounds_done == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stopped_statistics_step_is_begun_anew_with_tasks_of_its_own(restarted: bool) -> None:
    story = Story(run_settings(statistics=True))
    story.join("a", "b")
    before = story.assigned["a"].task_id
    story.at = 1.0
    story.answer("a")
    story.steer("stop")
    if restarted:
        story.restart()
        story.join("a")
    story.decline("b")
    story.join("b")
    story.steer("resume")
    assert story.stand == (0, "statistics", "collecting")
    assert story.assigned["a"].task_id != before
    story.do_round("a", "b")
    assert story.stand == (1, "train", "collecting")


def test_a_failed_run_may_be_tried_again() -> None:
    story = collecting("ab", round={"max_failed_rounds": 1})
    story.decline("a")
    story.decline("b")
    assert story.run.status is RunStatus.FAILED
    story.steer("resume")
    story.do_round("a", "b")
    assert story.run.rounds_done == 1


def test_a_finished_run_stays_finished() -> None:
    story = collecting("ab", end={"rounds": 1})
    story.do_round("a", "b")
    for order in ("pause", "stop", "resume"):
        assert story.steer(order) == []
        assert story.run.status is RunStatus.FINISHED


def test_an_order_that_a_run_cannot_follow_meets_an_objection() -> None:
    story = collecting("ab", end={"rounds": 1})
    orders = ("pause", "resume", "stop")
    assert [story.machine.objection(order) for order in orders] == ["", "", ""]
    story.do_round("a", "b")
    assert [story.machine.objection(order) for order in orders] == [
        "run 'r' is finished: 1 rounds are done; there is nothing to pause",
        "run 'r' is finished: 1 rounds are done; a finished run stays so, roll it back or create another",
        "",
    ]
    stopped = collecting("ab")
    stopped.steer("stop")
    assert (
        stopped.machine.objection("pause") == "run 'r' is stopped: stopped by anna; there is nothing to pause"
    )
    assert stopped.machine.objection("resume") == ""


def test_what_belongs_to_a_model_can_be_fetched_as_long_as_an_agent_may_fetch_that_model() -> None:
    story = Story(
        run_settings(round={"min_agents": 1, "min_updates": 1, "quorum": 0.5, "grace_s": 1.0}), Momentum
    )
    story.gather("a", "b")
    story.do_round("a", "b")
    velocity = story.run.state_ids["velocity"]
    model = story.assigned["b"].model_id
    assert story.assigned["b"].round_id == 2
    story.answer("a")
    story.wait(1.0)
    story.fold()  # b is still fetching the model; the velocity is next
    assert story.run.round_id == 3
    assert {model, velocity} <= story.machine.models.keys()
    story.decline("b", "lost")
    story.do_round("a")
    assert not {model, velocity} & story.machine.models.keys()


# --- restarts ----------------------------------------------------------------------------


class Momentum(FedAvg):
    """Only its name for a state matters here."""

    state = ("velocity",)
    down = ("velocity",)


def told(settings: RunSettings, crash_at: int | None) -> tuple[Story, int]:
    """Tell a run with a late agent and an evaluation; crash before the given event.

    A crash is compared with the same moment without one: all agents lose their connection.
    """
    story = Story(settings, Momentum)
    moment = 0

    def moments() -> None:
        nonlocal moment
        moment += 1
        if moment != crash_at:
            return
        folds = list(story.folds)
        story.restart()
        assert story.folds == folds  # a frozen step is folded again, from the same updates
        for agent in "abc":
            task = story.machine.members[agent].task_id if agent in story.machine.members else None
            if agent in story.store.agents:
                story.join(agent, held=(task,) if task else ())

    story.gather("a", "b", "c")
    while not story.run.status.is_over:
        kind = story.run.kind
        if kind is Kind.EVALUATE and story.assigned["c"].kind is kind:
            story.answer("c", metrics={"loss": 3.0})
        for agent in "ab":
            if kind is Kind.TRAIN:
                story.propose(story.offer(agent))
                moments()
                story.send(story.offer(agent, num_steps=3, metrics={"loss": 1.0 / story.run.round_id}))
            else:
                story.send(story.offer(agent, metrics={"loss": 2.0 / story.run.round_id}))
            moments()
        if kind is Kind.TRAIN:
            if story.run.round_id > 1 and story.machine.members["c"].task_id:
                story.send(story.offer("c"))
            story.fold()
            moments()
        story.at += 1.0
    return story, moment


def test_a_restart_at_any_moment_changes_nothing_that_counts() -> None:
    settings = run_settings(end={"rounds": 3}, evaluate={"every": 2}, mode="semi-sync", round={"quorum": 0.6})
    plain, moments = told(settings, None)
    assert moments > 15
    for moment in range(1, moments + 1):
        crashed, _ = told(settings, moment)
        assert crashed.run == plain.run
        assert crashed.store.updates == plain.store.updates
        assert crashed.store.models == plain.store.models
        assert crashed.store.tags == plain.store.tags
        assert crashed.store.metrics == plain.store.metrics
        assert without_effort(crashed) == without_effort(plain)


def without_effort(story: Story) -> list[RoundRecord]:
    """Return the rounds without what the agents' time went into: of the one under way a crash loses it."""
    rounds = story.store.rounds.values()
    return [replace(record, busy_s=0.0, wasted_s=0.0, idle_s=0.0) for record in rounds]


def test_strategy_state_is_carried_from_round_to_round_and_over_a_restart() -> None:
    story = Story(run_settings(), Momentum)
    story.join("a", "b")
    story.do_round("a", "b")
    first = dict(story.run.state_ids)
    assert story.store.models[first["velocity"]].payload.digest == payload("velocity 1").digest
    story.restart()
    assert story.run.state_ids == first
    assert first["velocity"] in story.machine.models
    story.join("a", "b")
    story.do_round("a", "b")
    assert story.run.state_ids["velocity"] != first["velocity"]


def test_a_deadline_survives_a_restart() -> None:
    story = collecting("ab", round={"deadline_s": 60.0})
    story.wait(50.0)
    story.restart()
    assert story.run.run_time_s == 50.0
    story.join("a", "b")
    story.wait(10.0)
    assert story.events("deadline_extended")


def test_a_step_that_is_complete_after_a_restart_is_folded_once() -> None:
    story = collecting("abc", round={"quorum": 0.6, "rejoin_s": 0.0, "grace_s": 5.0})
    story.answer("a", "b")
    assert len(of_type(story.restart(), Fold)) == 1  # nobody is here, and nobody is waited for


def test_a_result_for_another_step_is_ignored() -> None:
    story = collecting("ab")
    story.answer("a", "b")
    before = story.run
    assert story.tell(StepFolded(Fold(7, Kind.TRAIN, 0, ()), payload("x"))) == []
    assert story.run.model_id == before.model_id
    assert story.run.phase is Phase.AGGREGATING


@pytest.mark.parametrize("kind", [Kind.STATISTICS, Kind.TRAIN])
def test_a_fold_that_outlives_its_stopped_step_counts_for_no_other(kind: Kind) -> None:
    story = Story(run_settings(statistics=kind is Kind.STATISTICS))
    story.gather("a", "b")
    story.answer("a", "b")
    [old] = story.folds
    assert story.machine.is_wanted(old)
    story.steer("stop")
    assert not story.machine.is_wanted(old)
    story.folds.clear()
    story.steer("resume")
    story.answer("a", "b")
    [new] = story.folds
    before = story.run
    for stale in (StepFolded(old, payload("old", SUMS, staged="old")), FoldFailed(old, "not finite")):
        assert story.tell(stale) == []
        assert replace(story.run, run_time_s=before.run_time_s) == before
    assert story.machine.is_wanted(new)
    story.fold()
    assert story.run.phase is Phase.COLLECTING
    counted = {update.task_id for update in story.store.updates.values() if update.counted_in is not None}
    assert counted == {update.task_id for update in new.updates}


def test_memory_does_not_grow_with_the_rounds() -> None:
    story = collecting("abc", end={"rounds": 50}, mode="semi-sync", round={"quorum": 0.6})
    sizes = set()
    for _ in range(48):
        story.do_round("a", "b")
        machine = story.machine
        sizes.add((len(machine.tasks), len(machine.updates), len(machine.models)))
    # tasks of a and b and c's late one; c's base; updates are forgotten when the next step begins
    assert sizes == {(3, 0, 2)}
