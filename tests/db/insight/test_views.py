"""The views show what the tables have, and changing one is a new version of the schema."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import Fault, ModelStore, migrations, schema, verify_database
from fl_main.db.insight.views import VIEWS
from tests.db.building import RUN_ID, answer_delta, tampering, train


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t1d", "d", 2.0, base="g1")
    return folder


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def test_a_changed_view_is_a_new_version_of_the_schema() -> None:
    """Whoever changes one adds a migration `views`, and says its version here."""
    last = max(version for version, step in enumerate(migrations.MIGRATIONS, 2) if step.name == "views")
    text = "\n".join(view.sql for view in VIEWS)
    assert (last, hashlib.sha256(text.encode()).hexdigest()[:16]) == (10, "9b89df0a9e517471")


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_each_view_has_rows_and_its_columns(trained: Path, view: Any) -> None:
    found = rows(trained, f"SELECT * FROM {view.name}")  # noqa: S608
    assert found
    assert list(found[0]) == list(view.columns)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_each_column_is_documented_or_that_of_a_table(view: Any) -> None:
    for name in view.columns:
        if view.said(name) is None:
            table, _, column = view.expression(name).partition(".")
            assert schema.metadata.tables[table].columns[column].comment


def test_a_view_has_as_many_rows_as_its_table(trained: Path) -> None:
    for view in VIEWS:
        table = {"lineage_view": "parents"}.get(view.name, view.name.removesuffix("_view"))
        where = " WHERE record = 'event' AND run_id <> ''" if table == "events" else ""
        (expected,) = rows(trained, f"SELECT count(*) AS n FROM {table}{where}")  # noqa: S608
        where = " WHERE run IS NOT NULL" if table == "events" else ""
        assert rows(trained, f"SELECT count(*) AS n FROM {view.name}{where}") == [expected]  # noqa: S608


def test_runs(trained: Path) -> None:
    (run,) = rows(trained, "SELECT * FROM runs_view")
    assert (run["run"], run["status"], run["rounds"], run["agents"]) == ("hearts", "running", 2, 2)
    assert (run["deadline_s"], run["created"]) == (1.5, "1970-01-01 00:01:40")


def test_the_best_model_is_told_with_its_round_whatever_failed_before(trained: Path) -> None:
    query = "SELECT best_round, best_model_id FROM runs_view"
    assert rows(trained, query) == [{"best_round": None, "best_model_id": None}]
    with tampering(trained) as connection:  # round 1 failed: the model of round 2 is the run's first one
        connection.execute("UPDATE runs SET best_round = 1, best_model_id = 'g2'")
    assert rows(trained, query) == [{"best_round": 2, "best_model_id": "g2"}]


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ('"fedavg"', "fedavg"),
        (
            '[{"norm_bound":{"bound":1.0}},"trimmed_mean",{"fedadam":{}}]',
            "norm_bound > trimmed_mean > fedadam",
        ),
    ],
)
def test_a_strategy_is_said_in_words(trained: Path, strategy: str, said: str) -> None:
    with tampering(trained) as connection:
        connection.execute("UPDATE runs SET settings = ?", (f'{{"strategy":{strategy}}}',))
    (run,) = rows(trained, "SELECT strategy FROM runs_view")
    assert run == {"strategy": said}


def test_rounds_count_their_updates(trained: Path) -> None:
    found = rows(trained, "SELECT round_id, status, accepted, refused, bytes, seconds FROM rounds_view")
    assert [tuple(row.values()) for row in found] == [
        (0, "done", 0, 0, None, None),
        (1, "done", 3, 0, 180, 0.5),
        (2, "done", 2, 0, 120, 0.5),
    ]


def test_updates_have_names_and_notes(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute("""UPDATE updates SET notes = '{"distance":2.5,"kept":0}' WHERE task_id = 't2a'""")
        connection.execute(
            "UPDATE models SET not_stored_reason = 'gone', is_stored = 0 WHERE model_id = 'm2a'"
        )
    query = "SELECT agent, share, distance, kept, cosine, is_stored, not_stored_reason FROM updates_view"
    assert rows(trained, f"{query} WHERE round_id = 2 ORDER BY agent") == [
        {
            **{"agent": "site a", "share": 0.5, "distance": 2.5, "kept": 0, "cosine": None},
            **{"is_stored": 0, "not_stored_reason": "gone"},
        },
        {
            **{"agent": "site b", "share": 0.5, "distance": None, "kept": None, "cosine": None},
            **{"is_stored": 1, "not_stored_reason": ""},
        },
    ]


@pytest.mark.parametrize("view", ["updates_view", "models_view", "metrics_view"])
def test_whoever_counts_looks_up_no_names(trained: Path, view: str) -> None:
    plan = rows(trained, f"EXPLAIN QUERY PLAN SELECT run, count(*) FROM {view} GROUP BY run")  # noqa: S608
    table = view.removesuffix("_view")
    assert {step["detail"].split()[1] for step in plan if step["detail"][0] == "S"} == {table, "runs"}


def test_an_update_of_an_agent_that_never_joined_is_shown(trained: Path) -> None:
    assert rows(trained, "SELECT agent, agent_id FROM updates_view WHERE task_id = 't1d'") == [
        {"agent": None, "agent_id": "d"}
    ]


def test_lineage_is_the_graph_of_models(trained: Path) -> None:
    query = "SELECT model_id, position, share, parent_id, parent_agent, parent_kind FROM lineage_view"
    found = [tuple(row.values()) for row in rows(trained, f"{query} ORDER BY model_id, position")]
    assert found == [
        ("d-t1d", 0, None, "g1", None, "global"),
        ("g1", 0, 0.5, "m1a", "site a", "local"),
        ("g1", 1, 0.5, "m1b", "site b", "local"),
        ("g2", 0, 0.5, "m2a", "site a", "local"),
        ("g2", 1, 0.5, "m2b", "site b", "local"),
    ]


def test_events_are_taken_apart(trained: Path) -> None:
    query = f"SELECT run, event, round_id, agent_id, actor FROM events_view WHERE run_id = '{RUN_ID}'"  # noqa: S608
    found = [tuple(row.values()) for row in rows(trained, f"{query} ORDER BY seq LIMIT 2")]
    assert found == [
        ("hearts", "run_created", None, None, "ann"),
        ("hearts", "update_accepted", 1, "a", ""),
    ]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("change", ["altered", "missing"])
def test_verify_finds_a_view_that_is_not_as_it_was_made(trained: Path, view: Any, change: str) -> None:
    with tampering(trained) as connection:
        connection.execute(f"DROP VIEW {view.name}")
        if change == "altered":
            connection.execute(view.sql.replace("FROM ", "FROM  ", 1))
    (damage,) = verify_database(trained)
    assert (damage.fault, damage.where) == (Fault.STRUCTURE, f"view {view.name}")


def test_one_run_is_found_by_way_of_indexes(trained: Path) -> None:
    growing = ("updates", "tasks", "models", "child", "parent", "parents", "metrics", "events", "rounds")
    for view in VIEWS:
        if view.name in ("lineage_view", "runs_view"):  # the graph by model, runs are few
            continue
        query = f"EXPLAIN QUERY PLAN SELECT * FROM {view.name} WHERE run = 'hearts'"  # noqa: S608
        steps = [row["detail"] for row in rows(trained, query)]
        assert not [step for step in steps if step.startswith("SCAN") and step.split()[1] in growing], (
            view.name
        )
    query = "EXPLAIN QUERY PLAN SELECT * FROM lineage_view WHERE model_id = 'g1'"
    assert not [row for row in rows(trained, query) if row["detail"].startswith("SCAN")]
