"""Every damage is found and named, one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_main.db import Fault, ModelDB, ModelStore, verify_database
from fl_main.db.audit import Damage
from fl_main.errors import StoreError
from fl_main.store import EventRecord
from tests.db.building import RUN_ID, begin, tampering, train


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store)
    assert verify_database(folder) == []
    return folder


def only(found: list[Damage]) -> tuple[Fault, str]:
    (damage,) = found
    return damage.fault, damage.where


ALTERED = [
    ("UPDATE runs SET status = 'finished'", f"runs {RUN_ID}"),
    ("UPDATE runs SET settings = '{}'", f"runs {RUN_ID}"),
    ("UPDATE runs SET name = 'other'", f"runs {RUN_ID}"),
    ("UPDATE runs SET created_at = created_at - 1", f"runs {RUN_ID}"),
    ("UPDATE rounds SET model_id = 'g1' WHERE round_id = 2", f"rounds 2 of run {RUN_ID}"),
    ("UPDATE rounds SET ended_s = ended_s + 1 WHERE round_id = 1", f"rounds 1 of run {RUN_ID}"),
    ("UPDATE steps SET rule = 'none' WHERE round_id = 1", f'steps [1,"train",0] of run {RUN_ID}'),
    ("UPDATE steps SET changed_at = 0 WHERE round_id = 1", f'steps [1,"train",0] of run {RUN_ID}'),
    ("UPDATE tasks SET seed = seed - 1 WHERE task_id = 't1a'", f"tasks t1a of run {RUN_ID}"),
    ("UPDATE models SET agent_id = 'b' WHERE model_id = 'm1a'", f"models m1a of run {RUN_ID}"),
    ("UPDATE parents SET share = 0.6 WHERE model_id = 'g1' AND position = 0", f"models g1 of run {RUN_ID}"),
    ("DELETE FROM parents WHERE model_id = 'g1' AND position = 1", f"models g1 of run {RUN_ID}"),
    ("INSERT INTO parents VALUES ('m1a', 0, 'initial', NULL)", f"models m1a of run {RUN_ID}"),
    ("UPDATE tags SET model_id = 'g1'", f"tags final of run {RUN_ID}"),
    (
        "UPDATE metrics SET value = 0.99 WHERE model_id = 'g1' AND name = 'accuracy'",
        f'metrics [1,"g1","evaluate","","accuracy"] of run {RUN_ID}',
    ),
    ("UPDATE agents SET name = 'elsewhere' WHERE agent_id = 'a'", f"agents a of run {RUN_ID}"),
    ("UPDATE agents SET joined_at = 0 WHERE agent_id = 'b'", f"agents b of run {RUN_ID}"),
    ("UPDATE agents SET left_at = 5 WHERE agent_id = 'b'", f"agents b of run {RUN_ID}"),
    ("UPDATE meta SET value = 'someone' WHERE key = 'made_by'", "meta made_by"),
    ("INSERT INTO meta VALUES ('more', '1')", "meta more"),
    ("UPDATE migrations SET name = 'x' WHERE version = 1", "migrations"),
]


@pytest.mark.parametrize(("sql", "where"), ALTERED, ids=[sql for sql, _ in ALTERED])
def test_an_altered_row_is_found(trained: Path, sql: str, where: str) -> None:
    with tampering(trained) as connection:
        assert connection.execute(sql).rowcount == 1
    assert only(verify_database(trained)) == (Fault.ROW_ALTERED, where)


@pytest.mark.parametrize(
    "column", ["verdict = 'rejected'", "num_examples = 1000", "share = 0.9", "received_at = 1"]
)
def test_an_altered_update_is_found(trained: Path, column: str) -> None:
    with tampering(trained) as connection:
        connection.execute(f"UPDATE updates SET {column} WHERE task_id = 't1a'")  # noqa: S608
    fault, where = only(verify_database(trained))
    assert fault is Fault.ROW_ALTERED
    assert "t1a" in where


@pytest.mark.parametrize("table", ["rounds", "steps", "tasks", "updates", "tags", "metrics", "agents"])
def test_a_deleted_row_is_found(trained: Path, table: str) -> None:
    with tampering(trained) as connection:
        sql = f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})"  # noqa: S608
        assert connection.execute(sql).rowcount == 1
    fault, where = only(verify_database(trained))
    assert fault is Fault.ROW_MISSING
    assert where.startswith(table)


def test_a_deleted_model_is_found_with_all_that_names_it(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute("DELETE FROM models WHERE model_id = 'g1'")
    found = {(damage.fault, damage.where) for damage in verify_database(trained)}
    assert (Fault.ROW_MISSING, f"models g1 of run {RUN_ID}") in found
    assert (Fault.ROW_UNKNOWN, "parents of g1") in found
    assert Fault.REFERENCE in {fault for fault, _ in found}


def test_an_inserted_row_is_found(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute(
            "INSERT INTO tags (run_id, tag, model_id, created_at, changed_at) VALUES (?, 'best', 'g1', 1, 1)",
            (RUN_ID,),
        )
    assert only(verify_database(trained)) == (Fault.ROW_UNKNOWN, f"tags best of run {RUN_ID}")


def test_a_row_that_cannot_be_read_is_found(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute("UPDATE tasks SET kind = 'dance' WHERE task_id = 't1a'")
    faults = {damage.fault for damage in verify_database(trained)}
    assert Fault.DATABASE in faults or Fault.ROW_ALTERED in faults


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE events SET facts = replace(facts, '0.5', '0.6') WHERE {}", "the chain breaks"),
        ("UPDATE events SET at = at + 1 WHERE {}", "the chain breaks"),
        ("UPDATE events SET hash = 'x' WHERE {}", "the chain breaks"),
        ("UPDATE events SET key = 'g2' WHERE {}", "the chain breaks"),
        ("DELETE FROM events WHERE {}", "events are missing"),
    ],
)
def test_an_altered_history_is_found_with_its_place(trained: Path, sql: str, words: str) -> None:
    first_count = """SELECT min(seq) FROM events WHERE facts LIKE '%"share":0.5%'"""
    with tampering(trained) as connection:
        (seq,) = connection.execute(first_count).fetchone()
        where = f"run_id = '{RUN_ID}' AND seq = {seq}"
        assert connection.execute(sql.format(where)).rowcount == 1
    (damage,) = (found for found in verify_database(trained) if found.fault is Fault.CHAIN)
    place = seq + 1 if "DELETE" in sql else seq
    assert damage.where == f"chain of run {RUN_ID} at seq {place}"
    assert words in damage.what


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET at = 'noon' WHERE run_id = 'run-1' AND seq = 3",
        "UPDATE events SET facts = CAST(facts AS BLOB) WHERE run_id = 'run-1' AND seq = 3",
        "UPDATE events SET facts = CAST(x'ff' AS TEXT) WHERE run_id = 'run-1' AND seq = 3",
        f"UPDATE events SET facts = '{NESTED}' WHERE record = 'event'",  # noqa: S608
        """UPDATE events SET facts = '{"kind":"database_created"}' WHERE run_id = ''""",
        f"UPDATE runs SET settings = '{NESTED}'",  # noqa: S608
        f"UPDATE layouts SET arrays = '{NESTED}'",  # noqa: S608
        """UPDATE agents SET attributes = '{"a":"\\ud800"}'""",
        "UPDATE agents SET name = CAST(x'ff' AS TEXT)",
        "UPDATE tasks SET version = 9e999",
        "UPDATE sqlite_sequence SET seq = 'x'",
        "ALTER TABLE steps DROP COLUMN usual_s",
        "DROP TABLE tags",
    ],
)
def test_whatever_a_value_became_it_is_named(trained: Path, sql: str) -> None:
    """Also what cannot be read is a damage, and no reason to say nothing of all others."""
    with tampering(trained) as connection:
        connection.execute(sql)
        connection.execute("UPDATE metrics SET value = 7.0")
    damages = verify_database(trained)
    assert len(damages) > 1
    assert not any("\n" in str(damage) for damage in damages)


def test_events_removed_from_the_end_with_their_rows_left_are_found(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute(
            "DELETE FROM events WHERE run_id = ? AND seq = (SELECT max(seq) FROM events WHERE run_id = ?)",
            (RUN_ID, RUN_ID),
        )
    assert {(damage.fault, damage.where) for damage in verify_database(trained)} == {
        (Fault.ROW_MISSING, "events"),
        (Fault.ROW_ALTERED, f"runs {RUN_ID}"),
    }


def test_an_altered_layout_is_found(trained: Path) -> None:
    with tampering(trained) as connection:
        connection.execute("""UPDATE layouts SET arrays = replace(arrays, '"bias"', '"bios"')""")
    assert {damage.fault for damage in verify_database(trained)} == {Fault.ROW_ALTERED}


@pytest.mark.parametrize("change", ["size = 1", "is_stored = 0"])
def test_an_altered_row_of_a_file_is_found(trained: Path, change: str) -> None:
    with ModelDB(trained) as db:
        digest = db.model("g1").digest
    with tampering(trained) as connection:
        connection.execute(f"UPDATE files SET {change} WHERE digest = ?", (digest,))  # noqa: S608
    assert (Fault.ROW_ALTERED, f"files {digest}") in {(d.fault, d.where) for d in verify_database(trained)}


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def blank(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def swap(path: Path) -> None:
    other = next(found for found in path.parent.parent.glob("??/*") if found != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (flip_a_bit, {Fault.FILE_ALTERED}),
        (cut, {Fault.FILE_SIZE}),
        (swap, {Fault.FILE_ALTERED}),
        (blank, {Fault.FILE_UNREADABLE, Fault.FILE_ALTERED}),
        (Path.unlink, {Fault.FILE_MISSING}),
    ],
    ids=["a flipped bit", "cut off", "swapped", "blank", "missing"],
)
def test_a_damaged_file_is_found(trained: Path, damage: Callable[[Path], None], faults: set[Fault]) -> None:
    with ModelDB(trained) as db:
        path = db.model("m2b").path
    damage(path)
    found = verify_database(trained)
    assert {entry.fault for entry in found} == faults
    assert {entry.where for entry in found} == {f"file {path}"}


def test_a_file_that_cannot_be_opened_is_found(trained: Path) -> None:
    with ModelDB(trained) as db:
        path = db.model("m2b").path
    path.unlink()
    path.mkdir()
    assert only(verify_database(trained)) == (Fault.FILE_UNREADABLE, f"file {path}")


def test_a_file_that_no_record_names_is_found(trained: Path) -> None:
    extra = trained / "models" / "extra.safetensors"
    extra.write_text("?")
    assert only(verify_database(trained)) == (Fault.FILE_UNKNOWN, f"file {extra}")


def test_staged_files_are_no_damage(trained: Path) -> None:
    (trained / "models" / ".staging" / "t3a.weights").write_bytes(b"on its way")
    assert verify_database(trained) == []


def test_a_damaged_database_is_named(trained: Path) -> None:
    size = (trained / "fl.db").stat().st_size
    with (trained / "fl.db").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096)
    assert Fault.DATABASE in {damage.fault for damage in verify_database(trained)}


def test_progress_ends_with_all_bytes_read(trained: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify_database(trained, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == 7 * 60
    assert len(seen) == 7


def test_without_a_database_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        verify_database(tmp_path / "nothing")


def test_a_long_history_is_verified_in_pieces(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([EventRecord(RUN_ID, "tick", details={"n": n}) for n in range(3000)], 110.0)
        assert verify_database(folder) == []
