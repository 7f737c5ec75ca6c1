"""`fl db agents`, `events` and `best` as people type them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.store import EventRecord
from tests.db.building import RUN, RUN_ID, agent, begin, train
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
    return folder


def listed(folder: Path, *words: object) -> list[dict[str, Any]]:
    result = fl_db(*words, "-d", folder, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


# --- agents -------------------------------------------------------------------------------------


def test_agents(trained: Path) -> None:
    head, first, _ = (line.split("  ") for line in fl_db("agents", "-d", trained).stdout.splitlines())
    assert [word.strip() for word in head if word] == [
        *("agent", "id", "present", "accepted", "refused", "attributes", "joined", "seen", "software"),
    ]  # nobody is left out or polls, so that these columns are not there
    assert [word.strip() for word in first if word][:6] == ["site a", "a", "yes", "2", "0", "beds=3"]


def test_agents_that_are_left_out_or_gone(trained: Path) -> None:
    with ModelStore(trained) as store:
        left_out = replace(agent("b", is_present=False), outlying=3, quarantined="outliers", poll_s=60.0)
        store.commit([left_out], 140.0)
    assert "outlying" in fl_db("agents", "-d", trained).stdout
    assert [row["agent_id"] for row in listed(trained, "agents", "--absent")] == ["b"]
    assert [row["agent_id"] for row in listed(trained, "agents", "--present")] == ["a"]
    (found,) = listed(trained, "agents", "--quarantined")
    assert (found["name"], found["quarantined"], found["outlying"], found["poll_s"]) == (
        *("site b", "outliers", 3, 60.0),
    )
    assert found["attributes"] == {"beds": 3}


# --- events -------------------------------------------------------------------------------------


def test_events(trained: Path) -> None:
    found = listed(trained, "events")
    assert [(row["kind"], row["round"], row["agent"]) for row in found] == [
        ("run_created", None, None),
        ("update_accepted", 1, "site a"),
        ("update_accepted", 1, "site b"),
        ("update_accepted", 2, "site a"),
        ("update_accepted", 2, "site b"),
    ]
    assert (found[0]["actor"], found[0]["at"]) == ("ann", 100.0)
    assert [row["seq"] for row in found] == sorted(row["seq"] for row in found)


def test_some_events(trained: Path) -> None:
    with ModelStore(trained) as store:
        store.commit([EventRecord(RUN_ID, "step_closed", 2, details={"by": "enough", "updates": 2})], 7200.0)

    def kinds(*words: object) -> list[tuple[str, int | None]]:
        return [(row["kind"], row["round"]) for row in listed(trained, "events", *words)]

    assert kinds("--round", 1) == [("update_accepted", 1)] * 2
    assert kinds("--agent", "site b") == [("update_accepted", 1), ("update_accepted", 2)]
    assert kinds("--agent", "b", "--last", 1) == [("update_accepted", 2)]
    assert kinds("--kind", "run_created", "--kind", "step_closed") == [
        ("run_created", None),
        ("step_closed", 2),
    ]
    assert kinds("--since", "1970-01-01T02:00:00+00:00") == [("step_closed", 2)]
    assert kinds("--last", 1) == [("step_closed", 2)]
    assert kinds("--kind", "nothing") == []


def test_details_are_words_for_people_and_json_for_programs(trained: Path) -> None:
    details = {"by": "enough", "updates": 2}
    with ModelStore(trained) as store:
        store.commit([EventRecord(RUN_ID, "step_closed", 2, details=details)], 150.0)
    assert "by=enough, updates=2" in fl_db("events", "-d", trained).stdout
    assert listed(trained, "events", "--last", 1)[0]["details"] == details
    text = fl_db("events", "-d", trained, "--last", 1, "--csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert json.loads(row["details"]) == details


def test_events_of_the_daemon(trained: Path) -> None:
    with ModelStore(trained) as store:
        store.commit([EventRecord(None, "daemon_started", details={"url": "ws://here"})], 150.0)
        store.commit([EventRecord(None, "daemon_stopped")], 160.0)
    kinds = [row["kind"] for row in listed(trained, "events", "--daemon")]
    assert kinds == ["database_created", "daemon_started", "daemon_stopped"]
    assert [row["kind"] for row in listed(trained, "events", "--daemon", "--last", 1)] == ["daemon_stopped"]
    for more in (["hearts"], ["--agent", "a"], ["--round", "1"]):
        assert fl_db("events", "-d", trained, "--daemon", *more).exit_code == 2


# --- best ---------------------------------------------------------------------------------------


def test_the_best_models_of_a_run(trained: Path) -> None:
    words = ("best", "--metric", "accuracy", "--direction", "max")
    first, second = listed(trained, *words)
    assert (first["place"], first["model"], first["metric"], first["better"]) == (
        *(1, "g2", "evaluate accuracy", "max"),
    )
    assert (first["value"], first["since"], first["rounds_ago"], first["stored"]) == (
        *(1 - 1 / 3, 125.0, 0, "yes"),
    )
    assert (second["model"], second["rounds_ago"]) == ("g1", 1)
    assert len(listed(trained, *words, "--top", 1)) == 1


def test_the_best_model_of_each_run(trained: Path) -> None:
    with ModelStore(trained) as store:
        best = {"best": {"metric": "accuracy", "direction": "max"}}
        store.commit([replace(RUN, settings=best), replace(RUN, run_id="run-2", name="lungs")], 170.0)
    found = listed(trained, "best")
    assert [(row["run"], row["model"], row["value"]) for row in found] == [
        ("hearts", "g2", 1 - 1 / 3),
        ("lungs", None, None),  # nothing was measured
    ]
    misspelled = fl_db("best", "-d", trained, "--metric", "acuracy", "--direction", "max")
    assert (misspelled.exit_code, misspelled.stdout) == (1, "")
    assert misspelled.stderr.startswith("error: no run was measured by acuracy")


def test_a_metric_that_is_not_there_or_has_no_direction(trained: Path) -> None:
    unknown = fl_db("best", "-d", trained)
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        "error: nothing was measured by evaluate loss; there are: evaluate accuracy, train loss\n",
    )
    for direction in ([], ["--direction", "max"]):
        misspelled = fl_db("best", "-d", trained, "--metric", "acuracy", *direction)
        assert (misspelled.exit_code, misspelled.stderr) == (
            1,
            "error: nothing was measured by evaluate acuracy; there are: evaluate accuracy, train loss\n",
        )
    unsaid = fl_db("best", "-d", trained, "--metric", "accuracy")
    assert (unsaid.exit_code, unsaid.stderr) == (
        2,
        "error: direction: which way is better for accuracy? Give min or max\n",
    )


@pytest.mark.parametrize("command", ["agents", "events", "best"])
def test_runs_without_anything(folder: Path, command: str) -> None:
    with ModelStore(folder) as store:
        begin(store, agents="")
    result = fl_db(command, "-d", folder)
    assert result.exit_code == (1 if command == "best" else 0)
    assert len(result.output.splitlines()) == (2 if command == "events" else 1)


@pytest.mark.parametrize("command", ["agents", "events"])
def test_an_empty_database(folder: Path, command: str) -> None:
    ModelStore(folder).close()
    assert fl_db(command, "-d", folder).stderr == f"error: name a run; the runs in {folder} are: none yet\n"
    assert fl_db("best", "-d", folder).stdout.splitlines()[0].split()[:2] == ["run", "model"]
