"""`fl db sql` and `fl db du` as people type them."""

import csv
import io
import json
from pathlib import Path

import pytest

from fl_main.db import ModelStore
from fl_main.db.insight.views import VIEWS
from tests.db.building import train
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
    return folder


def test_an_answer_is_a_table(trained: Path) -> None:
    result = fl_db(
        "sql", "-d", trained, "SELECT agent, num_examples AS n FROM updates_view WHERE round_id = 1"
    )
    assert result.stdout == "agent    n\nsite a  10\nsite b  10\n"
    assert result.stderr == ""


def test_an_answer_is_for_programs_too(trained: Path) -> None:
    question = "SELECT run, best_value FROM runs_view"
    assert json.loads(fl_db("sql", "-d", trained, "--json", question).stdout) == [
        {"run": "hearts", "best_value": None}
    ]
    assert list(csv.reader(io.StringIO(fl_db("sql", "-d", trained, "--csv", question).stdout))) == [
        ["run", "best_value"],
        ["hearts", ""],
    ]


def test_columns_of_one_name_are_told_apart(trained: Path) -> None:
    found = json.loads(fl_db("sql", "-d", trained, "--json", "SELECT 1 AS n, 2 AS n, 3 AS m").stdout)
    assert found == [{"n": 1, "n:2": 2, "m": 3}]


def test_a_question_may_come_from_stdin(trained: Path) -> None:
    assert fl_db("sql", "-d", trained, "-", input="SELECT 7 AS n\n").stdout == "n\n7\n"


def test_an_answer_that_is_cut_says_so(trained: Path) -> None:
    result = fl_db("sql", "-d", trained, "--limit", 1, "SELECT round_id FROM rounds ORDER BY 1")
    assert result.stdout == "round_id\n       0\n"
    assert result.stderr == "there are more than these 1 rows; ask for less, or give --limit\n"


def test_views_are_listed_with_their_columns(trained: Path) -> None:
    text = fl_db("sql", "-d", trained, "--views").stdout
    for view in VIEWS:
        assert f"{view.name}: {view.about}\n" in text
    assert "table tags\n    run_id, tag, model_id, created_at, changed_at\n" in text
    found = json.loads(fl_db("sql", "-d", trained, "--views", "--json").stdout)
    assert found[0] == {"view": "runs_view", "column": "run"}


def test_errors_take_a_line(trained: Path) -> None:
    result = fl_db("sql", "-d", trained, "DROP TABLE runs")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: only questions are answered (SELECT, WITH, VALUES): they change nothing and open no file\n"
    )
    assert fl_db("sql", "-d", trained).exit_code == 2


def test_du_adds_up(trained: Path) -> None:
    head, *rows = (line.split() for line in fl_db("du", "-d", trained).stdout.splitlines())
    assert head == ["run", "kind", "models", "stored", "files", "bytes", "shared", "may_go"]
    assert rows[:4] == [
        ["hearts", "initial", "1", "1", "1", "60", "0", "0"],
        ["hearts", "local", "4", "4", "4", "240", "0", "240"],
        ["hearts", "global", "2", "2", "2", "120", "0", "0"],
        ["all", "–", "7", "7", "7", "420", "0", "240"],
    ]
    assert rows[5] == ["fl.db", str((trained / "fl.db").stat().st_size), "bytes"]
    assert rows[6] == ["staging", *["0", "files", "of", "0", "bytes", "on", "their", "way", "in"]]


def test_du_is_for_programs_too(trained: Path) -> None:
    found = json.loads(fl_db("du", "-d", trained, "hearts", "--json").stdout)
    assert found["models"][1]["may_go"] == 240
    assert found["database"] == (trained / "fl.db").stat().st_size
    assert len(fl_db("du", "-d", trained, "--csv").stdout.splitlines()) == 4
