"""Which of a list are shown: the options that lists have in common."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import RunStatus, TagRecord, Verdict
from tests.db.building import RUN, RUN_ID, agent, answer, ask, begin, publish, round_record, train, update
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    """Two rounds of a and b, at 105 s and 115 s of 1970; round 3 is open."""
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        ask(store, 3, "g2")
        store.commit([TagRecord(RUN_ID, "paper", "g1")], 140.0)
        store.prune()
    return folder


def listed(folder: Path, *words: object) -> list[dict[str, Any]]:
    result = fl_db(*words, "-d", folder, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_runs_by_status_and_time(trained: Path) -> None:
    with ModelStore(trained) as store:
        second = replace(RUN, run_id="run-2", name="lungs", status=RunStatus.FINISHED)
        store.commit([second], 5000.0)

    def names(*words: object) -> list[str]:
        return [row["run"] for row in listed(trained, "runs", *words)]

    assert names() == ["hearts", "lungs"]
    assert names("--status", "finished") == ["lungs"]
    assert names("--since", "1970-01-01T00:10:00+00:00") == ["lungs"]
    assert names("--last", 1) == ["lungs"]


def test_rounds_by_status_and_time(trained: Path) -> None:
    def numbers(*words: object) -> list[int]:
        return [row["round"] for row in listed(trained, "rounds", *words)]

    assert numbers() == [0, 1, 2, 3]
    assert numbers("--status", "open") == [3]
    assert numbers("--last", 2) == [2, 3]
    assert numbers("--since", "1970-01-01T00:02:00+00:00") == [2, 3]  # it began at 120 s
    assert numbers("--since", "1h") == []
    with ModelStore(trained) as store:
        store.commit([replace(RUN, model_id="g1", rollbacks=1)], 200.0)
    assert numbers("--status", "undone") == [2]
    assert numbers("--status", "done") == [0, 1]


def test_models_by_tag_and_by_whether_they_are_stored(trained: Path) -> None:
    def ids(*words: object) -> list[str]:
        return [row["model"] for row in listed(trained, "models", *words)]

    assert ids("--tag", "paper") == ["g1"]
    assert ids("--not-stored") == ["m1a", "m1b", "m2a", "m2b"]
    assert ids("--stored") == ["initial", "g1", "g2"]
    assert ids("--stored", "--last", 1) == ["g2"]
    assert ids("--agent", "b", "--last", 1) == ["m2b"]
    assert ids("--agent", "b", "--kind", "global") == []
    assert ids("--since", "1970-01-01T00:02:00+00:00") == ["m2a", "m2b", "g2"]
    assert ids("--tag", "nothing") == []


def test_updates_by_verdict_and_outliers(trained: Path) -> None:
    with ModelStore(trained) as store:
        odd = replace(answer(store, 3, "a", 1.0, at=7200.0), notes={"outlier": 1.0})
        publish(store, 3, [odd], 0.25)
        store.commit([update("x", "b", 3, verdict=Verdict.REJECTED, reason="not finite")], 7300.0)

    def rounds(*words: object) -> list[tuple[int, str]]:
        return [(row["round"], row["agent"]) for row in listed(trained, "updates", *words)]

    assert rounds("--verdict", "rejected") == [(3, "site b")]
    assert rounds("--outliers") == [(3, "site a")]
    assert rounds("--last", 2) == [(3, "site a"), (3, "site b")]
    assert rounds("--since", "1970-01-01T02:00:00+00:00") == [(3, "site a"), (3, "site b")]
    assert rounds("--agent", "site b", "--verdict", "accepted") == [(1, "site b"), (2, "site b")]


def test_so_long_ago(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([round_record(1)], time.time() - 90 * 60)
        store.commit([round_record(2)], time.time() - 30)
    assert [row["round"] for row in listed(folder, "rounds", "--since", "2h")] == [1, 2]
    assert [row["round"] for row in listed(folder, "rounds", "--since", "1.25h")] == [2]
    assert [row["round"] for row in listed(folder, "rounds", "--since", "1w")] == [1, 2]


@pytest.mark.parametrize("moment", ["yesterday", "12", "-3h", "2026-13-01", "9999999999999h0"])
def test_what_is_no_moment_is_refused(trained: Path, moment: str) -> None:
    result = fl_db("rounds", "-d", trained, f"--since={moment}")
    assert result.exit_code == 2
    assert "is no moment; give 2026-01-31" in result.stderr


def test_an_unknown_agent_is_answered_with_those_that_there_are(trained: Path) -> None:
    for command in ("models", "updates", "events"):
        result = fl_db(command, "-d", trained, "--agent", "site c")
        assert (result.exit_code, result.stderr) == (
            1,
            "error: there is no agent 'site c' in this run; there are: site a, site b\n",
        )


def test_of_two_agents_of_one_name_each_is_chosen_by_its_id(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([replace(agent("b"), name="site a")], 103.0)
        ask(store, 1, "initial")
        publish(store, 1, [answer(store, 1, name, 1.0) for name in "ab"], 0.5)
    for wanted, agents in (("a", ["a"]), ("site a (b)", ["b"]), ("site a", ["a", "b"])):
        found = listed(folder, "updates", "--agent", wanted)
        assert [row["agent"] for row in found] == [f"site a ({agent_id})" for agent_id in agents]
