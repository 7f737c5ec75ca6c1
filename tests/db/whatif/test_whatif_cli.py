"""`fl db replay` and `contributions` as people have them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fl_main.console import run_command
from fl_main.db import ModelDB, ModelStore, replay
from fl_main.db.cli import db
from fl_main.db.cli.whatif import _round_row
from fl_main.db.whatif.records import ReplayedRound
from fl_main.weights import Array
from tests.db.recording import SITES, record


def measure(weights: Mapping[str, Array]) -> dict[str, float]:
    """What a user's function may look like."""
    return {"bias": float(weights["bias"][0])}


@pytest.fixture
def hearts(folder: Path) -> Path:
    with ModelStore(folder) as store:
        record(store, rounds=2)
    return folder


def fl_db(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(db, ["-d", str(folder), *args], catch_exceptions=False)


def test_replay_without_an_agent(hearts: Path) -> None:
    done = fl_db(hearts, "replay", "hearts", "--without", "bob", "--without", "amy")
    table, remarks = done.output.split("\n\n")
    assert [line.split()[:4] for line in table.splitlines()] == [
        ["round", "updates", "left_out", "as_stored"],
        ["1", str(len(SITES) - 2), "amy,", "bob"],
        ["2", str(len(SITES) - 2), "amy,", "bob"],
    ]
    assert "This is not unlearning" in remarks
    assert remarks.splitlines()[-1] == "The replay is run hearts-replay: fl db rounds hearts-replay"
    with ModelDB(hearts) as found:
        assert found.run("hearts-replay").facts.rounds_done == 2


def test_replay_with_steps_and_a_function(hearts: Path) -> None:
    steps = "[norm_bound: {bound: 1.0}, median]"
    function = f"{__name__}:measure"
    done = fl_db(hearts, "replay", "hearts", "--strategy", steps, "--evaluate", function, "--json")
    found = json.loads(done.output)
    assert found["strategy"] == "norm_bound > median"
    with ModelDB(hearts) as opened:
        for entry in found["rounds"]:
            value = opened.model(f"hearts-replay:{entry['round_id']}").weights()["bias"][0]
            assert entry["measured"] == {"bias": value}
    table = fl_db(hearts, "replay", "hearts", "--round", "2", "--evaluate", function, "--csv").output
    assert table.splitlines()[0] == "round,updates,as_stored,bias,stored_bias,model"


def test_options_of_a_strategy(hearts: Path) -> None:
    fl_db(
        hearts,
        "replay",
        "hearts",
        "--strategy",
        "multi_krum",
        "--option",
        "f=1",
        "--option",
        "m=3",
        "--name",
        "x",
    )
    with ModelDB(hearts) as found:
        assert found.run("x").facts.settings["strategy_options"] == {"f": 1, "m": 3}


def test_a_metric_that_only_the_replayed_model_has_is_shown() -> None:
    """A function of the user's own may give other numbers of another model."""
    entry = ReplayedRound(1, "g1", "r1", ("amy",), (), False, "", {"bias": 1.0}, {"other": 2.0})
    row = _round_row(entry)
    assert (row["bias"], row["stored_bias"]) == (1.0, None)


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (["--option", "f"], "error: --option: 'f': give KEY=VALUE", 2),
        (["--strategy", "["], "error: --strategy: line 1, column 2: not valid YAML", 2),
        (["--strategy", "median", "--option", "x=1"], "error: strategy_options: median: takes no", 2),
        (["--round", "7"], "error: round 7 of run 'hearts' made no global model", 1),
        (["--evaluate", "nowhere:f"], "error: --evaluate: 'nowhere:f' cannot be imported", 2),
        (["--evaluate", "json"], "error: --evaluate: 'json': give package.module:function", 2),
        (
            [arg for name in SITES for arg in ("--without", name)],
            f"error: without all of its {len(SITES)} agents there is nothing in run 'hearts' to replay",
            1,
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hearts: Path, args: list[str], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(db, ["-d", str(hearts), "replay", "hearts", *args])
    assert ended.value.code == code
    error: Any = capsys.readouterr().err
    assert error.startswith(said), error
    assert len(error.splitlines()) == 1


def not_a_number(weights: Mapping[str, Array]) -> float:
    """What a function returns of a model that came to nothing."""
    return float("nan")


def test_what_is_no_number_is_shown_as_none(hearts: Path) -> None:
    table = fl_db(hearts, "replay", "hearts", "--round", "1", "--evaluate", f"{__name__}:not_a_number").output
    assert table.splitlines()[0].split() == ["round", "updates", "as_stored", "value", "model"]
    assert table.splitlines()[1].split()[3] == "–"


def test_an_interrupted_replay_says_so(hearts: Path) -> None:
    measured = iter([0.5])  # of the model before the first round; then Ctrl-C

    def evaluate(weights: Mapping[str, Array]) -> float:
        for value in measured:
            return value
        raise KeyboardInterrupt

    with ModelDB(hearts) as opened:
        with pytest.raises(KeyboardInterrupt):
            replay(opened, "hearts", evaluate=evaluate)
        reason = opened.run("hearts-replay").facts.reason
    assert reason == "replay of hearts: strategy fedavg; it broke off after 0 of 2 rounds: interrupted"


def broken(weights: Mapping[str, Array]) -> float:
    """What a user's function may look like while it is being written."""
    return float(weights["wieght"][0])


def test_a_function_that_fails_leaves_no_run(hearts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(db, ["-d", str(hearts), "replay", "hearts", "--evaluate", f"{__name__}:broken"])
    assert capsys.readouterr().err == f"error: --evaluate: {__name__}:broken failed: KeyError: 'wieght'\n"
    with ModelDB(hearts) as found:
        assert [run.name for run in found.runs()] == ["hearts"]


def test_contributions(hearts: Path) -> None:
    args = ["contributions", "hearts", "--evaluate", f"{__name__}:measure"]
    table, below = fl_db(hearts, *args).output.split("\n\n")
    assert table.splitlines()[0].split() == ["agent", "bias", "rounds"]
    assert {line.split()[0] for line in table.splitlines()[1:]} == set(SITES)
    assert below.startswith("leave-one-out: ")
    found = json.loads(fl_db(hearts, *args, "--round", "2", "--json").output)
    assert [entry["round_id"] for entry in found["rounds"]] == [2]
    lines = fl_db(hearts, *args, "--csv").output.splitlines()
    assert lines[0] == "agent,bias,rounds"
    assert len(lines) == len(SITES) + 1
