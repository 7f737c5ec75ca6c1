"""`fl db stats`, `diff` and `lineage` as people type them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import ModelKind
from tests.db.building import RUN, answer_delta, begin, model, stage, train
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    """Rounds 1 and 2 of a and b; a delta on the model of round 1, which round 3 counts."""
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t", "a", 2.0, base="g1")
        parents = (("d-t", 0.75), ("m2b", 0.25))
        store.commit([model("g3", stage(store, "g3", 0.25), 3, ModelKind.GLOBAL, parents=parents)], 160.0)
    return folder


def loaded(folder: Path, *words: object) -> Any:
    result = fl_db(*words, "-d", folder, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- stats --------------------------------------------------------------------------------------


def test_stats(trained: Path) -> None:
    head, bias, layer = fl_db("stats", "m1b", "-d", trained, "--bins", 2).stdout.splitlines()
    assert head.split() == [
        *("name", "dtype", "shape", "role", "min", "mean", "std", "max", "norm", "zeros", "spread"),
    ]
    assert bias.split() == [
        # 1.1, 0.5 and -1: the mean is 0.2, the squares from it 0.81, 0.09, 1.44, the norm √2.46
        *("bias", "F64", "3", "parameter", "-1", "0.2", "0.883176", "1.1", "1.56844", "0", "▅█"),
    ]
    assert layer.split()[:4] == ["layer/w", "F32", "3×3", "parameter"]


def test_bars(trained: Path) -> None:
    text = fl_db("stats", "m1b", "-d", trained, "--bins", 2, "--bars", "--array", "bias").stdout
    assert text.split("\n\n")[1].splitlines() == [
        "bias",
        "  -1 … 0.05  1  ████████████████████",
        "0.05 …  1.1  2  ████████████████████████████████████████",
    ]


def test_stats_for_programs(trained: Path) -> None:
    (bias,) = loaded(trained, "stats", "g1", "--array", "b*", "--bins", 3)
    assert (bias["name"], bias["counts"], bias["edges"]) == ("bias", [1, 0, 2], [-1.0, -0.5, 0.0, 0.5])
    text = fl_db("stats", "g1", "-d", trained, "--array", "b*", "--bins", 3, "--csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["nan"], json.loads(row["counts"])) == ("bias", "0", [1, 0, 2])


def test_stats_of_a_delta(trained: Path) -> None:
    assert loaded(trained, "stats", "d-t", "--array", "bias")[0]["largest"] == 2.0
    assert loaded(trained, "stats", "d-t", "--array", "bias", "--as-stored")[0]["largest"] == 1.5


def test_an_array_that_is_not_there(trained: Path) -> None:
    result = fl_db("stats", "g1", "-d", trained, "--array", "x")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: the model has no array 'x'; it has: bias, layer/w\n",
    )


# --- diff ---------------------------------------------------------------------------------------


def test_diff(trained: Path) -> None:
    text = fl_db("diff", "g1", "d-t", "-d", trained).stdout  # 0.5 and, base + delta, 2.0
    first, second, _, head, bias, layer, overall = text.splitlines()
    assert first == "first   g1  global model, round 1 of hearts"
    assert second == "second  d-t  local model of site a, round 1 of hearts"
    assert head.split("  ")[-1] == "changed"
    assert bias.split()[:4] == ["bias", "parameter", "3", "1.5"]
    assert bias.split()[-3:] == ["1.5", "[0]", "1"]
    # Nine values are 1.5 off; the norm of nine 0.5 is 1.5, of nine 2 it is 6.
    assert layer.split() == ["layer/w", "parameter", "3×3", "4.5", "3", "1", "1.5", "[0,", "0]", "9"]
    # Ten values are 1.5 off: √22.5; the first model's norm is √(10 · 0.25 + 0.25 + 1).
    assert overall.split() == [
        "all",
        "float",
        "parameters",
        "–",
        "–",
        "4.74342",
        "2.44949",
        *overall.split()[7:],
    ]
    assert overall.split()[-1] == "10"


def test_diff_for_programs(trained: Path) -> None:
    found = loaded(trained, "diff", "g1", "g2", "--array", "bias")
    assert (found["first"], found["second"]) == ("g1", "g2")
    assert [entry["name"] for entry in found["arrays"]] == ["bias"]
    assert found["arrays"][0]["largest"] == pytest.approx(1 / 3 - 1 / 2)
    assert found["parameters"]["changed"] == 10
    text = fl_db("diff", "g1", "g2", "-d", trained, "--csv").stdout
    assert [row["name"] for row in csv.DictReader(io.StringIO(text))] == ["bias", "layer/w"]


def test_equal_models(trained: Path) -> None:
    text = fl_db("diff", "g1", "hearts:1", "-d", trained, "--changed").stdout
    assert "both are one file" in text
    assert "bias" not in text


def test_a_model_that_is_not_stored_or_damaged(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        store.prune()
    for command in (("diff", "g1", "m1a"), ("diff", "m1a", "g1"), ("stats", "m1a")):
        result = fl_db(*command, "-d", folder)
        assert (result.exit_code, result.stderr) == (
            1,
            "error: model m1a is not stored: deleted by the retention settings\n",
        )
    with ModelDB(folder) as db:
        db.model("g1").path.write_bytes(b"short")
    for command in (("diff", "g1", "g2"), ("diff", "g2", "g1"), ("stats", "g1")):
        result = fl_db(*command, "-d", folder)
        assert result.exit_code == 1
        assert "has 5 bytes instead of" in result.stderr


def test_runs_side_by_side(trained: Path) -> None:
    with ModelStore(trained) as store:
        settings = {**RUN.settings, "name": "lungs", "seed": 7}
        store.commit([replace(RUN, run_id="run-2", name="lungs", settings=settings)], 170.0)
    text = fl_db("diff", "hearts", "lungs", "-d", trained).stdout
    facts, differing, metrics = text.split("\n\n")
    assert facts.splitlines()[0].split() == ["hearts", "lungs"]
    assert [line.split() for line in differing.splitlines()[2:]] == [
        ["name", "hearts", "lungs"],
        ["seed", "–", "7"],
    ]
    assert ["train", "loss,", "last", "0.333333", "–"] in [line.split() for line in metrics.splitlines()]
    found = loaded(trained, "diff", "hearts", "lungs")
    assert found["runs"] == ["hearts", "lungs"]
    assert {"name": "seed", "values": [None, 7]} in found["settings"]
    rows = list(csv.DictReader(io.StringIO(fl_db("diff", "hearts", "lungs", "-d", trained, "--csv").stdout)))
    assert {row["what"] for row in rows} == {"facts", "settings", "metrics"}


# --- lineage ------------------------------------------------------------------------------------


def test_a_tree(trained: Path) -> None:
    assert fl_db("lineage", "g3", "-d", trained, "--up", "all").stdout.splitlines() == [
        "g3  global model, round 3 of hearts",
        f"settings  {RUN.settings_digest} (fl db show hearts)",
        "agents    fl_main (2)",
        "",
        "made from",
        "├─ 75% d-t  local model of site a, round 1 of hearts",
        "│  └─ g1  global model, round 1 of hearts",
        "│     ├─ 50% m1a  local model of site a, round 1 of hearts",
        "│     └─ 50% m1b  local model of site b, round 1 of hearts",
        "└─ 25% m2b  local model of site b, round 2 of hearts",
    ]


def test_what_became_of_a_model(trained: Path) -> None:
    lines = fl_db("lineage", "g1", "-d", trained, "--up", 0).stdout.splitlines()
    assert lines[4:] == [
        "became part of",
        "└─ d-t  local model of site a, round 1 of hearts",
        "   └─ 75% g3  global model, round 3 of hearts",
    ]


def test_a_model_that_comes_again_is_named_only(trained: Path) -> None:
    with ModelStore(trained) as store:
        twins = [
            model(f"m4{name}", stage(store, f"m4{name}", 1.0), 4, agent_id=name, parents=(("g3", None),))
            for name in "ab"
        ]
        both = tuple((twin.model_id, 0.5) for twin in twins)
        made = model("g4", stage(store, "g4", 0.5), 4, ModelKind.GLOBAL, parents=(*both, ("m4a", 0.0)))
        store.commit([*twins, made], 170.0)
    assert fl_db("lineage", "g4", "-d", trained).stdout.splitlines()[5:] == [
        "├─ 50% m4a  local model of site a, round 4 of hearts",
        "│  └─ g3  global model, round 3 of hearts",
        "├─ 50% m4b  local model of site b, round 4 of hearts ← g3",
        "└─ 0% m4a  (above)",
    ]


def test_a_run_newest_first(trained: Path) -> None:
    lines = fl_db("lineage", "hearts", "-d", trained).stdout.splitlines()
    assert lines[:4] == [
        "run hearts",
        f"settings  {RUN.settings_digest} (fl db show hearts)",
        "agents    fl_main (2)",
        "",
    ]
    assert lines[4:8] == [
        "g3  global model, round 3 of hearts",
        "├─ 75% d-t  local model of site a, round 1 of hearts",
        "└─ 25% m2b  local model of site b, round 2 of hearts",
        "g2  global model, round 2 of hearts, tagged final",
    ]
    assert lines[-1] == "initial  initial model, round 0 of hearts"
    few = fl_db("lineage", "hearts", "-d", trained, "--most", 5).stdout.splitlines()
    assert few[4:] == [
        "g3  global model, round 3 of hearts",
        "g2  global model, round 2 of hearts, tagged final ← g1",
        "g1  global model, round 1 of hearts ← initial",
        "initial  initial model, round 0 of hearts",
        "",
        "5 more left out; --most shows them",
    ]


def test_a_lineage_for_programs(trained: Path) -> None:
    found = loaded(trained, "lineage", "g3")
    assert found["edges"][-1] == {"parent": "m2b", "child": "g3", "share": 0.25}
    assert found["left_out"] == 0


def test_a_drawing(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "g3.svg"
    result = fl_db("lineage", "g3", "-d", trained, "--svg", target)
    assert result.stdout == f"{target}: lineage of model g3, 4 models\n"
    root = ElementTree.parse(target).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}title") == "Lineage of model g3"
    boxes = {box.findtext(f"{space}title"): box for box in root.iter(f"{space}g")}
    assert list(boxes) == [
        "g1: global model, round 1 of hearts",
        "m2b: local model of site b, round 2 of hearts",
        "d-t: local model of site a, round 1 of hearts",
        "g3: global model, round 3 of hearts",
    ]
    titles = [path.findtext(f"{space}title") for path in root.iter(f"{space}path")]
    assert titles == ["g1 → d-t", "d-t → g3 75%", "m2b → g3 25%"]
    text = target.read_text("utf-8")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # it asks for nothing from anywhere
    failed = fl_db("lineage", "g3", "-d", trained, "--svg", tmp_path / "none" / "x.svg")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: cannot draw a lineage")


def test_graphviz(trained: Path) -> None:
    text = fl_db("lineage", "m2b", "-d", trained, "--dot").stdout
    assert text.splitlines()[0] == "digraph lineage {"
    assert '"m2b" -> "g3" [label="25%"];' in text
    assert '"m2b" [label="m2b\\nlocal model of site b, round 2 of hearts"];' in text


def test_names_cannot_leave_the_drawing(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([replace(RUN, name='<script>"x"</script>')], 1.0)
        store.commit([model('a"b<', stage(store, "x", 1.0), 1, ModelKind.GLOBAL)], 2.0)
    target = tmp_path / "x.svg"
    assert fl_db("lineage", 'a"b<', "-d", folder, "--svg", target).exit_code == 0
    assert "<script" not in target.read_text("utf-8")
    assert ElementTree.parse(target).getroot() is not None
    assert '"a\\"b<" [label=' in fl_db("lineage", 'a"b<', "-d", folder, "--dot").stdout


def test_steps_are_numbers_or_all(trained: Path) -> None:
    result = fl_db("lineage", "g3", "-d", trained, "--up", "many")
    assert result.exit_code == 2
    assert "'many' is neither a number of steps nor `all`" in result.stderr


def test_a_run_without_models(folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([RUN], 1.0)
    assert fl_db("lineage", "hearts", "-d", folder).stdout == ""
    with ModelStore(folder) as store:
        begin(store)
    lines = fl_db("lineage", "hearts", "-d", folder).stdout.splitlines()
    assert lines[-1] == "initial  initial model, round 0 of hearts"
