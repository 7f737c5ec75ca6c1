"""A new database, an older one brought up to date, and those that are refused."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from fl_main.db import engine, migrations, verify_database
from fl_main.db.migrations import Migration, migrate, require_readable, version_of
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError


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
        assert version_of(connection, "fl.db") == migrations.newest()
    opened.dispose()
    assert noted(folder) == [(1, "first schema")]
    assert verify_database(folder) == []


def test_an_older_database_is_brought_up_to_date_step_by_step(opened: Engine, folder: Path) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0)
        migrate(connection, "fl.db", 2.0, LATER[:1])
        migrate(connection, "fl.db", 3.0, LATER)
        migrate(connection, "fl.db", 4.0, LATER)  # nothing left to do
        assert version_of(connection, "fl.db") == 3
    opened.dispose()
    assert noted(folder) == [(1, "first schema"), (2, "notes"), (3, "colours")]


def test_a_migration_that_fails_changes_nothing(opened: Engine, folder: Path) -> None:
    with opened.connect() as connection:
        migrate(connection, "fl.db", 1.0)
        with pytest.raises(OSError, match="the machine stopped"):
            migrate(connection, "fl.db", 2.0, (LATER[0], Migration("half", fail)))
        assert version_of(connection, "fl.db") == 2
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
    assert verify_database(folder) == []


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
            version_of(connection, "fl.db")
