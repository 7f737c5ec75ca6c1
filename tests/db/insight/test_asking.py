"""Questions in SQL are answered, within bounds; whatever is no question is refused."""

import sqlite3
from pathlib import Path

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight import asking
from fl_main.errors import StoreError
from tests.db.building import begin, train

ENDLESS = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def db(folder: Path) -> ModelDB:
    with ModelStore(folder) as store:
        train(store)
    return ModelDB(folder)


def test_a_question_is_answered(db: ModelDB) -> None:
    answer = db.sql("SELECT run, rounds FROM runs_view")
    assert (answer.columns, answer.rows, answer.is_cut) == (("run", "rounds"), [("hearts", 2)], False)


def test_an_answer_is_cut_where_it_was_asked_to(db: ModelDB) -> None:
    question = "SELECT round_id FROM rounds ORDER BY round_id"
    assert (db.sql(question, 2).rows, db.sql(question, 2).is_cut) == ([(0,), (1,)], True)
    assert (db.sql(question, 3).rows, db.sql(question, 3).is_cut) == ([(0,), (1,), (2,)], False)


@pytest.mark.parametrize(
    "question",
    [
        "VALUES (1), (2)",
        "WITH two AS (SELECT 2 AS n) SELECT n FROM two",
        "EXPLAIN QUERY PLAN SELECT * FROM updates_view",
        "PRAGMA table_info(runs)",
        "SELECT 1; -- that is all",
    ],
)
def test_whatever_only_reads_is_a_question(db: ModelDB, question: str) -> None:
    assert db.sql(question).rows


@pytest.mark.parametrize(
    "question",
    [
        "DELETE FROM runs",
        "INSERT INTO tags SELECT * FROM tags RETURNING *",
        "UPDATE runs SET name = 'x'",
        "DROP VIEW runs_view",
        "CREATE TEMP TABLE mine (x)",
        "ATTACH '/etc/passwd' AS other",
        "VACUUM INTO '/tmp/copy.db'",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "BEGIN IMMEDIATE",
        "SAVEPOINT here",
        "SELECT load_extension('x')",
        "REINDEX",
        "ANALYZE",
    ],
)
def test_whatever_does_more_is_refused(db: ModelDB, question: str) -> None:
    before = db.file.read_bytes()
    with pytest.raises(StoreError, match=r"^only questions are answered \(SELECT, WITH, VALUES\)"):
        db.sql(question)
    assert db.file.read_bytes() == before


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("", r"^that is no question; begin with SELECT"),
        ("-- only words", r"^that is no question"),
        ("SELECT * FROM lungs", r"^no such table: lungs; `fl db sql --views` lists what one can ask for"),
        ("SELECT lungs FROM runs", r"^no such column: lungs;"),
        ("selec", r"syntax error;"),
        ("SELECT 1; SELECT 2", r"one statement at a time"),
        ("SELECT ?", r"bindings"),
        ("SELECT '\ud800'", r"surrogates not allowed"),
        ("SELECT zeroblob(100000000)", r"^a value of the answer has more than 64 MiB; ask for less"),
    ],
)
def test_what_cannot_be_answered_is_told(db: ModelDB, question: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        db.sql(question)


def test_a_question_has_its_time(db: ModelDB) -> None:
    with pytest.raises(StoreError, match=r"no answer within 0.05 s; ask for less, or give it more time"):
        db.sql(ENDLESS, seconds=0.05)


def test_the_connection_itself_cannot_write(db: ModelDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_authorize", lambda *about: sqlite3.SQLITE_OK)
    with pytest.raises(StoreError, match="readonly database"):
        db.sql("DELETE FROM runs")


def test_a_question_sees_what_a_daemon_just_wrote_and_holds_up_nobody(folder: Path) -> None:
    with ModelStore(folder) as store, ModelDB(folder) as db:
        assert db.sql("SELECT count(*) FROM runs").rows == [(0,)]
        begin(store)
        assert db.sql("SELECT count(*) FROM runs").rows == [(1,)]
