"""Modes semi-sync and async, over-selection, adaptive deadlines: rounds that do not wait for all."""

from collections.abc import Sequence
from typing import Any

import pytest

from fl_main.cohort import Candidate
from fl_main.events import Answer, Assign, Cancel, EndRun, Fold, UpdateReceived
from fl_main.store import RunStatus, TaskStatus, UpdateRecord, Verdict
from fl_main.strategies import FedAsync, FedAvg, FedBuff, Median, Strategy
from fl_main.training import Kind
from tests.fl_main.story import Story, of_type, only, run_settings

CAN_TRAIN = ("train",)


class Once(FedBuff):
    """Takes late updates in mode async, but of each agent one."""

    one_each = True


def working(agents: str = "abc", *, buffer: int = 2, mode: str = "async", **sections: Any) -> Story:
    """Return a story in which these agents are at work on their first task."""
    round_settings = {"buffer": buffer} | sections.pop("round", {})
    story = Story(run_settings(mode=mode, round=round_settings, **{"end": {"rounds": 100}, **sections}))
    story.gather(*agents)
    assert story.stand == (1, "train", "collecting")
    return story


def counted(story: Story) -> list[tuple[str, int | None, int | None]]:
    """Return agent, round and staleness of each accepted update, as they came."""
    found = [
        u for u in story.store.updates.values() if u.verdict is Verdict.ACCEPTED and u.kind is Kind.TRAIN
    ]
    return [(update.agent_id, update.counted_in, update.staleness) for update in found]


def frozen(story: Story) -> list[str]:
    """Return the agents whose updates the next fold combines."""
    return [update.agent_id for update in story.folds[0].updates]


def last_update(story: Story, agent: str) -> UpdateRecord:
    return [update for update in story.store.updates.values() if update.agent_id == agent][-1]


def obey(story: Story) -> None:
    """Let agents whose task was cancelled stop working on it."""
    for cancel in of_type(story.effects, Cancel):
        story.decline(cancel.agent_id, "lost")


def effort(story: Story, round_id: int) -> tuple[float, float, float]:
    """Return the seconds that a round's agents were busy, that were wasted, and that they were idle."""
    record = story.store.rounds[round_id]
    return record.busy_s, record.wasted_s, record.idle_s


# --- async: tasks ------------------------------------------------------------------------


def test_a_free_agent_gets_a_task_at_once() -> None:
    story = working("ab", buffer=10)
    effects = story.join("c")
    assert only(effects, Assign).task.agent_id == "c"
    story.answer("a")
    assert only(story.effects, Assign).task.agent_id == "a"


def test_an_agent_may_answer_twice_on_one_base() -> None:
    story = working("abc", buffer=3)
    first = story.assigned["a"]
    story.answer("a")
    second = story.assigned["a"]
    assert (first.model_id, first.version) == (second.model_id, second.version)
    assert first.task_id != second.task_id
    assert first.seed != second.seed
    story.answer("a", "b")
    assert frozen(story) == ["a", "a", "b"]
    story.fold()
    assert counted(story) == [("a", 1, 0), ("a", 1, 0), ("b", 1, 0)]


def test_seeds_repeat_in_another_run_of_the_same_settings() -> None:
    seeds = []
    for _ in range(2):
        story = working("ab")
        story.do_round("a", "b")
        seeds.append([task.seed for task in story.store.tasks.values()])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4


def test_tasks_outlive_rounds() -> None:
    story = working("abc")
    of_c = story.assigned["c"]
    for _ in range(3):
        story.do_round("a", "b")
    assert story.run.rounds_done == 3
    assert story.assigned["c"] == of_c
    assert story.store.tasks[of_c.task_id].status is TaskStatus.OPEN
    assert "initial" in story.machine.models  # its base is kept
    answer = story.answer("c")[0]
    assert (answer.verdict, answer.late) == (Verdict.ACCEPTED, False)
    assert story.assigned["c"].model_id == story.run.model_id
    story.do_round("a")
    assert counted(story)[-2:] == [("c", 4, 3), ("a", 4, 1)]  # a began again before b made a model
    assert "initial" not in story.machine.models


def test_training_tasks_have_no_deadline_but_others_do() -> None:
    story = Story(
        run_settings(mode="async", evaluate={"every": 1}, round={"buffer": 2}, statistics=True), initial=False
    )
    deadlines: dict[Kind, set[float | None]] = {}
    see = story.join("a", "b")
    for _ in range(12):
        for assign in of_type(see, Assign):
            deadlines.setdefault(assign.task.kind, set()).add(assign.deadline_s)
        see = []
        for agent in "ab":
            if agent in story.machine.unanswered.values():
                story.answer(agent)
                see += story.effects
        if story.folds:
            see += story.fold()
    assert deadlines == {
        Kind.INITIALISE: {600.0},
        Kind.STATISTICS: {600.0},
        Kind.TRAIN: {None},
        Kind.EVALUATE: {120.0},
    }


def test_local_models_are_deltas_and_the_initial_one_is_full() -> None:
    story = Story(run_settings(mode="async", round={"buffer": 2}), initial=False)
    story.join("a", "b")
    story.answer("a")
    story.answer("a", "b")
    story.fold()
    forms = [(str(model.kind), model.form) for model in story.store.models.values()]
    assert forms == [
        ("local", "full"),
        ("initial", "full"),
        ("local", "delta"),
        ("local", "delta"),
        ("global", "full"),
    ]
    update = last_update(story, "b")
    assert story.machine.form == "delta"
    assert story.store.models[update.model_id or ""].parents == ((story.store.rounds[1].base_model_id, None),)


def test_nobody_is_asked_to_train_before_there_is_a_model() -> None:
    story = Story(run_settings(mode="async", statistics=True, round={"buffer": 2}), initial=False)
    story.join("a", "b", "c")
    assert [task.kind for task in story.assigned.values()] == [Kind.INITIALISE]
    story.answer("a")
    assert {task.kind for task in story.assigned.values()} == {Kind.STATISTICS}
    story.join("d")
    assert "d" not in story.assigned
    story.answer("a", "b", "c")
    story.fold()
    assert story.stand == (1, "train", "collecting")
    assert [story.assigned[agent].kind for agent in "abcd"] == [Kind.TRAIN] * 4


def test_another_agent_is_asked_for_a_model_when_the_first_is_gone() -> None:
    story = Story(run_settings(mode="async", round={"rejoin_s": 10.0}), initial=False)
    story.join("a", "b")
    story.leave("a")
    assert story.machine.next_wakeup() == 10.0
    story.wait(10.0)
    assert story.assigned["b"].kind is Kind.INITIALISE


def test_another_agent_is_asked_for_a_model_when_the_first_declines() -> None:
    story = Story(run_settings(mode="async"), initial=False)
    story.join("a")
    story.decline("a")
    assert story.events("round_failed")
    story.join("b")
    assert story.at == 0.0


def test_statistics_do_not_wait_for_who_left() -> None:
    story = Story(run_settings(mode="async", statistics=True))
    story.gather("a", "b", "c")
    story.answer("a", "b")
    story.leave("c", for_good=True)
    assert only(story.effects, Fold).kind is Kind.STATISTICS


def test_an_agent_that_declines_is_asked_again_with_the_next_model() -> None:
    story = working("abc")
    story.decline("a")
    assert not of_type(story.effects, Assign)
    story.answer("b")
    assert only(story.effects, Assign).task.agent_id == "b"
    story.answer("b")
    story.fold()
    assert story.assigned["a"].round_id == 2


def test_an_agent_whose_update_is_rejected_is_asked_again_with_the_next_model() -> None:
    story = working("abc")
    [answer] = story.answer("a", num_examples=0)
    assert answer.verdict is Verdict.REJECTED
    assert not of_type(story.effects, Assign)
    story.do_round("b", "c")
    assert story.assigned["a"].round_id == 2


def test_agents_that_all_decline_are_asked_again_when_the_round_failed() -> None:
    story = working("ab", round={"deadline_s": 10.0})
    story.decline("a")
    story.decline("b")
    story.wait(10.0)
    story.wait(10.0)
    assert story.stand == (2, "train", "collecting")
    assert [story.assigned[agent].round_id for agent in "ab"] == [2, 2]


# --- async: the buffer -------------------------------------------------------------------


def test_the_first_k_updates_in_order_of_arrival_make_a_model() -> None:
    story = working("abcd", buffer=3)
    story.answer("d", "b", "d")
    assert story.stand == (1, "train", "aggregating")
    assert frozen(story) == ["b", "d", "d"]  # folded in the order of agents
    story.fold()
    assert story.stand == (2, "train", "collecting")


def test_updates_that_come_during_the_fold_begin_the_next_buffer() -> None:
    story = working("abcd", buffer=2)
    story.answer("a", "b")
    [answer] = story.answer("c")
    assert (answer.verdict, answer.late) == (Verdict.ACCEPTED, False)
    assert not of_type(story.effects, Assign)  # c waits for the new model
    effects = story.fold()
    assert {assign.task.agent_id for assign in of_type(effects, Assign)} == {"b", "c"}  # a is at work
    assert {assign.task.model_id for assign in of_type(effects, Assign)} == {story.run.model_id}
    story.answer("d")
    assert frozen(story) == ["c", "d"]
    story.fold()
    assert counted(story) == [("a", 1, 0), ("b", 1, 0), ("c", 2, 1), ("d", 2, 1)]


def test_a_buffer_that_filled_during_the_fold_is_folded_at_once() -> None:
    story = working("abcde", buffer=2)
    story.answer("a", "b", "e", "c", "d")
    effects = story.fold()
    assert frozen(story) == ["c", "e"]
    assert not of_type(effects, Assign)
    assert story.stand == (2, "train", "aggregating")
    story.fold()
    assert story.stand == (3, "train", "collecting")
    story.answer("a")
    assert frozen(story) == ["a", "d"]
    story.fold()
    assert counted(story) == [("a", 1, 0), ("b", 1, 0), ("e", 2, 1), ("c", 2, 1), ("d", 3, 2), ("a", 3, 2)]


def test_an_update_on_its_way_during_the_fold_is_accepted() -> None:
    story = working("abc")
    on_its_way = story.offer("c")
    story.propose(on_its_way)
    story.answer("a", "b")
    assert only(story.tell(UpdateReceived(on_its_way)), Answer).verdict is Verdict.ACCEPTED


def test_grace_does_not_hold_up_a_full_buffer() -> None:
    story = working("abc", round={"grace_s": 5.0})
    story.answer("a", "b")
    assert frozen(story) == ["a", "b"]


def test_k_is_ten_or_half_of_the_agents_unless_it_is_given() -> None:
    story = Story(run_settings(mode="async"))
    story.gather(*(f"a{number:02}" for number in range(7)))
    assert story.machine.step is not None
    assert story.machine.step.enough == 4
    many = Story(run_settings(mode="async"))
    many.gather(*(f"a{number:02}" for number in range(30)))
    assert many.machine.step is not None
    assert many.machine.step.enough == 10


def test_fedasync_makes_a_model_of_each_update() -> None:
    sections = {"mode": "async", "strategy": "fedasync", "round": {"min_updates": 1}}
    story = Story(run_settings(**sections), FedAsync)
    story.gather("a", "b")
    story.answer("a")
    assert frozen(story) == ["a"]
    story.fold(shares=(0.6,))
    story.answer("b")
    story.fold(shares=(0.6,))
    assert counted(story) == [("a", 1, 0), ("b", 2, 1)]


def test_a_deadline_closes_the_round_with_what_is_there() -> None:
    story = working("abc", buffer=3, round={"deadline_s": 10.0})
    story.answer("a", "b")
    assert story.machine.next_wakeup() == 10.0
    story.wait(10.0)
    assert frozen(story) == ["a", "b"]
    assert story.events("step_closed")[-1]["by"] == "deadline"
    story.fold()
    assert story.assigned["c"].round_id == 1  # it goes on with its task


def test_too_few_updates_extend_the_deadline_and_then_fail_the_round_but_are_kept() -> None:
    story = working("abc", buffer=3, round={"deadline_s": 10.0})
    story.answer("a")
    of_b = story.assigned["b"]
    story.wait(10.0)
    assert story.events("deadline_extended")
    story.wait(10.0)
    assert story.events("round_failed")[0]["reason"] == "1 updates by the deadline; 2 are needed"
    assert story.stand == (2, "train", "collecting")
    assert story.store.tasks[of_b.task_id].status is TaskStatus.OPEN
    assert not of_type(story.effects, Cancel)
    story.answer("b", "c")
    assert frozen(story) == ["a", "b", "c"]
    story.fold()
    assert counted(story) == [("a", 2, 0), ("b", 2, 0), ("c", 2, 0)]
    assert story.run.failed_rounds == 0


def test_a_run_fails_after_too_many_failed_rounds_and_keeps_no_promise_open() -> None:
    story = working("ab", round={"deadline_s": 10.0, "max_failed_rounds": 1})
    story.answer("a")
    story.wait(10.0)
    effects = story.wait(10.0)
    assert story.run.status is RunStatus.FAILED
    assert story.verdicts("a")[0][0] == "discarded"
    assert {cancel.agent_id for cancel in of_type(effects, Cancel)} == {"a", "b"}
    only(effects, EndRun)


def test_a_fold_that_fails_discards_only_what_it_froze() -> None:
    story = working("abc")
    story.answer("a", "b", "c")
    story.fail_fold("not finite")
    assert story.verdicts("a") == [("discarded", "round 1 failed: not finite")]
    assert story.verdicts("c") == [("accepted", "")]
    assert story.stand == (2, "train", "collecting")
    story.answer("b")
    assert frozen(story) == ["b", "c"]


# --- async: who works ---------------------------------------------------------------------


def test_no_more_than_a_number_of_agents_work_at_once() -> None:
    story = working("abcde", cohort={"rule": "number", "number": 2})
    assert len(story.assigned) == 2
    first, second = sorted(story.assigned)
    story.answer(first)
    assert len(story.machine.unanswered) == 2
    story.answer(second)
    story.fold()
    assert len(story.machine.unanswered) == 2


def test_no_more_than_a_fraction_of_the_agents_work_at_once() -> None:
    story = working("abcd", cohort={"rule": "fraction", "fraction": 0.5})
    assert len(story.machine.unanswered) == 2
    story.join("e", "f")
    assert len(story.machine.unanswered) == 3


def test_agents_that_are_gone_do_not_count_as_working() -> None:
    story = working("abcd", cohort={"rule": "number", "number": 2}, round={"rejoin_s": 5.0})
    first, second = sorted(story.assigned)
    story.leave(first, for_good=True)
    assert only(story.effects, Assign).task.agent_id not in (first, second)
    story.leave(second)
    assert not of_type(story.effects, Assign)  # it may be back in a moment
    assert story.machine.next_wakeup() == 5.0
    assert of_type(story.wait(5.0), Assign)


def test_the_task_of_an_agent_that_left_for_good_is_closed_with_the_round() -> None:
    story = working("abc")
    of_c = story.assigned["c"]
    story.leave("c", for_good=True)
    assert story.store.tasks[of_c.task_id].status is TaskStatus.OPEN  # it may come back until then
    story.do_round("a", "b")
    closed = story.store.tasks[of_c.task_id]
    assert (closed.status, closed.reason) == (TaskStatus.CANCELLED, "its agent left for good")
    story.do_round("a", "b")
    assert "initial" not in story.machine.models


def test_the_task_of_an_agent_that_lost_its_connection_stays_open() -> None:
    story = working("abc")
    of_c = story.assigned["c"]
    story.leave("c")
    for _ in range(3):
        story.do_round("a", "b")
    assert not of_type(story.join("c", held=(of_c.task_id,)), Assign)
    [answer] = story.answer("c")
    assert answer.verdict is Verdict.ACCEPTED


def test_only_agents_that_meet_the_condition_train() -> None:
    story = Story(run_settings(mode="async", cohort={"where": 'region == "eu"'}))
    story.join("a", "b", attributes={"region": "eu"})
    story.join("c", attributes={"region": "us"})
    assert sorted(story.assigned) == ["a", "b"]


def test_whoever_was_not_asked_for_longest_is_next() -> None:
    story = working("abcd", buffer=4, cohort={"rule": "number", "number": 2, "choose": "least_recent"})
    first = set(story.assigned)
    for agent in sorted(first):
        story.at += 1.0
        story.answer(agent)
    assert set(story.assigned) == set("abcd")


def chosen_by_name(candidates: Sequence[Candidate], seed: int) -> list[str]:
    return [candidate.label for candidate in candidates if candidate.label in "AB"]


def broken_from_the_second_task_on(candidates: Sequence[Candidate], seed: int) -> list[str]:
    if any(candidate.tasks for candidate in candidates):
        raise ZeroDivisionError("a rule of the user's own")
    return [candidate.label for candidate in candidates]


def test_a_rule_of_the_users_own_says_who_works() -> None:
    story = working("abc", cohort={"rule": f"{__name__}:chosen_by_name"})
    assert sorted(story.assigned) == ["a", "b"]


def test_a_rule_of_the_users_own_that_fails_ends_the_run() -> None:
    story = working("abc", cohort={"rule": f"{__name__}:broken_from_the_second_task_on"})
    story.answer("a")
    assert story.run.status is RunStatus.FAILED
    assert "raised ZeroDivisionError" in story.run.reason
    only(story.effects, EndRun)


# --- async: staleness --------------------------------------------------------------------


def test_tasks_and_updates_that_got_too_old_are_given_up() -> None:
    story = working("abcd", staleness={"most": 1})
    story.answer("a", "b")
    story.answer("c")
    story.fold()  # version 1; c's update is 1 version old, as is d's task
    assert story.verdicts("c") == [("accepted", "")]
    assert story.store.tasks[story.assigned["d"].task_id].status is TaskStatus.OPEN
    story.answer("a")  # with c's
    story.fold()  # version 2
    assert counted(story)[2:] == [("c", 2, 1), ("a", 2, 1)]
    cancel = only(story.effects, Cancel)
    assert cancel.agent_id == "d"
    assert cancel.reason == "its base is 2 versions old, staleness.most is 1"
    [answer] = story.answer("d")
    assert answer.verdict is Verdict.DISCARDED
    assert story.assigned["d"].version == 2


def test_an_accepted_update_that_got_too_old_is_discarded_with_the_reason() -> None:
    story = working("abcde", staleness={"most": 0})
    story.answer("a", "b", "c")
    effects = story.fold()
    assert story.verdicts("c") == [("discarded", "stale: its base is 1 versions old, staleness.most is 0")]
    assert {cancel.agent_id for cancel in of_type(effects, Cancel)} == {"a", "d", "e"}
    assert story.assigned["c"].version == 1  # it begins anew


# --- async: evaluation and the end ---------------------------------------------------------


def evaluating(agents: str = "abc", **sections: Any) -> Story:
    """Return a story whose first model was just made: b is to evaluate it, all others train."""
    story = working(agents, **{"evaluate": {"every": 1, "deadline_s": 30.0}, **sections})
    story.do_round("a", "b")
    assert story.stand == (1, "evaluate", "collecting")
    assert kinds(story.effects) == [("b", "evaluate")]
    return story


def kinds(effects: Sequence[object]) -> list[tuple[str, str]]:
    """Return who was given what kind of task."""
    return [(e.task.agent_id, str(e.task.kind)) for e in effects if isinstance(e, Assign)]


def test_agents_that_become_free_evaluate_first_and_then_train() -> None:
    story = evaluating()
    story.answer("b")
    assert kinds(story.effects) == [("b", "train")]
    assert story.assigned["b"].round_id == 2
    assert story.assigned["b"].model_id == story.run.model_id


def test_an_agent_evaluates_a_model_once() -> None:
    story = evaluating("abcde")
    story.answer("b")  # evaluates
    story.answer("b")  # trains
    assert kinds(story.effects) == [("b", "train")]
    story.restart()
    story.join("a", "b", "c", "d", "e", held=tuple(task.task_id for task in story.assigned.values()))
    story.answer("b")
    assert story.stand == (2, "train", "aggregating")


def test_an_evaluation_ends_when_the_next_buffer_is_full_and_one_answered() -> None:
    story = evaluating("abcd")
    story.answer("c", "d")
    assert story.stand == (1, "evaluate", "collecting")  # nobody evaluated yet
    story.answer("b", metrics={"loss": 0.5})
    assert story.stand == (2, "train", "aggregating")
    assert frozen(story) == ["c", "d"]
    assert {cancel.agent_id for cancel in of_type(story.effects, Cancel)} == {"c", "d"}
    means = [metric for metric in story.store.metrics if metric.agent_id is None]
    assert [(mean.name, mean.value, mean.agents) for mean in means] == [("loss", 0.5, 1)]


def test_an_evaluation_ends_when_all_that_are_here_were_asked_and_answered() -> None:
    story = evaluating("ab")
    story.answer("b")
    assert story.stand == (1, "evaluate", "collecting")  # a still trains
    story.answer("a")
    assert kinds(story.effects) == [("a", "evaluate")]
    story.answer("a")
    assert story.stand == (2, "train", "collecting")
    assert kinds(story.effects) == [("a", "train")]


def test_an_evaluation_does_not_wait_for_who_is_gone() -> None:
    story = evaluating("abc")
    story.leave("a")
    story.answer("b", "c", "c")
    assert story.stand == (2, "train", "collecting")


def test_an_evaluation_ends_at_its_deadline() -> None:
    story = evaluating("abc")
    assert story.machine.next_wakeup() == 30.0
    story.wait(30.0)
    assert story.stand == (2, "train", "collecting")
    assert only(story.effects, Cancel).agent_id == "b"


def test_a_run_without_evaluators_skips_the_evaluation() -> None:
    story = Story(run_settings(mode="async", evaluate={"every": 1}, round={"buffer": 2}))
    story.join("a", "b", kinds=CAN_TRAIN)
    story.do_round("a", "b")
    assert story.stand == (2, "train", "collecting")


def test_agents_train_on_while_others_evaluate() -> None:
    story = working("abcd", buffer=2, evaluate={"every": 1})
    story.do_round("a", "b")
    story.join("e", kinds=CAN_TRAIN)
    assert kinds(story.effects) == [("e", "train")]


def test_the_final_evaluation_cancels_training() -> None:
    story = evaluating("abc", end={"rounds": 1})
    assert {cancel.agent_id for cancel in of_type(story.effects, Cancel)} == {"a", "c"}
    story.answer("b")
    assert not of_type(story.effects, Assign)
    assert story.stand == (1, "evaluate", "collecting")  # a and c were not asked yet
    for agent in "ac":
        story.decline(agent, "lost")  # it heard of the end of its task
        assert kinds(story.effects) == [(agent, "evaluate")]
    story.answer("a", "c")
    assert story.run.status is RunStatus.FINISHED
    assert story.run.reason == "1 rounds are done"


def test_a_run_ends_after_its_rounds_and_cancels_what_is_open() -> None:
    story = working("abcd", end={"rounds": 1})
    story.answer("a", "b", "c")
    effects = story.fold()
    assert story.run.status is RunStatus.FINISHED
    assert [cancel.agent_id for cancel in of_type(effects, Cancel)] == ["d", "a"]
    assert story.verdicts("c") == [("discarded", "the run is finished: 1 rounds are done")]
    assert story.machine.next_wakeup() is None
    [answer] = story.answer("d")
    assert (answer.verdict, answer.reason) == (Verdict.DISCARDED, "the run is finished")


def test_a_run_ends_when_its_target_is_reached() -> None:
    story = evaluating("ab", end={"target": 0.5})
    story.answer("b", "a", "a", metrics={"loss": 0.4})  # a still trained
    assert story.run.status is RunStatus.FINISHED
    assert not story.machine.unanswered
    assert not story.machine.ready(Kind.TRAIN)


def test_a_stopped_run_can_be_resumed() -> None:
    story = working("abc")
    story.answer("a")
    effects = story.steer("stop")
    assert {cancel.agent_id for cancel in of_type(effects, Cancel)} == {"a", "b", "c"}
    assert story.verdicts("a") == [("discarded", "stopped by anna")]
    for agent in "abc":
        story.decline(agent, "lost")
    story.steer("resume")
    assert story.stand == (2, "train", "collecting")
    story.do_round("a", "b")
    assert story.run.rounds_done == 1


def test_a_paused_run_takes_updates_and_gives_no_tasks() -> None:
    story = working("abc")
    story.steer("pause")
    assert [answer.verdict for answer in story.answer("a", "b")] == [Verdict.ACCEPTED] * 2
    assert not of_type(story.effects, Assign)
    assert not story.folds
    story.steer("resume")
    assert frozen(story) == ["a", "b"]


def test_bases_of_open_tasks_and_uncounted_updates_are_kept() -> None:
    story = working("abcd", buffer=3)
    story.do_round("a", "b", "a")
    first = story.run.model_id or ""
    story.answer("c")  # on the initial model
    story.do_round("a", "b")
    story.answer("a")
    story.restart()
    assert {"initial", first, story.run.model_id} <= set(story.machine.models)  # d's, b's and the last
    story.join("a", "b", "c", "d", held=tuple(task.task_id for task in story.assigned.values()))
    for update in story.machine.ready(Kind.TRAIN):
        assert story.machine.base_of(update) in story.machine.models


def test_the_base_of_an_uncounted_update_is_kept_when_no_task_needs_it() -> None:
    story = working("abc", buffer=3)
    story.answer("a", "b", "c", "a")
    story.decline("b")
    story.fold()
    story.restart()  # the update's task is no longer known
    story.join("a", "b", "c", held=tuple(task.task_id for task in story.assigned.values()))
    story.wait(600.0)
    story.wait(600.0)
    assert story.stand == (3, "train", "collecting")  # round 2 failed
    [update] = story.machine.ready(Kind.TRAIN)
    assert (update.agent_id, story.machine.base_of(update)) == ("a", "initial")
    story.do_round("b", "c")
    assert last_update(story, "b").counted_in == 3
    assert "initial" not in story.machine.models


def test_memory_does_not_grow_with_the_rounds() -> None:
    story = working("abcde", evaluate={"every": 3}, end={"rounds": 1100})
    sizes = []
    while story.run.rounds_done < 1000:
        for agent in "ab" if story.run.rounds_done % 7 else "cd":
            if agent in story.machine.unanswered.values():
                story.answer(agent)
                obey(story)
            if story.folds:
                story.fold()
        story.at += 1.0
        machine = story.machine
        sizes.append((len(machine.tasks), len(machine.updates), len(machine.models)))
    assert max(map(sum, sizes[:100])) >= max(map(sum, sizes[100:]))
    assert max(map(sum, sizes)) < 40


# --- restarts -----------------------------------------------------------------------------


def told(crash_at: int | None) -> tuple[Story, int]:
    """Tell an asynchronous run with a slow agent and evaluations; crash after the given event."""
    cohort = {"rule": "number", "number": 3}
    story = working("abcd", evaluate={"every": 2}, end={"rounds": 5}, cohort=cohort, round={"rejoin_s": 5.0})
    moment = 0
    while not story.run.status.is_over:
        moment += 1
        if moment == crash_at:
            story.restart()
            for agent in "abcd":
                task_id = story.machine.members[agent].task_id
                story.join(agent, held=(task_id,) if task_id else ())
        story.at += 1.0
        busy = sorted(agent for agent, member in story.machine.members.items() if member.task_id)
        if story.folds and (moment % 3 == 0 or not busy):
            story.fold()
        else:
            story.answer(busy[moment % len(busy)], metrics={"loss": 1.0 + moment % 4})
        obey(story)
    return story, moment


def test_a_restart_at_any_moment_changes_nothing_that_counts() -> None:
    plain, moments = told(None)
    assert moments > 20
    assert {staleness for _, _, staleness in counted(plain)} >= {0, 1}
    for moment in range(1, moments + 1):
        crashed, _ = told(moment)
        assert crashed.run == plain.run, moment
        assert crashed.store.updates == plain.store.updates
        assert crashed.store.models == plain.store.models
        assert crashed.store.tasks == plain.store.tasks
        assert crashed.store.metrics == plain.store.metrics


# --- semi-sync ----------------------------------------------------------------------------


def test_a_buffer_counts_late_and_fresh_updates() -> None:
    story = working("abcd", buffer=2, mode="semi-sync")
    story.do_round("a", "b")
    assert story.stand == (2, "train", "collecting")
    [answer] = story.answer("c")
    assert answer.late
    story.answer("a")
    assert frozen(story) == ["a", "c"]
    story.fold()
    assert counted(story) == [("a", 1, 0), ("b", 1, 0), ("c", 2, 1), ("a", 2, 0)]


def test_without_a_buffer_the_quorum_counts_fresh_updates() -> None:
    story = Story(run_settings(mode="semi-sync", round={"quorum": 0.6, "min_updates": 2}))
    story.gather("a", "b", "c", "d", "e")
    story.do_round("a", "b", "c")
    assert story.stand == (2, "train", "collecting")  # a, b and c; two of them are enough
    story.answer("d", "e")
    assert story.stand == (2, "train", "collecting")
    story.answer("a")
    assert story.stand == (2, "train", "collecting")
    story.answer("b")
    assert frozen(story) == ["a", "b", "d", "e"]
    story.fold()
    assert counted(story)[3:] == [("d", 2, 1), ("e", 2, 1), ("a", 2, 0), ("b", 2, 0)]


def test_a_semi_sync_round_ends_at_its_deadline_with_what_is_there() -> None:
    story = working("abcd", buffer=3, mode="semi-sync", round={"deadline_s": 10.0})
    story.answer("a", "b")
    story.wait(10.0)
    assert frozen(story) == ["a", "b"]
    assert not of_type(story.effects, Cancel)
    assert story.store.tasks[story.assigned["c"].task_id].status is TaskStatus.LATE


def test_a_late_update_that_got_too_old_is_refused() -> None:
    story = working("abcd", buffer=2, mode="semi-sync", staleness={"most": 1})
    story.do_round("a", "b")
    story.do_round("a", "b")
    assert {cancel.agent_id for cancel in of_type(story.effects, Cancel)} == {"c", "d"}
    assert story.answer("c")[0].verdict is Verdict.DISCARDED


def with_a_late_update_of_c(strategy: type[Strategy]) -> Story:
    """Let c answer the first round while its updates are being folded, and the second one, too."""
    rounds = {"min_agents": 3, "min_updates": 3, "buffer": 3}
    story = Story(run_settings(mode="semi-sync", round=rounds), strategy)
    story.gather("a", "b", "c", "d")
    late = story.assigned["c"]
    story.answer("a", "b", "d")
    assert story.send(story.offer("c", task=late)).late
    story.fold()
    story.answer("c")
    return story


def test_of_two_updates_of_an_agent_a_rule_that_bears_faulty_agents_counts_the_newer() -> None:
    story = with_a_late_update_of_c(Median)
    assert story.verdicts("c") == [
        ("discarded", "its agent sent a newer one, and the strategy counts each agent once"),
        ("accepted", ""),
    ]
    story.answer("a")
    assert story.stand == (2, "train", "collecting"), "two agents are no three updates"
    story.answer("b")
    assert frozen(story) == ["a", "b", "c"]
    story.restart()
    assert frozen(story) == ["a", "b", "c"]


def test_a_mean_counts_both() -> None:
    story = with_a_late_update_of_c(FedAvg)
    story.answer("a")
    assert frozen(story) == ["a", "c", "c"]


def test_what_is_being_folded_is_not_taken_out_by_a_newer_update() -> None:
    story = Story(run_settings(mode="async", round={"buffer": 2, "min_agents": 2}), Once)
    story.gather("a", "b")
    story.answer("a", "b")
    story.answer("a")  # at once, about the model before
    assert frozen(story) == ["a", "b"]
    story.fold()
    assert counted(story) == [("a", 1, 0), ("b", 1, 0), ("a", None, None)]


# --- over-selection and adaptive deadlines -------------------------------------------------


def test_more_agents_are_asked_than_are_wanted_and_the_first_count() -> None:
    cohort = {"rule": "number", "number": 3, "over_selection": 1.3}
    story = Story(run_settings(cohort=cohort, round={"min_agents": 5}))
    story.gather("a", "b", "c", "d", "e")
    step = story.machine.step
    assert step is not None
    assert (len(step.invited), step.enough) == (4, 3)
    assert step.rule == "4 of 5 eligible agents at random; the first 3 that answer count"
    story.at = 10.0
    *first, last = step.invited
    story.answer(*first)
    assert frozen(story) == first
    assert only(story.effects, Cancel).agent_id == last
    story.at = 12.0
    [answer] = story.answer(last)
    assert (answer.verdict, answer.reason) == (Verdict.DISCARDED, "late: round 1 is over")
    story.fold()
    assert effort(story, 1) == (30.0, 12.0, 3 * 2.0 + 12.0)


def test_all_agents_add_up_their_statistics_and_evaluate_whatever_the_cohort() -> None:
    cohort = {"rule": "number", "number": 2}
    story = Story(run_settings(cohort=cohort, statistics=True, evaluate={"every": 1}))
    story.gather("a", "b", "c")
    assert sorted(story.assigned) == ["a", "b", "c"]
    story.do_round("a", "b", "c")
    assert story.machine.step is not None
    chosen = story.machine.step.invited
    assert len(chosen) == 2
    story.do_round(*chosen)
    assert story.machine.step.invited == ("a", "b", "c")


def test_the_quorum_is_of_those_that_are_wanted() -> None:
    cohort = {"rule": "number", "number": 4, "over_selection": 1.5}
    story = Story(run_settings(cohort=cohort, round={"min_agents": 6, "quorum": 0.5}))
    story.gather("a", "b", "c", "d", "e", "f")
    assert story.machine.step is not None
    assert (len(story.machine.step.invited), story.machine.step.enough) == (6, 2)


def with_known_speeds(**round_settings: Any) -> Story:
    """Return a story whose first round is done: a took 4 s, b 6 s and c 20 s; the deadline is adaptive."""
    story = Story(
        run_settings(
            round={"adaptive_deadline": 2.0, "deadline_s": 100.0, **round_settings}, end={"rounds": 9}
        )
    )
    story.gather("a", "b", "c")
    for agent, at in (("a", 4.0), ("b", 6.0), ("c", 20.0)):
        story.at = at
        story.answer(agent)
    story.fold()
    return story


def test_a_deadline_follows_from_what_the_cohort_usually_takes() -> None:
    story = with_known_speeds()
    first, second = (story.store.steps[number, Kind.TRAIN, 0] for number in (1, 2))
    assert (first.deadline_s, first.usual_s) == (100.0, None)
    assert (second.deadline_s, second.usual_s) == (12.0, 6.0)
    assert story.events("step_started")[-1]["usual_s"] == 6.0
    assert story.machine.next_wakeup() == 32.0


def test_an_adaptive_deadline_is_never_more_than_the_given_one() -> None:
    story = with_known_speeds(deadline_s=10.0, adaptive_deadline=5.0)
    assert story.machine.step is not None
    assert story.machine.step.deadline_s == 10.0


def test_an_adaptive_deadline_is_at_least_a_second() -> None:
    story = Story(run_settings(round={"adaptive_deadline": 2.0}))
    story.gather("a", "b")
    story.at = 0.1
    story.do_round("a", "b")
    assert story.machine.step is not None
    assert (story.machine.step.deadline_s, story.machine.step.usual_s) == (1.0, 0.1)


def test_after_a_failed_round_the_deadline_is_the_full_one() -> None:
    story = with_known_speeds()
    story.wait(12.0)
    story.wait(12.0)
    assert story.run.failed_rounds == 1
    for agent in "abc":
        story.decline(agent, "lost")
    assert story.stand == (3, "train", "collecting")
    assert story.machine.step is not None
    assert (story.machine.step.deadline_s, story.machine.step.usual_s) == (100.0, None)


def test_what_agents_usually_take_is_known_after_a_restart() -> None:
    story = with_known_speeds()
    story.restart()
    usual = {agent: member.usual_s for agent, member in story.machine.members.items()}
    assert usual == {"a": 4.0, "b": 6.0, "c": 20.0}
    assert story.machine.candidate("c").slowness == pytest.approx(20 / 6)


def test_slow_agents_get_another_config() -> None:
    rules = [{"where": "slowness > 2", "config": {"epochs": 1}}]
    story = Story(run_settings(config={"epochs": 5}, config_for=rules))
    story.gather("a", "b", "c")
    for agent, at in (("a", 4.0), ("b", 6.0), ("c", 20.0)):
        story.at = at
        story.answer(agent)
    story.fold()
    assert [dict(story.assigned[agent].config) for agent in "abc"] == [{}, {}, {"epochs": 1}]


# --- effort -------------------------------------------------------------------------------


def test_times_of_a_round_are_added_up() -> None:
    story = Story(run_settings(end={"rounds": 2}))
    story.gather("a", "b")
    story.at = 4.0
    story.answer("a")
    story.at = 10.0
    story.answer("b")
    story.at = 11.0
    story.fold()
    assert effort(story, 1) == (14.0, 0.0, 7.0 + 1.0)


def test_a_discarded_late_update_and_a_declined_task_are_wasted_time() -> None:
    story = Story(run_settings(round={"quorum": 0.5}, end={"rounds": 3}))
    story.gather("a", "b", "c", "d")
    story.at = 1.0
    story.decline("d")
    story.at = 2.0
    story.answer("a", "b")
    story.fold()
    assert effort(story, 1) == (4.0, 1.0, 1.0)  # c works on
    story.at = 5.0
    story.answer("c")  # late
    story.at = 6.0
    story.answer("a", "b")
    story.fold()
    assert effort(story, 2) == (8.0, 5.0, 1.0)  # d works since 2.0


def test_an_agent_is_idle_until_it_leaves() -> None:
    story = Story(run_settings())
    story.gather("a", "b")
    story.join("c")
    story.at = 3.0
    story.leave("c")
    story.at = 4.0
    story.answer("a", "b")
    story.fold()
    assert effort(story, 1) == (8.0, 0.0, 3.0)


def test_time_on_updates_of_a_failed_round_is_wasted() -> None:
    story = Story(run_settings())
    story.gather("a", "b")
    story.at = 3.0
    story.answer("a", "b")
    story.fail_fold()
    assert effort(story, 1) == (0.0, 6.0, 0.0)


def test_async_agents_are_hardly_idle() -> None:
    story = working("ab")
    story.at = 2.0
    story.answer("a")
    story.at = 4.0
    story.answer("a")
    story.at = 5.0
    story.fold()
    assert effort(story, 1) == (4.0, 0.0, 1.0)
    story.at = 9.0
    story.answer("b", "a")
    story.fold()
    assert effort(story, 2) == (9.0 + 4.0, 0.0, 0.0)


def test_an_update_that_got_too_old_was_wasted_time() -> None:
    story = working("abcd", staleness={"most": 0})
    story.at = 2.0
    story.answer("a", "b", "c")
    story.fold()
    assert effort(story, 1) == (4.0, 2.0, 0.0)


# --- what newcomers found --------------------------------------------------------------------


def test_a_semi_sync_round_that_begins_with_enough_late_updates_asks_nobody_and_closes_at_once() -> None:
    story = Story(run_settings(mode="semi-sync", round={"buffer": 2, "min_agents": 4}, end={"rounds": 9}))
    story.gather("a", "b", "c", "d")
    story.answer("a", "b")
    story.fold()
    assert story.stand == (1, "train", "waiting")  # four must be free
    story.answer("c")
    story.answer("d")
    [fold] = story.folds
    assert [update.agent_id for update in fold.updates] == ["c", "d"]
    assert story.store.steps[2, Kind.TRAIN, 0].invited == ()
    story.fold()
    assert {task.round_id for task in story.assigned.values()} == {3}


def test_an_agent_that_is_always_late_is_known_to_be_slow() -> None:
    story = Story(
        run_settings(
            cohort={"rule": "number", "number": 2, "over_selection": 1.5},
            config_for=[{"where": "slowness > 2", "config": {"epochs": 1}}],
            end={"rounds": 9},
        )
    )
    story.gather("a", "b", "c")
    for at in (1.0, 2.0):
        story.at = at
        story.answer("a", "b")
        story.fold()
    story.at = 10.0
    assert story.answer("c")[0].verdict is Verdict.DISCARDED
    story.answer("a", "b")
    story.fold()
    assert story.assigned["c"].config == {"epochs": 1}


def test_an_update_of_a_task_that_was_too_old_says_so() -> None:
    story = Story(run_settings(mode="async", round={"buffer": 2}, staleness={"most": 0}, end={"rounds": 9}))
    story.gather("a", "b", "c")
    story.answer("a", "b")
    story.fold()
    [answer] = story.answer("c")
    assert (answer.verdict, answer.reason) == (
        Verdict.DISCARDED,
        "its base is 1 versions old, staleness.most is 0",
    )
