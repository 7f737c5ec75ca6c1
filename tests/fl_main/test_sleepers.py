"""Agents that poll: they take part while they are seen within three of their intervals."""

from fl_main.events import AgentJoined, AgentLeft, Assign, Cancel, EndRun, Fold
from fl_main.members import MISSED_POLLS
from fl_main.store import RunStatus, TaskStatus, Verdict
from fl_main.training import Kind
from tests.fl_main.story import ALL_KINDS, Story, of_type, only, run_settings

POLL_S = 60.0


def asleep(*sleepers: str, **sections: object) -> Story:
    """Return a story with a and b, who stay, and sleepers that were here once and hung up."""
    story = Story(run_settings(**sections))
    story.steer("pause")
    story.join("a", "b")
    for agent in sleepers:
        story.visit(agent, POLL_S)
    story.steer("resume")
    return story


def held(story: Story, agent: str) -> tuple[str, ...]:
    return (story.assigned[agent].task_id,)


# --- being there --------------------------------------------------------------------------


def test_an_agent_that_hung_up_is_present_and_gets_a_task() -> None:
    story = asleep("s")
    assert story.machine.members["s"].is_present
    assert story.store.agents["s"].is_present
    assert not story.events("agent_left")
    assert story.assigned["s"].kind is Kind.TRAIN


def test_a_task_given_meanwhile_is_said_at_the_next_visit() -> None:
    story = asleep("s")
    task = story.assigned["s"]
    story.at = 50.0
    effects = story.visit("s", POLL_S)
    assert only(effects, Assign).task == task
    assert only(effects, Assign).deadline_s == 600.0 - 50.0
    assert len([t for t in story.store.tasks.values() if t.agent_id == "s"]) == 1


def test_a_task_that_it_holds_is_not_said_again() -> None:
    story = asleep("s")
    story.visit("s", POLL_S)
    story.at = 60.0
    assert not of_type(story.visit("s", POLL_S, held=held(story, "s")), Assign)


def test_a_task_that_it_lost_is_said_again() -> None:
    story = asleep("s")
    story.visit("s", POLL_S, held=held(story, "s"))
    story.at = 60.0
    assert only(story.visit("s", POLL_S), Assign).task == story.assigned["s"]


def test_a_task_given_during_a_visit_is_said_once() -> None:
    story = Story(run_settings(round={"min_agents": 1, "min_updates": 1}))
    only(story.join("s", poll_s=POLL_S), Assign)
    assert not story.leave("s")


def test_it_hands_in_its_update_at_a_visit() -> None:
    story = asleep("s")
    story.answer("a", "b")
    story.at = 59.0
    story.join("s", poll_s=POLL_S, held=held(story, "s"))
    assert story.answer("s")[0].verdict is Verdict.ACCEPTED
    assert len(only(story.effects, Fold).updates) == 3
    story.leave("s")
    story.fold()
    assert story.assigned["s"].round_id == 2


def test_visits_that_change_nothing_are_not_written_down() -> None:
    story = asleep("s")
    for number in range(1, 5):
        story.at = number * POLL_S
        held_tasks = held(story, "s")
        for event in (
            AgentJoined("s", "S", ALL_KINDS, held=held_tasks, poll_s=POLL_S),
            AgentLeft("s"),
        ):
            assert story.machine.handle(event, story.at).records == []


def test_another_interval_is_written_down() -> None:
    story = asleep("s")
    story.visit("s", 2 * POLL_S, held=held(story, "s"))
    assert story.store.agents["s"].poll_s == 2 * POLL_S
    assert len(story.events("agent_joined")) == 4


# --- being gone ---------------------------------------------------------------------------


def test_after_three_intervals_without_a_visit_it_is_gone() -> None:
    story = asleep("s", round={"rejoin_s": 0.0})
    story.answer("a", "b")
    story.at = 10.0
    story.visit("s", POLL_S, held=held(story, "s"))
    gone_at = 10.0 + MISSED_POLLS * POLL_S
    story.wait(gone_at - 1.0 - story.at)
    assert story.machine.next_wakeup() == gone_at
    story.at = gone_at
    effects = story.wait(0.0)
    [left] = story.events("agent_left")
    assert left == {"reason": "it did not poll for 180 s, 3 of its intervals", "for_good": False}
    assert not story.store.agents["s"].is_present
    assert only(effects, Fold).round_id == 1  # nobody else is waited for


def test_a_visit_in_time_puts_that_off() -> None:
    story = asleep("s")
    story.at = 170.0
    story.visit("s", POLL_S, held=held(story, "s"))
    story.wait(20.0)
    assert story.machine.members["s"].is_present
    assert story.machine.next_wakeup() == 170.0 + 180.0


def test_while_it_is_connected_it_is_not_taken_for_gone() -> None:
    story = asleep("s")
    story.join("s", poll_s=POLL_S)
    story.wait(500.0)
    assert story.machine.members["s"].is_present


def test_the_machine_wakes_up_for_it_while_it_waits_or_folds() -> None:
    story = asleep("s", round={"min_agents": 4})
    assert story.stand == (0, "initialise", "waiting")
    assert story.machine.next_wakeup() == 180.0
    story.wait(180.0)
    assert story.machine.next_wakeup() is None
    folding = asleep("s")
    folding.join("s", poll_s=POLL_S)
    folding.answer("a", "b", "s")
    folding.leave("s")
    assert folding.stand == (1, "train", "aggregating")
    assert folding.machine.next_wakeup() == 180.0


def test_it_comes_back_after_it_was_gone() -> None:
    story = asleep("s")
    story.wait(200.0)
    effects = story.visit("s", POLL_S)
    assert only(effects, Assign).task == story.assigned["s"]  # its round is still open
    assert story.store.agents["s"].is_present
    assert len(story.events("agent_joined")) == 4


def test_each_of_many_sleepers_is_gone_in_its_own_time() -> None:
    story = Story(run_settings(round={"min_agents": 5}))
    for number, agent in enumerate("pqr"):
        story.at = 10.0 * number
        story.visit(agent, POLL_S * (number + 1))
    due = []
    while (wakeup := story.machine.next_wakeup()) is not None:
        due.append(wakeup)
        story.wait(wakeup - story.at)
    assert due == [180.0, 10.0 + 360.0, 20.0 + 540.0]
    assert len(story.events("agent_left")) == 3


def test_a_sleeper_that_says_goodbye_is_gone_at_once() -> None:
    story = asleep("s")
    story.join("s", poll_s=POLL_S)
    story.leave("s", for_good=True)
    assert story.events("agent_left")[0]["for_good"] is True
    story.answer("a", "b")
    assert story.stand == (1, "train", "aggregating")
    assert story.machine.next_wakeup() is None


def test_a_paused_run_does_not_take_sleepers_for_gone() -> None:
    story = asleep("s")
    story.steer("pause")
    assert story.machine.next_wakeup() is None
    story.steer("resume")
    assert story.machine.members["s"].is_present


# --- restarts -----------------------------------------------------------------------------


def test_after_a_restart_it_is_present_until_three_intervals_have_passed() -> None:
    story = asleep("s")
    story.at = 100.0
    story.join("c")
    story.restart()
    assert story.machine.members["s"].is_present
    assert not story.machine.members["a"].is_present
    story.wait(100.0)
    assert story.machine.members["s"].is_present
    story.wait(80.0)
    assert not story.machine.members["s"].is_present


def test_after_a_restart_a_visit_is_a_visit() -> None:
    story = asleep("s")
    story.restart()
    joined = len(story.events("agent_joined"))
    assert only(story.visit("s", POLL_S), Assign).task == story.assigned["s"]
    assert len(story.events("agent_joined")) == joined


def test_a_sleeper_that_was_gone_before_a_restart_is_still_gone() -> None:
    story = asleep("s")
    story.wait(200.0)
    story.restart()
    assert not story.machine.members["s"].is_present


# --- what it is asked ---------------------------------------------------------------------


def test_who_polls_too_rarely_is_not_asked_to_evaluate() -> None:
    story = asleep("s", evaluate={"every": 1, "deadline_s": 59.0})
    story.join("s", poll_s=POLL_S)
    story.do_round("a", "b", "s")
    assert story.stand == (1, "evaluate", "collecting")
    assert story.machine.step is not None
    assert story.machine.step.invited == ("a", "b")
    often = asleep("s", evaluate={"every": 1, "deadline_s": 60.0})
    often.join("s", poll_s=POLL_S)
    often.do_round("a", "b", "s")
    assert often.machine.step is not None
    assert often.machine.step.invited == ("a", "b", "s")


def test_an_interval_longer_than_a_round_is_refused() -> None:
    story = Story(run_settings(round={"deadline_s": 100.0}))
    assert story.machine.poll_refusal(None) is None
    assert story.machine.poll_refusal(100.0) is None
    assert story.machine.poll_refusal(101.0) == (
        "poll",
        "it polls every 101 s, but a round of this run lasts 100 s at most: "
        "poll more often, or raise round.deadline_s",
    )


def test_an_adaptive_deadline_leaves_time_for_two_polls() -> None:
    story = asleep("s", round={"adaptive_deadline": 1.0, "deadline_s": 400.0}, end={"rounds": 9})
    story.at = 5.0
    story.answer("a", "b")
    story.visit("s", POLL_S)
    story.answer("s")
    story.fold()
    step = story.machine.step
    assert step is not None
    assert (step.usual_s, step.deadline_s) == (5.0, 2 * POLL_S)


def test_a_late_task_that_it_never_heard_of_is_replaced() -> None:
    story = asleep("s", mode="semi-sync", round={"quorum": 0.6}, end={"rounds": 9})
    first = story.assigned["s"]
    story.do_round("a", "b")
    assert story.store.tasks[first.task_id].status is TaskStatus.LATE
    story.visit("s", POLL_S)
    assert story.store.tasks[first.task_id].status is TaskStatus.CANCELLED
    story.do_round("a", "b")
    assert story.assigned["s"].round_id == 3


def test_a_run_of_sleepers_only() -> None:
    story = Story(run_settings(end={"rounds": 2}), initial=False)
    story.visit("s", POLL_S)
    story.visit("t", POLL_S)
    assert only(story.visit("s", POLL_S), Assign).task.kind is Kind.INITIALISE
    story.at = 30.0
    story.join("s", poll_s=POLL_S, held=held(story, "s"))
    story.answer("s")
    story.leave("s")
    for number in (1, 2):
        for agent in "st":
            story.at += 30.0
            effects = story.join(agent, poll_s=POLL_S)
            assert only(effects, Assign).task.round_id == number
            story.answer(agent)
            story.leave(agent)
        story.fold()
    assert story.run.status is RunStatus.FINISHED
    [end] = of_type(story.visit("s", POLL_S), EndRun)
    assert end.agent_id == "s"


def test_a_sleeper_of_an_asynchronous_run_gets_the_newest_model_at_its_visit() -> None:
    story = asleep("s", mode="async", round={"buffer": 2}, end={"rounds": 9})
    assert "s" not in story.assigned  # it would hear of it later, and begin with an old model
    story.do_round("a", "b")
    story.at = 40.0
    task = only(story.visit("s", POLL_S), Assign).task
    assert (task.agent_id, task.version, task.model_id) == ("s", 1, story.run.model_id)
    assert not of_type(story.visit("s", POLL_S, held=held(story, "s")), Assign)
    story.do_round("a", "b")
    story.at = 80.0
    story.join("s", poll_s=POLL_S, held=held(story, "s"))
    [answer] = story.answer("s")
    assert answer.verdict is Verdict.ACCEPTED
    assert only(story.effects, Assign).task.agent_id == "s"


def test_what_was_cancelled_meanwhile_is_said_at_the_next_visit() -> None:
    story = asleep("s", round={"quorum": 0.6}, end={"rounds": 9})
    story.visit("s", POLL_S)
    of_s = story.assigned["s"]
    story.do_round("a", "b")
    assert story.store.tasks[of_s.task_id].status is TaskStatus.CANCELLED
    cancel = only(story.visit("s", POLL_S, held=(of_s.task_id,)), Cancel)
    assert (cancel.agent_id, cancel.task_id, cancel.reason) == ("s", of_s.task_id, "its round is over")
