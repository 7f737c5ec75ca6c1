"""Why something waits or failed: one situation after another, and what is said of it."""

from typing import Any

import pytest

from fl_main.errors import UnknownNameError
from fl_main.events import AgentJoined, AgentLeft, AgentRefused
from fl_main.store import TaskRecord, UpdateRecord
from fl_main.training import Kind
from fl_main.why import about, everything, of_run
from fl_main.why.agents import find_agent, find_task, find_update
from fl_main.why.findings import Finding, Outage, Refusal, Standing, Subject, Transfer, Trouble, View
from fl_main.why.runs import find_run
from tests.fl_main.story import Story, run_settings


def story_of(agents: str = "", *, initial: bool = True, **sections: Any) -> Story:
    """Return a story in which these agents are here; a round begins if they are enough."""
    story = Story(run_settings(**sections), initial=initial)
    story.gather(*agents)
    return story


def run_of(story: Story, **facts: Any) -> Finding:
    return find_run(story.view(**facts))


def agent_of(story: Story, agent: str, **facts: Any) -> Finding:
    return find_agent(story.view(**facts), agent)


def said(finding: Finding) -> str:
    """All words of a finding."""
    return " | ".join([finding.what, *finding.evidence, finding.remedy])


# --- a run before a step ---------------------------------------------------------------------


def test_a_run_without_agents_waits_for_them() -> None:
    story = story_of()
    story.wait(42)
    found = run_of(story)
    assert (found.subject, found.standing) == (Subject.RUN, Standing.WAITING)
    assert found.what == "waits for 2 agents for train; 0 are here"
    assert found.since_at == 0.0
    assert found.evidence == ("no agent ever joined",)
    assert found.remedy == "start 2 more agents: fl agent, or your own program"


def test_a_run_without_a_model_waits_for_an_initial_one() -> None:
    story = story_of(initial=False)
    story.join("a", kinds=("train",))
    found = run_of(story)
    assert found.what == "waits for an agent that offers an initial model"
    assert "here, but without a function for initialise: A" in found.evidence
    assert "initial_weights" in found.remedy


def test_a_run_says_who_is_here_and_who_is_not() -> None:
    story = story_of(round={"min_agents": 4})
    story.join("a", "c")
    story.join("b", kinds=("evaluate",))
    story.wait(5)
    story.tell(AgentLeft("c", "no byte for 60 s"))
    story.wait(12)
    found = run_of(story)
    assert found.what == "waits for 4 agents for train; 1 is here"
    assert found.evidence == (
        "here and free: A",
        "here, but without a function for train: B",
        "away: C, 12 s ago: no byte for 60 s",
    )
    assert found.since_at == 0.0, "the wait is as long, whoever came and went meanwhile"


def test_a_run_says_who_is_busy_with_an_old_task() -> None:
    story = story_of("abc", round={"quorum": 0.6, "min_agents": 3})
    story.do_round("a", "b")
    found = run_of(story)
    assert found.what == "waits for 3 agents for train; 2 are here, 1 more still busy with an earlier task"
    assert "busy with an earlier task: C" in found.evidence
    assert found.remedy.endswith("or wait for the answers of those that are busy")


def test_a_run_that_waits_to_evaluate_says_until_when() -> None:
    story = Story(run_settings(evaluate={"every": 1}, round={"rejoin_s": 10}))
    story.gather("a", "b")
    story.answer("a", "b")
    story.leave("a")
    story.leave("b")
    story.wait(3)
    story.fold()
    found = run_of(story)
    assert found.what == "waits for an agent that can evaluate"
    assert found.ends_at == 10.0
    assert "else the evaluation is skipped" in found.remedy


def test_a_run_that_ends_after_some_time_says_when() -> None:
    story = story_of(end={"max_s": 100})
    assert run_of(story).ends_at == 100.0


def test_failed_rounds_are_told_with_their_reasons() -> None:
    story = story_of("ab")
    story.decline("a", "error")
    story.decline("b", "error")
    story.leave("b", for_good=True)
    story.decline("a", "error")
    story.wait(7)
    found = run_of(story)
    assert "round 1 failed 7 s ago: 0 updates; 2 are needed and nobody else is working" in found.evidence


# --- a run within a step ---------------------------------------------------------------------


def test_a_round_says_who_trains_sends_is_away_declined_and_was_rejected() -> None:
    story = story_of("abcde", round={"min_updates": 2, "min_agents": 5, "deadline_s": 300, "rejoin_s": 60})
    story.wait(30)
    story.answer("e")
    story.decline("c", "error")
    story.answer("d", num_examples=0)
    story.tell(AgentLeft("b", "no byte for 60 s"))
    story.wait(12)
    sending = {"a": Transfer("in", 1_200_000, 4_000_000, 3.0)}
    found = run_of(story, transfers=sending)
    task = {agent: story.assigned[agent].task_id[:12] for agent in "abcd"}
    assert found.what == "train: 1 of 5 answered; waiting for A; not connected: B; at the latest in 258 s"
    assert found.since_at == 0.0
    assert found.ends_at == 300.0
    assert found.evidence == (
        "1 update stored; 2 needed, 5 end it early",
        f"A, task {task['a']}, given 42 s ago: sending its update, 1.2 of 4.0 MB, last bytes 3 s ago",
        f"B, task {task['b']}, given 42 s ago: away, 12 s ago: no byte for 60 s; it is waited for 48 s more",
        f"C, task {task['c']}: failed: error: because",
        f"D, task {task['d']}: rejected: num_examples is 0; it must be at least 1",
    )
    assert found.remedy == (
        "start again who is away (B): 1 more update needed; "
        "in 258 s the deadline is extended once; then the round fails"
    )


def test_a_round_with_enough_updates_says_that_it_ends_with_them() -> None:
    story = story_of("abc", round={"deadline_s": 300})
    story.wait(10)
    story.answer("a", "b")
    found = run_of(story)
    assert found.remedy == "their answers; in 290 s it ends with the 2 updates that are there"
    story.leave("c")
    found = run_of(story)
    assert found.remedy == "nothing to do: in 10 s it goes on without those who are away"
    assert found.ends_at == 20.0


def test_a_round_whose_quorum_is_there_says_how_long_it_still_waits() -> None:
    story = story_of("abc", round={"quorum": 0.6, "grace_s": 10})
    story.answer("a", "b")
    story.wait(4)
    found = run_of(story)
    assert "the quorum is there since 4 s" in found.evidence
    assert found.remedy == "nothing to do: the quorum is there; in 6 s it goes on without the rest"
    assert found.ends_at == 10.0


def test_a_round_that_was_extended_says_that_it_fails_next() -> None:
    story = story_of("ab", round={"deadline_s": 20, "max_failed_rounds": 1})
    story.answer("a")
    story.wait(20)
    found = run_of(story)
    assert "its deadline of 20 s was extended once" in found.evidence
    assert found.remedy.endswith("in 20 s the round fails, and the run with it")


def test_a_round_with_all_agents_gone_says_who_must_return() -> None:
    story = story_of("ab")
    story.leave("a")
    story.leave("b", for_good=True)
    found = run_of(story)
    assert "2 are needed, the round waits for their return" in found.what
    assert found.remedy.startswith("start again who is away (A, B): 2 more updates needed")


def test_a_round_that_can_have_too_few_answers_only_says_so() -> None:
    story = story_of("ab", round={"deadline_s": 300})
    story.decline("a", "error")
    assert run_of(story).remedy == (
        "2 more updates needed and only 1 to come: it fails once that is clear; "
        "at the latest in 300 s the deadline is extended once; then the round fails"
    )


def test_a_fold_says_whose_updates_it_combines() -> None:
    story = story_of("ab")
    story.wait(5)
    story.answer("a", "b")
    story.wait(2)
    found = run_of(story)
    assert (found.standing, found.since_at) == (Standing.WORKING, 5.0)
    assert said(found).startswith("combines the 2 updates of round 1 | their agents: A, B")


def test_many_agents_are_told_of_in_a_bounded_text() -> None:
    names = [f"s{number:03}" for number in range(100)]
    story = story_of(round={"min_agents": 100})
    story.gather(*names)
    found = run_of(story)
    assert len(found.what) < 200
    assert found.evidence[-1] == "and 80 more agents"


# --- a run that halted -----------------------------------------------------------------------


def test_a_paused_run_says_by_whom_and_since_when() -> None:
    story = story_of("ab")
    story.wait(10)
    story.steer("pause")
    found = run_of(story, now=70.0, still_since=10.0)
    assert (found.what, found.since_at, found.remedy) == ("paused by anna", 10.0, "fl run resume r")
    assert "0 updates stored; more are taken meanwhile" in found.evidence
    assert agent_of(story, "a", now=70.0, still_since=10.0).since_at == 0.0, "before it was paused"


def test_a_failed_run_says_by_which_rounds() -> None:
    story = story_of("ab", round={"max_failed_rounds": 2})
    for _ in range(2):
        story.decline("a", "error")
        story.decline("b", "error")
    found = run_of(story)
    assert (found.subject, found.standing) == (Subject.RUN, Standing.FAILED)
    assert found.what.startswith("failed: 2 rounds in a row failed")
    assert [fact[:14] for fact in found.evidence[1:]] == ["round 1 failed", "round 2 failed"]
    assert found.remedy == "mend what its rounds failed by, then: fl run resume r"


def test_a_stopped_and_a_finished_run_say_so() -> None:
    story = story_of("ab", end={"rounds": 1})
    story.do_round("a", "b")
    found = run_of(story)
    assert (found.what, found.standing) == ("finished: 1 rounds are done", Standing.DONE)
    assert "r:final" in found.remedy
    stopped = story_of("ab")
    stopped.steer("stop")
    found = run_of(stopped)
    assert (found.what, found.standing, found.remedy) == (
        "stopped by anna",
        Standing.FAILED,
        "fl run resume r",
    )


# --- the surroundings ------------------------------------------------------------------------


def test_a_database_in_trouble_is_told_with_its_error_and_since_when() -> None:
    view = story_of("ab").view(trouble=Trouble("models: no space left on the disk", 5.0), now=47.0)
    [found] = [finding for finding in everything([view]) if finding.subject is Subject.DATABASE]
    assert found.what.endswith("models: no space left on the disk")
    assert (found.name, found.run) == ("", "r")  # "database of r:", not a database called r
    assert (found.since_at, found.standing) == (5.0, Standing.FAILED)
    assert found.evidence == ("tried in vain for 42 s",)


def test_a_daemon_that_was_away_meanwhile_is_part_of_the_evidence() -> None:
    story = story_of("ab")
    story.wait(10)
    crash = Outage(from_at=4.0, to_at=7.0, is_crash=True)
    evidence = run_of(story, outage=crash).evidence
    assert evidence[-1] == "the aggregator crashed at most 3 s before it was started again 3 s ago"
    stop = Outage(from_at=4.0, to_at=7.0, is_crash=False)
    evidence = run_of(story, outage=stop).evidence
    assert evidence[-1] == "the aggregator was stopped for 3 s and started again 3 s ago"
    before = Outage(from_at=-9.0, to_at=-1.0, is_crash=False)
    assert not any("aggregator" in fact for fact in run_of(story, outage=before).evidence)


def test_without_a_daemon_a_run_waits_for_one() -> None:
    story = story_of("ab")
    found = run_of(story, is_up=False)
    assert found.remedy.startswith("start the aggregator; then: ")
    assert found.ends_at is None


# --- agents ----------------------------------------------------------------------------------


def test_an_agent_at_work_says_at_what() -> None:
    story = story_of("ab", round={"deadline_s": 100})
    story.wait(40)
    found = agent_of(story, "a")
    assert (found.what, found.standing) == ("training, round 1", Standing.WORKING)
    assert found.evidence == (f"task {story.assigned['a'].task_id[:12]}, given 40 s ago",)
    assert "for 60 s at most" in found.remedy
    held = {"a": Transfer("in", 0, 0, 9.0, "models: no room")}
    assert "held up: models: no room" in agent_of(story, "a", transfers=held).what
    assert agent_of(story, "a", transfers={"a": Transfer("out")}).what == "fetching the model, round 1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda story: story.answer("a"), "its answer is stored; round 1 waits for the others"),
        (lambda story: story.decline("a"), "its task of round 1: declined: skipped: because"),
        (lambda story: story.decline("a", "error"), "its task of round 1: failed: error: because"),
        (
            lambda story: story.answer("a", num_examples=0),
            "its task of round 1: rejected: num_examples is 0; it must be at least 1",
        ),
        (lambda story: story.join("d"), ""),
    ],
)
def test_an_idle_agent_of_a_round_says_why(change: Any, words: str) -> None:
    story = story_of("abc")
    change(story)
    if words:
        assert agent_of(story, "a").what == f"idle: {words}"
    else:
        assert agent_of(story, "d").what == "idle: round 1 began before it came or was free"


def test_an_agent_that_was_not_chosen_hears_the_rule() -> None:
    story = story_of("abc", cohort={"rule": "number", "number": 2}, round={"min_agents": 3})
    [spared] = set("abc") - set(story.assigned)
    found = agent_of(story, spared)
    assert found.what == "idle: not chosen for round 1: 2 of 3 eligible agents at random"
    assert found.remedy.startswith("the next step")


def test_an_idle_agent_hears_what_the_run_waits_for() -> None:
    story = story_of("a")
    assert agent_of(story, "a").what == "idle: the run waits for 2 agents for train; 1 is here"
    story.join("x", kinds=("evaluate",))
    assert agent_of(story, "x").what == "idle: it has no function for train"
    story.steer("pause")
    assert agent_of(story, "a").what == "idle: the run is paused by anna"
    story.steer("stop")
    assert agent_of(story, "a").what == "idle: the run is stopped"


def test_an_agent_with_work_of_a_past_round_says_so() -> None:
    late = story_of("abc", mode="semi-sync", round={"quorum": 0.6})
    late.answer("a", "b")
    assert agent_of(late, "c").what.startswith(
        "still at work on round 1, which is over; its update may count"
    )
    old = story_of("abc", round={"quorum": 0.6})
    old.answer("a", "b")
    assert agent_of(old, "c").what == "still at work on a task that nobody waits for any more"
    late.steer("stop")  # no later round begins, unless the run is resumed
    found = agent_of(late, "c")
    assert (found.what, found.remedy) == (agent_of(old, "c").what, "nothing to do")
    assert task_of(late, "c").what == "late: its round is over, and the run is stopped"


def test_a_round_does_not_count_late_updates_to_its_quorum() -> None:
    story = story_of("abc", mode="semi-sync", round={"quorum": 0.6})
    late = story.assigned["c"]
    story.do_round("a", "b")
    story.send(story.offer("c", task=late))
    found = run_of(story)
    assert found.what.startswith("train: 0 of 2 updates are there, and 1 of earlier rounds; waiting for A, B")
    assert "1 update stored; 2 needed, 2 of this round end it early" in found.evidence
    story.answer("a")
    assert run_of(story).what.startswith("train: 1 of 2 updates are there, and 1 of earlier rounds; waiting")


def test_an_agent_that_is_away_says_why_and_until_when_it_is_waited_for() -> None:
    story = story_of("ab", round={"rejoin_s": 60})
    story.wait(10)
    story.tell(AgentLeft("a", "no byte for 60 s"))
    story.wait(12)
    found = agent_of(story, "a")
    assert (found.what, found.standing, found.since_at, found.ends_at) == (
        "away",
        Standing.WAITING,
        10.0,
        70.0,
    )
    assert found.evidence[0] == "left 12 s ago: no byte for 60 s"
    assert found.remedy == "start it again, it goes on with its task"
    story.leave("b", for_good=True)
    assert agent_of(story, "b").what == "left for good"


def test_an_agent_that_was_refused_is_found_by_its_name() -> None:
    story = story_of("ab")
    refusal = Refusal("x1", "X", "r", "layout", "w: shape (3,) is not (2,)", 5.0, 2)
    [found] = about("X", [story.view()], refusals=[refusal], now=9.0)
    assert found.what == "was refused (layout): w: shape (3,) is not (2,)"
    assert found.evidence == ("agent id x1; 2 times, the last 4 s ago",)
    story.tell(AgentRefused("x1", "X", "layout", "w"))
    assert story.events("agent_refused") == [{"name": "X", "code": "layout", "reason": "w"}]


# --- tasks and updates -----------------------------------------------------------------------


def task_of(story: Story, agent: str, **facts: Any) -> Finding:
    return find_task(story.view(**facts), story.store.tasks[story.assigned[agent].task_id])


def update_of(story: Story, agent: str) -> Finding:
    [update] = story.store.answers(story.assigned[agent].task_id)
    return find_update(story.view(), update)


def test_a_task_says_what_became_of_it() -> None:
    story = story_of("abcd", round={"quorum": 0.5, "min_agents": 4})
    assert task_of(story, "a").what == "A has it: training"
    story.leave("b")
    assert task_of(story, "b").what.startswith("B has it and is away: 0 s ago")
    story.decline("b", "policy")
    found = task_of(story, "b")
    assert (found.what, found.standing) == ("its agent declined it: policy: because", Standing.FAILED)
    story.decline("c", "error")
    assert task_of(story, "c").what == "its agent's program failed: error: because"
    story.answer("a", "d")
    assert task_of(story, "a").what == "it was answered"


def test_a_task_of_a_round_that_is_over_is_late_or_cancelled() -> None:
    late = story_of("abc", mode="semi-sync", round={"quorum": 0.6})
    late.answer("a", "b")
    assert task_of(late, "c").what == "late: its round is over; an update may count in a later one"
    old = story_of("abc", round={"quorum": 0.6})
    old.wait(5)
    old.answer("a", "b")
    found = task_of(old, "c")
    assert (found.what, found.since_at) == ("nobody waits for it any more: its round is over", 5.0)


def test_an_update_says_whether_and_where_it_counts() -> None:
    story = story_of("abc", mode="semi-sync", round={"quorum": 0.6})
    story.answer("a")
    assert update_of(story, "a").what == "stored; it counts when round 1 closes"
    first = story.assigned["c"]
    story.answer("b")
    assert update_of(story, "a").what == "stored; it is being combined in round 1"
    story.fold()
    [counted] = story.store.answers(first_of(story, "a"))
    assert find_update(story.view(), counted).what == "counted in round 1 with a share of 0.5"
    story.send(story.offer("c", task=first))
    [late] = story.store.answers(first.task_id)
    assert find_update(story.view(), late).what == "stored late; it counts when round 2 closes"


def first_of(story: Story, agent: str) -> str:
    return next(task.task_id for task in story.store.tasks.values() if task.agent_id == agent)


def test_a_rejected_and_a_discarded_update_say_why() -> None:
    story = story_of("ab")
    story.answer("a", num_examples=0)
    found = update_of(story, "a")
    assert (found.what, found.standing) == (
        "rejected: num_examples is 0; it must be at least 1",
        Standing.FAILED,
    )
    assert "mend the program of A" in found.remedy
    failed = story.assigned["b"].task_id
    story.answer("b")
    [update] = story.store.answers(failed)
    assert find_update(story.view(), update).what.startswith("discarded: round 1 failed: 1 updates; ")


# --- names -----------------------------------------------------------------------------------


def names(view: View, name: str, **more: Any) -> set[tuple[str, str]]:
    return {(finding.subject, finding.name) for finding in about(name, [view], **more)}


def test_a_name_stands_for_a_run_an_agent_or_the_beginning_of_a_task() -> None:
    story = story_of("ab")
    task_id = story.assigned["a"].task_id
    assert ("run", "r") in names(story.view(), "r")
    assert names(story.view(), "A") == names(story.view(), "a") == {("agent", "A"), ("task", task_id)}
    assert names(story.view(), task_id[:6]) == names(story.view(), task_id) == {("task", task_id)}


def test_a_name_that_nothing_has_is_answered_with_what_there_is() -> None:
    view = story_of("ab").view()
    with pytest.raises(UnknownNameError, match=r"no run, agent or task 'x' \(runs: r; agents: A, B; "):
        about("x", [view])


def test_a_name_of_several_things_is_answered_with_them() -> None:
    story = story_of("ab")
    story.tell(AgentJoined("other", "A", ("train",)))
    with pytest.raises(
        UnknownNameError, match=r"'A' may be agent A \(a\), agent A \(other\); give the whole id"
    ):
        about("A", [story.view()])
    assert ("agent", "A") in names(story.view(), "other")
    story.tell(AgentJoined("another", "r", ("train",)))
    with pytest.raises(UnknownNameError, match=r"'r' may be run r \(1\), agent r \(another\); "):
        about("r", [story.view()])


def test_an_old_task_is_found_in_the_database() -> None:
    story = story_of("ab", end={"rounds": 9})
    old = story.assigned["a"].task_id
    story.do_round("a", "b")
    story.do_round("a", "b")
    assert old not in story.machine.tasks
    stored: list[tuple[TaskRecord, UpdateRecord | None]] = [
        (story.store.tasks[old], story.store.answers(old)[0])
    ]
    found = about(old[:8], [story.view()], stored)
    assert [(finding.subject, finding.what) for finding in found] == [
        ("task", "it was answered"),
        ("update", "counted in round 1 with a share of 0.5"),
    ]


def test_agents_of_whom_the_same_can_be_said_are_told_of_together() -> None:
    story = story_of(round={"min_agents": 50})
    story.join(*(f"s{number:02}" for number in range(30)))
    run, agents = everything([story.view()])
    assert run.subject is Subject.RUN
    assert agents.name == "S00, S01, S02, S03, S04, S05, S06, S07, S08, S09 and 20 more"


def test_everything_is_silent_about_what_goes_well() -> None:
    story = story_of("ab", end={"rounds": 1})
    story.do_round("a", "b")
    assert everything([story.view()]) == []
    assert {finding.standing for finding in of_run(story.view())} == {Standing.DONE}


def test_a_finding_survives_its_way_to_the_operator() -> None:
    found = run_of(story_of("ab"))
    assert Finding.from_wire(found.to_wire()) == found


# --- events ----------------------------------------------------------------------------------


def test_a_wait_is_one_event_however_long_it_lasts() -> None:
    story = story_of()
    for _ in range(5):
        story.wait(1)
    story.join("a")
    assert story.events("waiting_for_agents") == [{"step": "train", "needed": 2, "here": 0, "busy": 0}]
    story.join("b")
    story.leave("a")
    story.leave("b")
    for _ in range(5):
        story.wait(1)
    assert story.events("waiting_for_return") == [
        {"step": "train", "away": ["A", "B"], "updates": 0, "needed": 2}
    ]


def test_the_story_of_a_round_is_in_the_events() -> None:
    story = story_of("abc", round={"quorum": 0.6, "grace_s": 5})
    story.answer("a", "b")
    story.wait(5)
    story.fold()
    assert [past.event.kind for past in story.history][-6:] == [
        "step_started",
        "quorum_reached",
        "task_cancelled",
        "step_closed",
        "round_done",
        "step_started",
    ]
    assert story.events("step_closed") == [{"step": "train", "by": "enough", "updates": 2}]
    assert story.events("task_cancelled") == [
        {"task_id": first_of(story, "c"), "reason": "its round is over"}
    ]


def test_an_evaluation_is_told_as_such() -> None:
    story = Story(run_settings(evaluate={"every": 1}))
    story.gather("a", "b")
    story.do_round("a", "b")
    assert story.run.kind is Kind.EVALUATE
    assert agent_of(story, "a").what == "evaluating, round 1"
    story.answer("a")
    assert update_of(story, "a").what == "stored: its metrics are part of the round's mean"
