"""What the database adds to `fl why`: past events, old tasks, and the answer without a daemon."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.db.why import explain
from fl_main.errors import StoreError, UnknownNameError
from fl_main.settings import RunSettings
from fl_main.store import EventRecord, RunStatus, TaskStatus, Verdict
from tests.db.building import RUN, RUN_ID, agent, task, update

AT = 1_800_000_000.0
HEARTS = replace(RUN, settings=RunSettings(name="hearts").model_dump(mode="json"))


def event(kind: str, run_id: str | None = RUN_ID, agent_id: str | None = None, **details: Any) -> EventRecord:
    return EventRecord(run_id, kind, 1, agent_id, agent_id or "", details)


def answered(folder: Path, name: str = "", now: float = AT) -> list[dict[str, Any]]:
    return list(explain(folder, name, "nothing listens", now)["findings"])


# --- what the daemon asks for ----------------------------------------------------------------


def test_past_events_come_back_in_order_with_their_times(store: ModelStore) -> None:
    store.commit([RUN, event("round_failed", reason="too few"), event("run_pause")], AT)
    store.commit([event("daemon_stopped", run_id=None)], AT + 5)
    past = store.events(RUN_ID, 10)
    assert [(entry.at, entry.event.kind) for entry in past] == [(AT, "round_failed"), (AT, "run_pause")]
    assert past[0].event == event("round_failed", reason="too few")
    assert store.events(None, 1)[-1].event == event("daemon_stopped", run_id=None)
    assert store.events("other", 10) == []
    assert store.last_commit_at() == AT + 5


def test_what_agents_did_does_not_hide_what_the_run_did(store: ModelStore) -> None:
    store.commit([RUN, event("run_pause")], AT)
    store.commit([event("task_cancelled", agent_id=f"a{number}") for number in range(50)], AT + 1)
    kinds = [entry.event.kind for entry in store.events(RUN_ID, 5)]
    assert kinds == ["run_pause", *["task_cancelled"] * 5]


def test_old_tasks_are_found_by_the_beginning_of_their_ids(store: ModelStore) -> None:
    tasks = [task("abc1", "a"), task("abc2", "b"), task("abd1", "c")]
    rejected = update("abc2", "b", verdict=Verdict.REJECTED, reason="NaN", model_id=None)
    store.commit([RUN, *(agent(name) for name in "abc"), *tasks, rejected], AT)
    assert [(found.task_id, answer) for found, answer in store.tasks_beginning("abc", 9)] == [
        ("abc1", None),
        ("abc2", rejected),
    ]
    assert len(store.tasks_beginning("", 2)) == 2
    assert store.tasks_beginning("a%", 9) == []


# --- without a daemon ------------------------------------------------------------------------


def test_a_database_answers_for_its_runs_and_says_how_old_it_is(store: ModelStore, folder: Path) -> None:
    store.commit(
        [HEARTS, event("waiting_for_agents"), event("daemon_started", run_id=None, url="ws://x")], AT
    )
    aggregator, run = answered(folder, now=AT + 42)
    assert aggregator["what"] == f"does not answer; what follows is from its database {folder}"
    assert aggregator["evidence"] == [
        "nothing listens",
        "its last fact is 42 s old",
        "it was started 42 s ago at ws://x, and was not stopped in order since",
    ]
    assert (run["what"], run["since_at"]) == ("waits for an agent that offers an initial model", AT)
    store.commit([event("daemon_stopped", run_id=None)], AT + 50)
    assert answered(folder, now=AT + 60)[0]["evidence"][2] == "it was stopped in order 10 s ago"


def test_an_agent_that_was_here_when_the_daemon_died_is_told_as_such(store: ModelStore, folder: Path) -> None:
    joined = event("agent_joined", agent_id="a", name="site a")
    given = task("f00d", "a", status=TaskStatus.OPEN)
    store.commit([HEARTS, agent("a"), joined, given], AT)
    found = answered(folder, "site a")[1]
    assert found["evidence"][0] == "it was here when the aggregator ended, and has not come back"
    assert answered(folder, "f00d")[1]["standing"] == "waiting"


def test_a_run_paused_long_ago_is_told_since_when(store: ModelStore, folder: Path) -> None:
    paused = replace(HEARTS, status=RunStatus.PAUSED, reason="paused by anna", run_time_s=30.0)
    store.commit([paused, event("run_pause")], AT)
    found = answered(folder, "hearts", now=AT + 86400)[1]
    assert (found["what"], found["since_at"]) == ("paused by anna", AT)


def test_a_run_whose_settings_cannot_be_read_is_told_and_the_others_too(
    store: ModelStore, folder: Path
) -> None:
    other = replace(HEARTS, run_id="run-2", name="lungs", settings={"name": "lungs", "what": 1})
    store.commit([HEARTS, other], AT)
    _, broken, run = answered(folder)
    assert broken["what"].startswith("cannot go on: ")
    assert (broken["name"], run["name"]) == ("lungs", "hearts")


def test_unknown_names_and_missing_databases_are_errors(
    store: ModelStore, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="no run, agent or task 'x'"):
        answered(folder, "x")
    with pytest.raises(StoreError, match="there is no folder"):
        answered(tmp_path / "nowhere", now=time.time())
