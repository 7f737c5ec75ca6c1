"""A run goes on from an earlier round: what is undone, what stays, and what agents are told."""

from typing import Any

import pytest

from fl_main.events import Assign, Cancel, RolledBack, StepFolded
from fl_main.plan import download_id_of
from fl_main.store import RunStatus, TaskStatus, Verdict
from fl_main.strategies import STRATEGIES, FedAvg, Pipeline, Scaffold
from fl_main.strategies.base import Strategy
from fl_main.strategies.fold import state_layout
from tests.fl_main.story import LAYOUT, Story, of_type, payload, run_settings
from tests.fl_main.strategies.test_laws import OPTIONS

UNDONE = "the run was rolled back to round 1"


def after(rounds: int, strategy: Any = FedAvg, **sections: Any) -> Story:
    """Return a story of agents a and b that have done so many rounds."""
    story = Story(run_settings(**sections), strategy)
    story.gather("a", "b")
    for _ in range(rounds):
        story.do_round("a", "b")
    return story


def go_on(story: Story, round_id: int, **facts: Any) -> None:
    """Roll back, and let agents hear of tasks that nobody waits for any more."""
    for cancel in of_type(story.roll_back(round_id, **facts), Cancel):
        story.decline(cancel.agent_id, "lost")


def objection(story: Story, round_id: int, **facts: Any) -> str:
    to = story.store.milestone(round_id)
    assert to is not None
    return story.machine.objection_to_rollback(RolledBack(to, "anna", **facts))


class Momentum(FedAvg):
    """Only its name for a state matters here."""

    state = ("velocity",)


def test_next_round_begins_from_the_chosen_one_with_the_next_number() -> None:
    story = after(3)
    first, third = story.store.rounds[1].model_id, story.run.model_id
    go_on(story, 1, reason="it diverged")
    assert story.stand == (5, "train", "collecting")  # round 4 was open, and is given up
    assert (story.store.rounds[4].status, story.store.rounds[4].reason) == ("failed", UNDONE)
    assert story.store.rounds[5].base_model_id == first
    assert {task.model_id for task in story.assigned.values()} == {first}
    assert {task.version for task in story.assigned.values()} == {1}
    assert (story.run.rounds_done, story.run.rollbacks) == (1, 1)
    assert story.store.rounds[3].status == "done"  # history is not written anew
    [event] = story.events("run_rolled_back")
    assert (event["to"], event["last_model_id"], event["reason"]) == (1, third, "it diverged")
    story.do_round("a", "b")
    assert (story.run.round_id, story.run.rounds_done) == (6, 2)
    assert story.store.tags["final"] == story.run.model_id


def test_a_model_is_given_as_it_is_since_its_encoded_form_may_be_gone() -> None:
    story = after(0, compression={"download": "float16"})
    story.answer("a", "b")
    story.fold(download=payload("half", staged="download"))
    first = story.run.model_id
    assert {task.model_id for task in story.assigned.values()} == {download_id_of(first)}
    go_on(story, 1)  # retention keeps what a closed task begins from no longer
    assert {task.model_id for task in story.assigned.values()} == {first}


def test_open_tasks_are_cancelled_and_uncounted_updates_discarded() -> None:
    story = after(2)
    story.answer("a")
    effects = story.roll_back(1)
    assert [(effect.agent_id, effect.reason) for effect in of_type(effects, Cancel)] == [("b", UNDONE)]
    assert story.verdicts("a")[-1] == ("discarded", UNDONE)
    late = story.offer("b", task=[task for task in story.store.tasks.values() if task.round_id == 3][1])
    assert story.store.tasks[late.task_id].status is TaskStatus.CANCELLED
    answer = story.send(late)
    assert (answer.verdict, answer.reason) == (Verdict.DISCARDED, UNDONE)
    assert [assign.task.agent_id for assign in of_type(story.effects, Assign)] == ["a", "b"]


def test_fold_of_an_undone_step_is_not_wanted_when_it_comes() -> None:
    story = after(1)
    story.answer("a", "b")
    [fold] = story.folds
    story.roll_back(1)
    before = story.run
    assert story.tell(StepFolded(fold, payload("old", staged="fold"))) == []
    assert story.run == before


@pytest.mark.parametrize("order", ["stop", "fail", "finish"])
def test_a_run_that_is_over_is_opened_again(order: str) -> None:
    story = after(2, end={"rounds": 2 if order == "finish" else 5}, round={"max_failed_rounds": 1})
    if order == "stop":
        story.steer("stop")
        story.decline("a", "lost")
        story.decline("b", "lost")
    elif order == "fail":
        story.decline("a")
        story.decline("b")
    assert story.run.status.is_over
    go_on(story, 1)
    assert (story.run.status, story.run.reason) == (RunStatus.RUNNING, "")
    story.do_round("a", "b")
    assert story.run.rounds_done == 2
    assert story.run.status.is_over is (order == "finish")


def test_a_paused_run_stays_paused() -> None:
    story = after(2)
    story.steer("pause")
    assert of_type(story.roll_back(1), Assign) == []
    assert story.run.status is RunStatus.PAUSED
    assert sorted(assign.task.agent_id for assign in of_type(story.steer("resume"), Assign)) == []
    for agent in "ab":  # they are told that nobody waits, and say that they are free
        story.decline(agent, "lost")
    assert story.stand == (4, "train", "collecting")


def test_rounds_are_counted_from_the_chosen_one() -> None:
    story = after(3, end={"rounds": 3})
    assert "would end at once: 3 rounds are done" in objection(story, 3)
    go_on(story, 3, rounds=2)
    for _ in range(2):
        story.do_round("a", "b")
    assert (story.run.rounds_done, story.run.status) == (5, RunStatus.FINISHED)
    story.roll_back(1)
    assert story.run.rounds_wanted == 5  # what was said last holds on


def test_time_that_is_over_does_not_come_back() -> None:
    story = after(1, end={"max_s": 50.0})
    story.wait(50.0)
    story.do_round("a", "b")
    assert story.run.status is RunStatus.FINISHED
    assert "50 s of run time are over" in objection(story, 1, rounds=3)


def test_state_of_the_strategy_is_that_of_the_chosen_round() -> None:
    story = after(3, Momentum)
    ids = [story.store.milestone(number).state_ids for number in (1, 3)]  # type: ignore[union-attr]
    assert ids[0] != ids[1]
    story.roll_back(1)
    assert story.run.state_ids == ids[0]
    assert story.run.state_ids["velocity"] in story.machine.models
    assert story.events("run_rolled_back")[-1]["fresh_state"] == []
    story.roll_back(0)
    assert story.run.state_ids == {}


def test_state_that_is_gone_is_begun_anew_only_where_that_is_asked_for() -> None:
    story = after(2, Momentum)
    lost = story.store.milestone(1).state_ids["velocity"]  # type: ignore[union-attr]
    story.store.without = {lost}
    assert objection(story, 1) == (
        "the strategy's velocity after round 1 is not stored any more; with --fresh-state it begins anew"
    )
    story.roll_back(1, fresh_state=True)
    assert story.run.state_ids == {}
    assert story.events("run_rolled_back")[-1]["fresh_state"] == ["velocity"]


def test_model_that_is_gone_is_no_beginning() -> None:
    story = after(2)
    story.store.without = {story.store.rounds[1].model_id or ""}
    assert objection(story, 1) == "the model of round 1 is not stored any more"


def test_state_whose_other_part_agents_keep_begins_anew_with_theirs() -> None:
    story = Story(run_settings(strategy="scaffold"), Scaffold)
    story.gather("a", "b")
    for _ in range(2):
        for agent in "ab":
            offer = story.offer(agent)
            control = payload(f"c {offer.task_id}", state_layout(LAYOUT), "control")
            story.send(story.offer(agent, num_steps=1, payloads={**offer.payloads, "control": control}))
        story.fold()
    assert sorted(story.store.milestone(1).state_ids) == ["control", "total"]  # type: ignore[union-attr]
    effects = story.roll_back(1)
    assert story.run.state_ids == {}
    assert story.events("run_rolled_back")[-1]["fresh_state"] == ["control", "total"]
    assert story.run.rollbacks == 1  # which every task says from now on
    assert len(of_type(effects, Assign)) == 0  # a and b are still busy with cancelled tasks


def test_best_is_what_was_best_then() -> None:
    story = after(0, evaluate={"every": 1}, best={"metric": "loss", "source": "evaluate"})
    losses = iter([3.0, 2.0, 1.0])
    for _ in range(3):
        story.do_round("a", "b")
        loss = next(losses)
        story.answer("a", "b", metrics={"loss": loss})
    assert story.run.best_value == 1.0
    go_on(story, 2)
    second = story.store.rounds[2].model_id
    assert (story.run.best_value, story.run.best_round, story.run.best_model_id) == (2.0, 2, second)
    assert story.store.tags["best"] == second
    go_on(story, 0)
    assert story.run.best_value is None
    assert story.store.tags["best"] == "initial"
    assert story.stand == (6, "train", "collecting")  # it is not measured again


def test_an_undone_round_may_be_gone_on_from() -> None:
    story = after(3)
    third = story.run.model_id
    story.roll_back(1)
    story.roll_back(3)
    assert (story.run.model_id, story.run.rounds_done, story.run.rollbacks) == (third, 3, 2)


def test_before_the_first_round_there_is_nothing_to_undo() -> None:
    assert objection(Story(run_settings()), 0) == "no round has followed on that one yet"


def test_round_that_failed_or_never_was_has_no_milestone() -> None:
    story = after(1)
    story.decline("a")
    story.decline("b")
    assert story.store.rounds[2].status == "failed"
    assert [number for number in range(5) if story.store.milestone(number)] == [0, 1]


def test_after_a_crash_the_run_goes_on_from_the_chosen_round() -> None:
    story = after(3, Momentum)
    story.roll_back(1)
    run = story.run
    story.restart()
    assert story.run == run
    for agent in "ab":
        story.join(agent)
    story.do_round("a", "b")
    assert story.run.rounds_done == 2


def test_agents_are_given_other_seeds_though_a_finished_run_was_read_anew() -> None:
    story = after(2, mode="async", round={"buffer": 2}, end={"rounds": 2})
    assert story.run.status is RunStatus.FINISHED
    story.restart()
    story.join("a", "b")
    story.roll_back(1)
    seeds = [task.seed for task in story.store.tasks.values()]
    assert len(seeds) > 4
    assert len(seeds) == len(set(seeds))


def test_paired_state_of_every_strategy_is_state_of_it() -> None:
    for name, make in STRATEGIES.items():
        strategy = make(**OPTIONS[name][0])
        assert set(strategy.paired) <= set(strategy.state), name
    steps: list[tuple[str, Strategy]] = [("scaffold", Scaffold())]
    assert Pipeline(steps).paired == ("total", "control")
