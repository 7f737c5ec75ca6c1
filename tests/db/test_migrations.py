"""A new database, an older one brought up to date, and those that are refused."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from fl_main.db import Fault, ModelDB, ModelStore, engine, migrations, verify_database
from fl_main.db.engine import plain
from fl_main.db.files import ModelFiles
from fl_main.db.migrations import Migration, require_readable, version_of
from fl_main.db.upgrade import migrate
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError
from fl_main.settings import RunSettings
from fl_main.store import AgentPast, TaskStatus
from fl_main.weights import pack
from tests.db.building import LAYOUT, answer, publish, stage, tampering, task, weights

VERSION_1 = Path(__file__).with_name("version_1.sql")  # what the first release of the schema wrote


def add_notes(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE notes (text TEXT NOT NULL)")


def add_colour(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE notes ADD COLUMN colour TEXT")


def fail(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE half (x)")
    raise OSError("the machine stopped")


LATER = (Migration("notes", add_notes), Migration("colours", add_colour))


@pytest.fixture
def opened(folder: Path) -> Engine:
    folder.mkdir()
    return engine.writing(folder / "fl.db", "process")


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def noted(folder: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        return connection.execute("SELECT version, name FROM migrations ORDER BY version").fetchall()


def test_a_new_database_is_of_the_newest_version(opened: Engine, folder: Path) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0)
        assert version_of(plain(connection), "fl.db") == migrations.newest()
    opened.dispose()
    assert noted(folder)[:3] == [(1, "first schema"), (2, "asynchronous modes"), (3, "codecs")]
    assert len(noted(folder)) == migrations.newest()
    assert verify_database(folder) == []


def test_an_older_database_is_brought_up_to_date_step_by_step(opened: Engine, folder: Path) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0, ())
        migrate(connection, "fl.db", 2.0, LATER[:1])
        migrate(connection, "fl.db", 3.0, LATER)
        migrate(connection, "fl.db", 4.0, LATER)  # nothing left to do
        assert version_of(plain(connection), "fl.db") == 3
    opened.dispose()
    assert noted(folder) == [(1, "first schema"), (2, "notes"), (3, "colours")]


def test_a_migration_that_fails_changes_nothing(opened: Engine, folder: Path) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0, ())
        with pytest.raises(OSError, match="the machine stopped"):
            migrate(connection, "fl.db", 2.0, (LATER[0], Migration("half", fail)))
        assert version_of(plain(connection), "fl.db") == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    opened.dispose()
    assert "notes" in tables(folder)
    assert "half" not in tables(folder)
    assert noted(folder) == [(1, "first schema"), (2, "notes")]


def test_migrations_are_part_of_the_chain(
    opened: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", LATER)
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0, ())
        migrate(connection, "fl.db", 2.0, LATER)
    opened.dispose()
    monkeypatch.setattr(migrations, "newest", lambda known=LATER: 1 + len(LATER))
    (unknown,) = verify_database(folder)  # what they made is in no schema
    assert (unknown.fault, unknown.where) == (Fault.STRUCTURE, "table notes")


def test_versions_that_cannot_be_read_are_refused_with_what_to_do() -> None:
    require_readable(2, "fl.db", LATER[:1])
    with pytest.raises(StoreVersionError, match=r"version 2, .* knows up to 1; install the newer fl_main"):
        require_readable(2, "fl.db", ())
    with pytest.raises(StoreVersionError, match=r"version 1, .* reads 3; start the aggregator once"):
        require_readable(1, "fl.db", LATER)
    with pytest.raises(StoreError, match="is empty"):
        require_readable(None, "fl.db")


def test_a_database_that_lost_its_version_is_damaged(opened: Engine) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0)
        with connection.begin():
            connection.exec_driver_sql("DELETE FROM meta")
        with pytest.raises(StoreDamagedError, match="does not say which version"):
            version_of(plain(connection), "fl.db")


@pytest.fixture
def of_version_1(folder: Path) -> Path:
    """A run of three agents: round 1 is done without c, which still has its task; a answered in round 2."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        connection.executescript(VERSION_1.read_text())
    for value in (0.0, 1.0, 1.5, 0.5, 2.0):
        data = pack(weights(value), LAYOUT)
        digest = file_digest(LAYOUT, DigestAlgorithm.SHA256)
        digest.update(data)
        path = ModelFiles(folder, DigestAlgorithm.SHA256).path(tagged(digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LAYOUT.header + data)
    return folder


def schema_of(folder: Path) -> dict[str, str]:
    """Return the SQL of each table and index; quotes and white space mean nothing."""
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: " ".join(sql.replace('"', "").split()) for name, sql in found}


def rows_of(folder: Path, table: str) -> list[dict[str, object]]:
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid")]  # noqa: S608


def test_a_migrated_database_has_the_schema_of_a_new_one(of_version_1: Path, tmp_path: Path) -> None:
    before = schema_of(of_version_1)
    ModelStore(of_version_1).close()
    ModelStore(tmp_path / "new").close()
    assert schema_of(of_version_1) == schema_of(tmp_path / "new") != before


def test_steps_may_be_taken_with_years_between_them(of_version_1: Path, tmp_path: Path) -> None:
    for known in range(1, migrations.newest()):
        opened = engine.writing(of_version_1 / "fl.db", "process")
        with opened.connect() as connection:
            migrate(connection, "fl.db", 100.0 + known, migrations.MIGRATIONS[:known])
        opened.dispose()
    ModelStore(tmp_path / "new").close()
    assert schema_of(of_version_1) == schema_of(tmp_path / "new")
    assert verify_database(of_version_1) == []


def test_a_migration_loses_no_row_and_keeps_their_order(of_version_1: Path) -> None:
    tables_of_runs = sorted(tables(of_version_1) - {"meta", "migrations", "sqlite_sequence"})
    before = {table: rows_of(of_version_1, table) for table in tables_of_runs}
    ModelStore(of_version_1).close()
    after = {table: rows_of(of_version_1, table) for table in tables_of_runs}
    done = [event["key"] for event in after["events"][len(before["events"]) :]]
    assert done == [""] * len(migrations.MIGRATIONS)  # that each was done
    after["events"] = after["events"][: len(before["events"])]
    assert [row["update_id"] for row in before["updates"]] == [1, 2, 5]
    before["updates"] = [{**row, "update_id": n} for n, row in enumerate(before["updates"], 1)]  # no gaps
    for table, old_rows in before.items():
        new_rows = after[table]
        assert [
            {name: row[name] for name in old} for old, row in zip(old_rows, new_rows, strict=True)
        ] == old_rows


def test_a_run_of_an_older_version_goes_on_where_it_was(of_version_1: Path) -> None:
    with ModelStore(of_version_1) as store:
        assert store.damages == []
        (snapshot,) = store.snapshots()
        assert (snapshot.run.round_id, snapshot.run.model_id) == (2, "g1")
        assert {task.task_id: task.status for task in snapshot.tasks} == {
            "t1c": TaskStatus.LATE,
            "t2a": TaskStatus.ANSWERED,
            "t2b": TaskStatus.OPEN,
        }
        assert snapshot.step is not None
        assert (snapshot.step.enough, snapshot.step.usual_s) == (0, None)
        assert {model.form for model in snapshot.models.values()} == {"full"}
        assert snapshot.past["a"] == AgentPast(2, 2.0, ())  # how long it took was not kept
        publish(store, 2, [*snapshot.updates, answer(store, 2, "b", 2.5)], 0.25)
    with ModelDB(of_version_1) as db:
        assert [round.status for round in db.run().rounds()] == ["done", "done", "done"]
    assert verify_database(of_version_1) == []


@pytest.mark.parametrize(("late", "mode"), [("discard", "sync"), ("count", "semi-sync")])
def test_the_settings_of_an_older_run_mean_what_they_meant(late: str, mode: str) -> None:
    older = {
        "name": "hearts",
        "strategy": "fedavg",
        "round": {"quorum": 0.5, "deadline_s": 60.0, "late_updates": late, "max_failed_rounds": 3},
        "cohort": {"rule": "all", "fraction": 1.0, "number": 10},
        "evaluate": {"every": 1, "deadline_s": 120.0},
    }
    found = RunSettings.stored(older)
    assert (found.mode, found.round.quorum, found.round.buffer) == (mode, 0.5, None)
    assert found.staleness.discount == ("none" if late == "count" else "polynomial")
    assert RunSettings.stored(found.model_dump(mode="json")) == found


def test_after_a_migration_nothing_is_damaged_and_new_forms_can_be_stored(of_version_1: Path) -> None:
    with ModelStore(of_version_1) as store:
        found = store.find_model("m2a")
        assert found is not None
        delta = replace(found, model_id="d", payload=stage(store, "d", 9.0), form="delta")
        store.commit([delta, task("t2b", "b", 2, config={"epochs": 1})], 200.0)
        assert store.find_model("d") == replace(delta, payload=replace(delta.payload, staged=None))
    assert verify_database(of_version_1) == []


@pytest.mark.parametrize(
    ("sql", "where"),
    [
        ("UPDATE tasks SET config = '{\"epochs\":1}' WHERE task_id = 't1a'", "tasks t1a"),
        ("UPDATE tasks SET config = '{}' WHERE task_id = 't2b'", "tasks t2b"),
        ("UPDATE rounds SET idle_s = 1 WHERE round_id = 1", "rounds 1"),
        ("UPDATE agents SET poll_s = 60 WHERE agent_id = 'a'", "agents a"),
        ("UPDATE models SET form = 'delta' WHERE model_id = 'm1a'", "models m1a"),
        ("UPDATE models SET codec = 'float16' WHERE model_id = 'm1a'", "models m1a"),
        ("UPDATE updates SET plain_size = 9 WHERE task_id = 't1a'", "updates "),
        ("UPDATE updates SET saved_bytes = 9 WHERE task_id = 't1a'", "updates "),
    ],
)
def test_what_a_migration_added_cannot_be_altered_unseen(of_version_1: Path, sql: str, where: str) -> None:
    with ModelStore(of_version_1) as store:
        store.commit([task("t2b", "b", 2, config={"epochs": 1})], 200.0)
    with tampering(of_version_1) as connection:
        assert connection.execute(sql).rowcount == 1
    (damage,) = verify_database(of_version_1)
    assert damage.fault is Fault.ROW_ALTERED
    assert damage.where.startswith(where)
    assert damage.where.endswith(" of run run-1")


def test_an_older_database_is_not_read_before_it_is_brought_up_to_date(of_version_1: Path) -> None:
    with pytest.raises(
        StoreVersionError, match=rf"version 1, .* reads {migrations.newest()}; start the aggregator once"
    ):
        ModelDB(of_version_1)
    with pytest.raises(StoreVersionError, match="version 1"):
        verify_database(of_version_1)
