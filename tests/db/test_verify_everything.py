"""Every row of every table, every column of every row, every file: altered or taken away, one by one."""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore, schema, verify_database
from fl_main.errors import StoreError
from fl_main.store import EventRecord, ModelKind, Verdict
from tests.db.building import (
    RUN_ID,
    agent,
    answer_delta,
    ask,
    metric,
    model,
    stage,
    tampering,
    train,
    update,
)

COLUMNS = [(table.name, column.name) for table in schema.ORDER for column in table.columns]
TABLES = [table.name for table in schema.ORDER]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which each table has rows, and each column that may be empty is filled somewhere."""
    folder = tmp_path_factory.mktemp("made") / "models"
    with ModelStore(folder) as store:
        train(store, agents="abc")
        answer_delta(store, "t1d", "d", 2.0, base="g1")
        left = replace(agent("e", is_present=False), poll_s=60.0, outlying=2, quarantined="odd")
        refused = update("t9", "e", -1, verdict=Verdict.REJECTED, reason="no such task", num_steps=3)
        channel = model("s", stage(store, "s", 4.0, "control"), 2, ModelKind.STATE)
        store.commit([left, refused, channel, metric("g2", 2, "accuracy", float("nan"), "a")], 200.0)
        ask(store, 3, "g2")
        store.commit([EventRecord(RUN_ID, "run_paused", 3, actor="ann", details={"why": "lunch"})], 210.0)
    assert verify_database(folder) == []
    return folder


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "models")
    return tmp_path / "models"


def is_found(folder: Path) -> bool:
    """Whether the damage is named: among others, or as the reason why it cannot be read at all."""
    try:
        return bool(verify_database(folder))
    except StoreError:
        return True


def others(value: Any) -> Iterator[Any]:
    """Yield what may stand in a value's place after a slip or a lie."""
    if value is None:
        yield from (1, "x")
    elif isinstance(value, str):
        yield from (value + "x", value.upper() if value != value.upper() else value.lower(), "", None)
        if value[:1] in ("{", "["):
            yield value[0] + " " + value[1:]  # the same, to whoever reads it
    else:
        yield from (value + 1, value - 1, value * 2 + 5, -value - 1, None)


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[".".join(names) for names in COLUMNS])
def test_each_altered_value_is_found(damaged: Path, table: str, column: str) -> None:
    values = f'SELECT rowid, "{column}" FROM {table}'  # noqa: S608
    change = f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?'  # noqa: S608
    with tampering(damaged) as connection:
        before = dict(connection.execute(values).fetchall())
    assert before
    one_of_each = {repr(value): row for row, value in before.items()}  # a value says what may stand for it
    tried = 0
    for row in list(one_of_each.values())[:6]:
        for other in dict.fromkeys(others(before[row])):
            if other == before[row] or (other is None and before[row] is None):
                continue
            with tampering(damaged) as connection:
                try:
                    connection.execute(change, (other, row))
                except (sqlite3.IntegrityError, OverflowError):
                    continue  # SQLite does not have it: two rows of one key, a row of none
                now = connection.execute(f"{values} WHERE rowid = ?", (row,)).fetchone()
            assert is_found(damaged), f"{table}.{column} {before[row]!r} -> {other!r} is not seen"
            tried += 1
            back = (before[row], row) if now else (before[row], other)  # its number was altered
            with tampering(damaged) as connection:
                assert connection.execute(change, back).rowcount == 1
    assert tried
    assert verify_database(damaged) == []


@pytest.mark.parametrize("table", [*TABLES, "sqlite_sequence"])
def test_each_deleted_row_is_found(damaged: Path, table: str) -> None:
    whole = (damaged / "fl.db").read_bytes()
    with tampering(damaged) as connection:
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]  # noqa: S608
    assert rows
    for row in rows:
        with tampering(damaged) as connection:
            sql = f"DELETE FROM {table} WHERE rowid = ?"  # noqa: S608
            assert connection.execute(sql, (row,)).rowcount == 1
        assert is_found(damaged), f"row {row} of {table} is not missed"
        (damaged / "fl.db").write_bytes(whole)


@pytest.mark.parametrize("table", TABLES)
def test_a_copied_row_is_found(damaged: Path, table: str) -> None:
    """Under a new key, where the table asks for one."""
    keys = [column.name for column in schema.metadata.tables[table].columns][:2]
    with tampering(damaged) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute(f"SELECT * FROM {table} ORDER BY rowid DESC").fetchone())  # noqa: S608
        for key in keys:
            row[key] = row[key] + ("x" if isinstance(row[key], str) else 1)
        places = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} VALUES ({places})", list(row.values()))  # noqa: S608
    assert is_found(damaged)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP INDEX updates_accepted_once",
        "CREATE TABLE notes (text TEXT)",
        "CREATE INDEX mine ON updates (share)",
        "CREATE TRIGGER lie AFTER INSERT ON updates BEGIN DELETE FROM tags; END",
        "ALTER TABLE tags ADD COLUMN colour TEXT",
        "DROP TABLE tags",
        "CREATE VIEW mine AS SELECT * FROM runs",
    ],
)
def test_an_altered_structure_is_found(damaged: Path, sql: str) -> None:
    with tampering(damaged) as connection:
        connection.execute(sql)
    assert is_found(damaged)


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "models").glob("??/*.safetensors"))


def test_a_flipped_bit_in_any_file_is_found(damaged: Path) -> None:
    for path in files_of(damaged):
        whole = path.read_bytes()
        for place in (0, 9, len(whole) // 2, len(whole) - 1):  # length, header, arrays
            for bit in (0, 7):
                data = bytearray(whole)
                data[place] ^= 1 << bit
                path.write_bytes(data)
                found = verify_database(damaged)
                assert {damage.where for damage in found} == {f"file {path}"}, (path, place, bit)
        path.write_bytes(whole)
    assert verify_database(damaged) == []


def test_any_missing_file_is_found(damaged: Path) -> None:
    for path in files_of(damaged):
        whole = path.read_bytes()
        path.unlink()
        assert [damage.where for damage in verify_database(damaged)] == [f"file {path}"]
        path.write_bytes(whole)


def test_any_two_exchanged_files_are_found(damaged: Path) -> None:
    for one, other in combinations(files_of(damaged), 2):
        exchange(one, other)
        assert {damage.where for damage in verify_database(damaged)} == {f"file {one}", f"file {other}"}
        exchange(one, other)
    assert verify_database(damaged) == []


def exchange(one: Path, other: Path) -> None:
    held = one.with_suffix(".held")
    one.rename(held)
    other.rename(one)
    held.rename(other)


@pytest.mark.parametrize("value", ["sha256", "md5"])
def test_another_algorithm_of_digests_is_found(damaged: Path, value: str) -> None:
    with tampering(damaged) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'digest_algorithm'", (value,))
    assert is_found(damaged)
