"""When rounds began and ended, and when which answer came."""

from dataclasses import replace
from pathlib import Path

from fl_main.db import ModelDB, ModelStore
from fl_main.store import TaskStatus, Verdict
from tests.db.building import RUN, answer, ask, begin, publish, round_record, step, task, train, update


def test_rounds_and_answers(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, agents="abc")
        ask(store, 1, "initial", agents="ab")
        found = replace(answer(store, 1, "a", 1.0), received_s=1.25)
        refused = update(
            "t1b", "b", verdict=Verdict.DISCARDED, reason="late: round 1 is over", received_s=9.0
        )
        late = task("t1b", "b", status=TaskStatus.ANSWERED)
        store.commit([found, refused, late], 120.0)
        publish(store, 1, [found], 0.5)
    with ModelDB(folder) as db:
        timeline = db.run().timeline(first=1)
    (span,) = timeline.rounds
    assert (span.round_id, span.status, span.started_s, span.ended_s) == (1, "done", 1.0, 1.5)
    assert span.deadline_s == 61.0  # it began at 1 s and had 60 s
    assert timeline.agents == ["site a", "site b"]  # c was not asked
    first, second = timeline.updates
    assert (first.agent, first.task_id, first.assigned_s, first.received_s) == ("site a", "t1a", 1.0, 1.25)
    assert (first.verdict, first.counted_in, first.is_late, first.reason) == ("accepted", 1, False, "")
    assert first.model_id == "m1a"
    assert (second.received_s, second.verdict, second.counted_in) == (9.0, "discarded", None)
    assert (second.is_late, second.reason) == (True, "late: round 1 is over")


def test_open_rounds_and_tasks_that_wait(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        extended = step(1, ("a", "b"), extended=True)
        given_up = task("t1b", "b", status=TaskStatus.DECLINED, reason="no data today")
        store.commit([extended, given_up, replace(RUN, run_time_s=7.5)], 120.0)
    with ModelDB(folder) as db:
        timeline = db.run().timeline(1, 1)
    (span,) = timeline.rounds
    assert (span.status, span.ended_s, span.deadline_s) == ("open", None, 121.0)  # it has 60 s twice
    waiting, declined = timeline.updates
    assert (waiting.status, waiting.received_s, waiting.verdict) == ("open", None, None)
    assert (declined.status, declined.verdict, declined.reason) == ("declined", None, "no data today")
    assert timeline.run_time_s == 7.5


def test_a_task_whose_round_is_over_is_late(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        store.commit([task("t1a", "a", status=TaskStatus.LATE), round_record(1, status="failed")], 120.0)
    with ModelDB(folder) as db:
        late, open_ = db.run().timeline(1).updates
    assert (late.is_late, late.verdict, open_.is_late) == (True, None, False)


def test_rounds_that_were_undone(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        store.commit([replace(RUN, model_id="g1", rollbacks=1)], 200.0)
    with ModelDB(folder) as db:
        spans = db.run().timeline(first=1).rounds
    assert [span.is_undone for span in spans] == [False, True, True]


def test_only_some_rounds(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=4)
    with ModelDB(folder) as db:
        timeline = db.run().timeline(2, 3)
        assert [span.round_id for span in timeline.rounds] == [2, 3]
        assert [mark.task_id for mark in timeline.updates] == ["t2a", "t2b", "t3a", "t3b"]
        assert [span.round_id for span in db.run().timeline().rounds] == [0, 1, 2, 3, 4]


def test_of_too_many_tasks_those_of_the_latest_rounds_are_taken(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 3, agents="abcd")  # 4 tasks in each of them, none in round 0
    with ModelDB(folder) as db:
        run = db.run()
        found = {most: run.timeline(most=most) for most in (12, 11, 4, 3)}
        earlier = run.timeline(last=2, most=4)
    rounds = {most: [span.round_id for span in part.rounds] for most, part in found.items()}
    assert rounds == {12: [0, 1, 2, 3], 11: [2, 3], 4: [3], 3: [3]}
    numbers = {most: (len(part.updates), part.left_out) for most, part in found.items()}
    assert numbers == {12: (12, 0), 11: (8, 4), 4: (4, 8), 3: (3, 9)}
    assert ([span.round_id for span in earlier.rounds], earlier.left_out) == ([2], 4)
