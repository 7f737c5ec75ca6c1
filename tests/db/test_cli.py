"""`fl db` as people type it."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result

from fl_main.db import ModelDB, ModelStore
from fl_main.db.cli import COMMANDS
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import Verdict
from tests.db.building import (
    RUN,
    agent,
    answer,
    answer_delta,
    ask,
    begin,
    metric,
    publish,
    round_record,
    tampering,
    train,
    update,
)
from tests.db.commands import fl_db

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
    return folder


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_where_the_table_says(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert f"  {name} " in fl_db("--help").stdout


def test_runs(trained: Path) -> None:
    head, row = lines(fl_db("runs", "-d", trained))
    assert head[:6] == ["run", "status", "round", "agents", "strategy", "best"]
    assert row[:4] == ["hearts", "running", "2", "2"]


def test_rounds(trained: Path) -> None:
    head, *rows = lines(fl_db("rounds", "hearts", "--folder", trained))
    assert head == [
        *("round", "status", "agents", "train_loss", "evaluate_accuracy"),
        *("reports", "bytes", "seconds", "model"),
    ]
    assert rows[0][:3] == ["0", "done", "0/0"]
    assert rows[2] == ["2", "done", "2/2", "0.333333", "0.666667", "2/2", "120", "0.5", "g2"]


@pytest.fixture
def asynchronous(trained: Path) -> Path:
    """Round 2 counts a third update: a's delta of the model of round 1."""
    with ModelStore(trained) as store:
        delta = answer_delta(store, "t", "a", 2.0, base="g1")
        times = {"busy_s": 15.0, "idle_s": 4.0, "wasted_s": 1.0}
        ended = round_record(2, status="done", base_model_id="g1", model_id="g2", ended_s=2.5, **times)
        rejected = update("x", "b", 2, verdict=Verdict.REJECTED, reason="not finite")
        store.commit([replace(delta, counted_in=2, staleness=3), ended, rejected], 160.0)
    return trained


def test_rounds_show_staleness_and_where_time_went(asynchronous: Path) -> None:
    head, *rows = lines(fl_db("rounds", "-d", asynchronous))
    shown = [dict(zip(head, row, strict=True)) for row in rows]
    assert "late" not in head  # no update of any round was
    assert [row["rejected"] for row in shown] == ["0", "0", "1"]
    assert [row["stale"] for row in shown] == ["–", "–", "1.0/3"]
    assert [shown[2][name] for name in ("busy", "idle", "wasted")] == ["75%", "20%", "5%"]
    found = json.loads(fl_db("rounds", "-d", asynchronous, "--json").stdout)[2]
    assert (found["counted"], found["staleness"], found["max_staleness"]) == (3, 1.0, 3)
    assert (found["busy_s"], found["wasted_s"], found["idle_s"]) == (15.0, 1.0, 4.0)


def test_a_run_shows_the_totals(asynchronous: Path) -> None:
    text = fl_db("show", "hearts", "-d", asynchronous).stdout
    assert "0.6 on average, 3 at most, of 5 counted updates" in text
    assert "75% busy, 20% idle, 5% wasted of 20 s" in text
    found = json.loads(fl_db("show", "hearts", "-d", asynchronous, "--json").stdout)
    assert (found["counted"], found["busy_s"], found["staleness"]) == (5, 15.0, 0.6)


def test_a_delta_is_told_with_its_base(asynchronous: Path, tmp_path: Path) -> None:
    listed = fl_db("models", "-d", asynchronous, "--kind", "local").stdout.splitlines()
    assert ["delta of g1" in line for line in listed] == [False, False, False, False, False, True]
    found = json.loads(fl_db("models", "-d", asynchronous, "--kind", "local", "--json").stdout)
    assert [(row["form"], row["base"]) for row in found[-2:]] == [("full", None), ("delta", "g1")]
    text = fl_db("show", "d-t", "-d", asynchronous).stdout
    assert "form     delta of g1" in text
    assert "\narrays of the delta\n" in text
    shown = json.loads(fl_db("show", "d-t", "-d", asynchronous, "--json").stdout)
    assert (shown["form"], shown["base"]) == ("delta", "g1")
    target = tmp_path / "out.npz"
    words = fl_db("export", "d-t", target, "-d", asynchronous).stdout
    assert words == f"{target}: local model d-t, g1 + delta, 2 arrays\n"
    words = fl_db("export", "d-t", target, "-d", asynchronous, "--force", "--as-stored").stdout
    assert words == f"{target}: local model d-t, delta of g1, 2 arrays\n"
    with np.load(target) as loaded:
        assert loaded["bias"].tolist() == [1.5, 0.0, 0.0]


@pytest.fixture
def measured(folder: Path) -> Path:
    """A run of one round, in which b is an outlier and left out; a sent another update, which is wrong."""
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        notes = {"a": (0.5, 1.0, 0.0), "b": (2.5, 0.0, 1.0)}
        found = [
            replace(
                answer(store, 1, name, 1.0),
                notes={"distance": distance, "kept": kept, "outlier": outlier},
            )
            for name, (distance, kept, outlier) in notes.items()
        ]
        publish(store, 1, found, 0.5)
        wrong = update("x", "a", verdict=Verdict.REJECTED, reason="not finite")
        left_out = replace(agent("b"), outlying=1, quarantined="put there by ann")
        store.commit([wrong, left_out], 130.0)
    return folder


def test_updates_show_what_was_measured(measured: Path) -> None:
    head, *rows = lines(fl_db("updates", "-d", measured))
    assert head == [
        *("round", "agent", "verdict", "counted", "examples", "share", "staleness", "reason", "model"),
        *("distance", "kept", "outlier"),
    ]
    assert [" ".join(row) for row in rows] == [
        "1 site a accepted 1 10 0.5 0 – m1a 0.5 yes no",
        "1 site b accepted 1 10 0.5 0 – m1b 2.5 no yes",
        "1 site a rejected – 10 – – not finite – – – –",
    ]


def test_updates_of_a_round_or_an_agent_as_json_and_csv(measured: Path) -> None:
    [found] = json.loads(fl_db("updates", "hearts", "-d", measured, "--agent", "site b", "--json").stdout)
    assert (found["distance"], found["kept"], found["outlier"], found["share"]) == (2.5, False, True, 0.5)
    assert (found["task"], found["bytes"], found["train_loss"], found["received"]) == ("t1b", 60, 0.25, 111.0)
    assert json.loads(fl_db("updates", "-d", measured, "--round", "2", "--json").stdout) == []
    rows = list(csv.DictReader(io.StringIO(fl_db("updates", "-d", measured, "--agent", "a", "--csv").stdout)))
    assert [(row["verdict"], row["distance"]) for row in rows] == [("accepted", "0.5"), ("rejected", "")]


def test_rounds_count_outliers_and_what_was_left_out(measured: Path) -> None:
    head, *rows = lines(fl_db("rounds", "-d", measured))
    assert [(row[head.index("outliers")], row[head.index("dropped")]) for row in rows] == [
        ("0", "0"),
        ("1", "1"),
    ]
    found = json.loads(fl_db("rounds", "-d", measured, "--json").stdout)
    assert [(entry["outliers"], entry["dropped"]) for entry in found] == [(0, 0), (1, 1)]


def test_show_says_who_is_in_quarantine(measured: Path) -> None:
    text = fl_db("show", "hearts", "-d", measured).stdout
    assert "outlying  quarantined" in text
    assert "put there by ann" in text


def test_rounds_as_json_and_csv(trained: Path) -> None:
    found = json.loads(fl_db("rounds", "-d", trained, "--json").stdout)
    assert found[1]["train_loss"] == 0.5
    assert found[1]["train_loss_agents"] == 2
    assert found[1]["evaluate_accuracy_examples"] == 20
    assert (found[1]["accepted"], found[1]["model"]) == (2, "g1")
    rows = list(csv.DictReader(io.StringIO(fl_db("rounds", "-d", trained, "--csv").stdout)))
    assert [row["model"] for row in rows] == ["initial", "g1", "g2"]
    assert rows[2]["bytes"] == "120"


def test_a_metric_that_is_no_number_is_null_in_json(trained: Path) -> None:
    with ModelStore(trained) as store:
        store.commit([metric("g2", 2, "loss", float("nan"))], 300.0)
    found = json.loads(fl_db("rounds", "-d", trained, "--json").stdout, parse_constant=pytest.fail)
    assert found[2]["train_loss"] is None
    json.loads(fl_db("show", "g2", "-d", trained, "--json").stdout, parse_constant=pytest.fail)


def test_models(trained: Path) -> None:
    found = json.loads(fl_db("models", "-d", trained, "--json").stdout)
    assert len(found) == 7
    assert found[-1]["tags"] == "final"
    assert [
        row["model"]
        for row in json.loads(fl_db("models", "-d", trained, "--kind", "global", "--json").stdout)
    ] == [
        "g1",
        "g2",
    ]
    chosen = json.loads(fl_db("models", "-d", trained, "--agent", "site b", "--round", 2, "--json").stdout)
    assert [(row["model"], row["agent"]) for row in chosen] == [("m2b", "site b")]


def test_the_models_of_the_latest_rounds_are_found_without_a_look_at_all(trained: Path) -> None:
    def named(*words: object) -> list[str]:
        return [row["model"] for row in json.loads(fl_db("models", "-d", trained, *words, "--json").stdout)]

    everything = named()
    assert named("--last", 3) == everything[-3:]
    assert named("--last", 99) == everything
    assert named("--last", 1, "--agent", "site b") == ["m2b"]
    assert named("--last", 1, "--kind", "global") == ["g2"]
    refused = fl_db("models", "-d", trained, "--last", 0)
    assert refused.exit_code == 2
    assert "--last" in refused.output


def test_models_that_are_not_stored_say_why(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        store.prune()
    found = json.loads(fl_db("models", "-d", folder, "--round", 1, "--agent", "a", "--json").stdout)
    assert found[0]["stored"] == "no: deleted by the retention settings"
    shown = fl_db("show", "m1a", "-d", folder)
    assert "not stored: deleted by the retention settings" in shown.stdout
    assert "layer/w" in shown.stdout
    exported = fl_db("export", "m1a", folder.parent / "x.npz", "-d", folder)
    assert (exported.exit_code, exported.stderr) == (
        1,
        "error: model m1a is not stored: deleted by the retention settings\n",
    )


def test_show_a_model(trained: Path) -> None:
    text = fl_db("show", "hearts:2", "-d", trained).stdout
    with ModelDB(trained) as opened:
        path = opened.model("g2").path
    facts = dict(line.split(maxsplit=1) for line in text.split("\n\n")[0].splitlines())
    assert facts["kind"] == "global"
    assert facts["path"] == str(path)
    assert facts["tags"] == "final"
    sections = {part.splitlines()[0]: part.splitlines()[1:] for part in text.split("\n\n")[1:]}
    assert sections["parents"][1].split() == ["m2a", "0.5"]
    bias, layer = (line.split() for line in sections["arrays"][1:])
    assert bias[:7] == ["bias", "F64", "3", "parameter", "-1", "-0.0555556", "0.5"]
    assert layer[:4] == ["layer/w", "F32", "3×3", "parameter"]
    assert float(layer[7]) == pytest.approx(1.0)  # nine times a third
    assert sections["metrics"][1].split()[:2] == ["train", "loss"]


def test_show_as_json(trained: Path) -> None:
    found = json.loads(fl_db("show", "m1b", "-d", trained, "--json").stdout)
    assert (found["kind"], found["agent"], found["round"]) == ("local", "site b", 1)
    assert found["arrays"][0]["shape"] == [3]
    run = json.loads(fl_db("show", "hearts", "-d", trained, "--json").stdout)
    assert run["settings"] == RUN.settings
    assert [member["name"] for member in run["members"]] == ["site a", "site b"]


def test_show_a_run(trained: Path) -> None:
    text = fl_db("show", "hearts", "-d", trained).stdout
    assert "status           running" in text
    assert "site a" in text


def test_export(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    result = fl_db("export", "hearts:1", target, "-d", trained)
    assert result.exit_code == 0, result.output
    with np.load(target) as loaded:
        assert loaded["bias"][0] == 0.5
    again = fl_db("export", "hearts:1", target, "-d", trained)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert fl_db("export", "hearts:1", target, "-d", trained, "--force").exit_code == 0


def test_verify(trained: Path) -> None:
    result = fl_db("verify", "-d", trained)
    assert (result.exit_code, result.stdout) == (0, f"{trained}: no damage found\n")
    assert json.loads(fl_db("verify", "-d", trained, "--json").stdout) == []
    with tampering(trained) as connection:
        connection.execute("UPDATE tags SET model_id = 'g1'")
    result = fl_db("verify", "-d", trained)
    assert result.exit_code == 1
    assert result.stdout == "tags final of run run-1: the row does not say what was committed\n"
    assert result.stderr == f"error: {trained}: 1 damage found\n"
    (damage,) = json.loads(fl_db("verify", "-d", trained, "--json").stdout)
    assert damage["fault"] == "row_altered"


def test_the_folder_may_be_given_before_the_command_or_by_the_environment(trained: Path) -> None:
    expected = fl_db("runs", "-d", trained).stdout
    assert fl_db("-d", trained, "runs").stdout == expected
    assert fl_db("runs", env={"FL_DB": str(trained)}).stdout == expected


@pytest.mark.parametrize("command", ["runs", "head", "verify", "du"])
def test_the_folder_that_is_given_counts_before_the_environment(
    trained: Path, tmp_path: Path, command: str
) -> None:
    elsewhere = {"FL_DB": str(tmp_path / "elsewhere")}
    expected = fl_db(command, "-d", trained).stdout
    assert fl_db("-d", trained, command, env=elsewhere).stdout == expected
    assert fl_db(command, "-d", trained, env=elsewhere).stdout == expected


@pytest.mark.parametrize("command", [["runs"], ["rounds"], ["models"], ["show", "x"], ["verify"], ["head"]])
def test_without_a_database_one_line_says_so(tmp_path: Path, command: list[str]) -> None:
    result = fl_db(*command, "-d", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (
        result.stderr
        == f"error: there is no folder {tmp_path / 'none'}; name the model database with --folder\n"
    )


def test_an_unknown_run_is_answered_with_those_that_there_are(trained: Path) -> None:
    result = fl_db("rounds", "lungs", "-d", trained)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: there is no run 'lungs'; the runs in {trained} are: hearts\n",
    )


def test_with_several_runs_one_must_be_named(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([replace(RUN, run_id="run-2", name="lungs")], 200.0)
    result = fl_db("rounds", "-d", folder)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: name a run; the runs in {folder} are: hearts, lungs\n",
    )
    assert fl_db("rounds", "lungs", "-d", folder).exit_code == 0


def test_a_wrong_option_is_an_error_of_usage(trained: Path) -> None:
    assert fl_db("rounds", "-d", trained, "--colour").exit_code == 2
    assert fl_db("show", "-d", trained).exit_code == 2


def test_an_empty_database_has_no_runs(folder: Path) -> None:
    ModelStore(folder).close()
    assert len(lines(fl_db("runs", "-d", folder))) == 1
    assert fl_db("rounds", "-d", folder).stderr == f"error: name a run; the runs in {folder} are: none yet\n"


LISTS = [
    *(["runs"], ["head"], ["du"], ["sql", "--views"], ["sql", "SELECT 1"]),
    *(["rounds"], ["agents"], ["models"], ["updates"], ["events"], ["lineage", "hearts"]),
    *(["best", "--metric", "accuracy", "--direction", "max"], ["diff", "hearts", "hearts"]),
    *(["show", "hearts"], ["rounds", "--json"]),
]


INSIDE = [["show", "g1"], ["stats", "g1"], ["diff", "g1", "g2"]]  # for what lies in models, numpy is needed


@pytest.mark.parametrize("command", [*LISTS, *INSIDE, ["rounds", "--help"]], ids=" ".join)
def test_what_is_not_needed_is_not_loaded(trained: Path, command: list[str]) -> None:
    code = (
        "import sys\n"
        "from fl_main.cli import fl\n"
        "fl(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'numpy', 'pydantic', 'rich', 'sqlalchemy', 'websockets', 'yaml'}\n"
        "print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    run = [sys.executable, "-c", code, "db", *command]
    env = {**os.environ, "FL_DB": str(trained)}
    done = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.split() == (["numpy"] if command in INSIDE else [])
