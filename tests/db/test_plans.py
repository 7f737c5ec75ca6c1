"""No question reads through a table that grows: each is answered by way of an index.

Plans, not seconds: SQLite plans without looking at the rows, so that a small database shows what
a large one does.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_main.db import ModelDB, ModelStore, archive_run, model_card, sqlite
from fl_main.db.cli import db
from fl_main.db.why import explain
from fl_main.errors import StoreError
from fl_main.settings import DatabaseSettings, RetentionSettings
from tests.db.building import answer, ask, publish, train

GROWING = {"rounds", "steps", "tasks", "updates", "files", "models", "parents", "metrics", "events"}
SMALL = {"tasks_unanswered", "models_passing"}  # indexes of what is under way, or has not gone yet
A_SCAN = re.compile(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")


class Asked(list[tuple[str, Any]]):
    """Every statement that SQLite was given, with its values apart: the plan does not know them."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, values: Any = ()) -> "Cursor":
            found.append((sql, values))
            return super().execute(sql, values)

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
            found.append((sql, values))
            return super().execute(sql, values)

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    return found


def scans(folder: Path, asked: Asked) -> Iterator[str]:
    """Yield the tables that grow and were read from end to end, each with the statement."""
    with closing(sqlite3.connect(folder / sqlite.FILE)) as connection:
        for sql, values in list(asked):
            if sql.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE")):
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values):
                    found = A_SCAN.match(step)
                    if found and found[1] in GROWING and found[2] not in SMALL:
                        yield f"{step}: {' '.join(sql.split())}"


COMMANDS = [
    *("runs", "rounds hearts", "models hearts", "models hearts --round 1 --kind local --agent a"),
    "models hearts --last 2",
    *("head", "head hearts"),
    *("agents hearts", "events hearts --round 1", "best hearts --metric accuracy --direction max"),
    *("stats g1", "diff g1 g2", "diff hearts hearts", "lineage g1", "lineage hearts"),
    *("updates hearts --round 1 --last 1", "rounds hearts --last 1", "models hearts --stored"),
    *("prune --keep rounds:1", "prune --keep bytes:1 --run hearts --yes", "prune --keep globals --yes"),
    *("withdraw a", "withdraw a --yes"),
    *("show hearts", "show g1", "show hearts:1", "show hearts:best", "show hearts:last", "show hearts:final"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(folder: Path, asked: Asked, command: str) -> None:
    with ModelStore(folder) as store:
        train(store)
    asked.clear()
    CliRunner().invoke(db, ["-d", str(folder), *command.split()])
    assert asked
    assert list(scans(folder, asked)) == []


def test_models_by_the_beginning_of_their_digest(folder: Path, asked: Asked) -> None:
    with ModelStore(folder) as store:
        train(store)
    with ModelDB(folder) as found:
        digest = found.model("g1").digest
        asked.clear()
        assert found.model(digest[:20]).model_id == "g1"
    assert list(scans(folder, asked)) == []


def _archived(found: ModelDB) -> None:
    """A run that is under way is refused, after the questions that may have to look at much."""
    with pytest.raises(StoreError, match="is running"):
        archive_run(found, found.run(), "x.flrun")


QUESTIONS: list[Callable[[ModelDB], object]] = [
    lambda found: found.heads(),
    lambda found: model_card(found, found.model("g2")),
    _archived,
    lambda found: found.run().updates(),
    lambda found: found.run().updates(1, "a"),
    lambda found: found.run().updates(agent_id="a"),
    lambda found: found.run().updates(kind="train", verdict="accepted", since=0.0, are_outliers=True, last=5),
    lambda found: found.run().models(agent_id="a"),
    lambda found: found.run().models("global", last=2, tag="final", is_stored=True, since=0.0),
    lambda found: found.run().models(tag="final"),
    lambda found: found.run().metrics("train", "loss"),
    lambda found: found.run().metrics(agent_id="a"),
    lambda found: found.run().events(),
    lambda found: found.run().events("update_accepted"),
    lambda found: found.run().effort(),
    lambda found: found.run().curves(),
    lambda found: found.run().curves("train", agents=False),
    lambda found: found.run().timeline(1, 2),
    lambda found: found.run().heat("seconds"),
    lambda found: found.run().heat("distance"),
    lambda found: found.run().lineage(),
    lambda found: found.run().lineage(most=3),
    lambda found: found.model("g1").lineage(),
    lambda found: found.run().standings("loss", "train", "min"),
    lambda found: found.run().compare(found.run()),
    lambda found: found.run().events("update_accepted", 1, "a", 0.0, 5),
    lambda found: found.events(last=5),
    lambda found: found.model("g1").histograms(),
    lambda found: found.model("g1").difference(found.model("g2")),
    lambda found: (found.model("g1").parents, found.model("g1").tags, found.model("g1").metrics()),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_questions(folder: Path, asked: Asked, question: Callable[[ModelDB], object]) -> None:
    with ModelStore(folder) as store:
        train(store)
    asked.clear()
    with ModelDB(folder) as found:
        question(found)
    assert asked
    assert list(scans(folder, asked)) == []


def test_why(folder: Path, asked: Asked) -> None:
    with ModelStore(folder) as store:
        train(store)
    asked.clear()
    for name in ("", "hearts", "site a"):
        explain(folder, name, "", 0.0)
    assert list(scans(folder, asked)) == []


def test_what_the_daemon_does_in_a_round_and_at_its_start(folder: Path, asked: Asked) -> None:
    with ModelStore(folder) as store:
        train(store)
        asked.clear()
        store.snapshots()
        ask(store, 3, "g2")
        store.find_task("t3a")
        store.tasks_beginning("t3", 9)
        store.events("run-1", 9)
        store.milestone("run-1", 1)
        publish(store, 3, [answer(store, 3, "a", 1.0)], 0.5)
    assert list(scans(folder, asked)) == []


@pytest.mark.parametrize("keep", ["rounds", "bytes"])
def test_what_retention_does_after_each_round(folder: Path, asked: Asked, keep: str) -> None:
    settings = RetentionSettings.model_validate({"keep": keep, keep: 1})
    with ModelStore(folder, DatabaseSettings(retention=settings)) as store:
        train(store)
        asked.clear()
        assert store.prune() > 0
    assert list(scans(folder, asked)) == []
