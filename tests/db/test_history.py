"""A head that was noted elsewhere tells what a database cannot tell of itself."""

import sqlite3
from pathlib import Path

import pytest

from fl_main.db import Fault, ModelDB, ModelStore, chain, verify_database
from fl_main.db.history import ALL, Note
from fl_main.errors import StoreError
from fl_main.store import EventRecord
from tests.db.building import RUN_ID, answer, ask, begin, publish, tampering, train


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    return folder


def noted(folder: Path) -> list[str]:
    with ModelDB(folder) as db:
        return [str(note) for note in db.heads()]


def go_on(folder: Path) -> None:
    with ModelStore(folder) as store:
        ask(store, 2, "g1")
        publish(store, 2, [answer(store, 2, name, 1.5) for name in "ab"], 0.25)


def histories(folder: Path, against: list[str]) -> list[str]:
    """What is said of noted heads; nothing else may be wrong."""
    found = verify_database(folder, against=against)
    assert {damage.fault for damage in found} <= {Fault.HISTORY}
    return [str(damage) for damage in found]


def rewrite(connection: sqlite3.Connection, change: str, values: tuple[object, ...] = ()) -> None:
    """Alter the facts of events, and make every hash after them fit."""
    connection.create_function("replaced", 3, lambda text, old, new: text.replace(old, new))
    connection.execute(change, values)
    heads: dict[str, chain.Head] = {}
    events = "SELECT event_id, run_id, seq, at, record, key, facts FROM events ORDER BY event_id"
    for event_id, run_id, seq, at, record, key, facts in connection.execute(events).fetchall():
        head = heads.get(run_id, chain.Head())
        found = chain.link(head.hash, run_id, seq, at, record, key, facts)
        connection.execute("UPDATE events SET hash = ? WHERE event_id = ?", (found, event_id))
        heads[run_id] = chain.Head(seq, found)


def forge(folder: Path) -> None:
    """Somebody who may write everything lets an update say other numbers, and all that hangs on it."""
    with tampering(folder) as connection:
        connection.execute("UPDATE updates SET num_examples = 99 WHERE task_id = 't1a'")
        rewrite(
            connection,
            """UPDATE events SET facts = replaced(facts, '"num_examples":10', '"num_examples":99')
            WHERE record = 'update' AND key LIKE '%t1a%'""",
        )


def cut_off(folder: Path, number: int) -> None:
    """Somebody takes the latest events away, with all that tells of them."""
    with tampering(folder) as connection:
        connection.execute("DELETE FROM events WHERE event_id > ?", (number,))
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'events'", (number,))


def test_a_head_is_noted_for_each_run_and_over_all(trained: Path) -> None:
    one, over_all = noted(trained)
    with ModelDB(trained) as db, db.connect() as connection:
        head = chain.head_of(connection, RUN_ID)
        own = chain.head_of(connection, "")
    assert one == f"{RUN_ID}:{head.seq}:{head.hash}"
    assert over_all.split(":")[:2] == [ALL, str(head.seq + own.seq)]


def test_a_new_database_has_a_head_too(folder: Path) -> None:
    ModelStore(folder).close()
    (over_all,) = noted(folder)
    assert over_all.startswith("all:1:")
    assert histories(folder, [over_all]) == []


def test_history_that_goes_on_leads_on_from_what_was_noted(trained: Path) -> None:
    before = noted(trained)
    go_on(trained)
    hash_alone = before[0].rpartition(":")[2]
    assert histories(trained, [*before, *noted(trained), hash_alone, f"  {before[0]}\n"]) == []


def test_any_event_may_be_what_was_noted(trained: Path) -> None:
    with ModelDB(trained) as db, db.connect() as connection:
        events = connection.execute("SELECT seq, hash FROM events WHERE run_id = ?", (RUN_ID,)).fetchall()
    assert histories(trained, [f"{RUN_ID}:{seq}:{found}" for seq, found in events]) == []


def test_history_that_was_written_anew_is_found_by_what_was_noted_alone(trained: Path) -> None:
    of_run, over_all = noted(trained)
    go_on(trained)
    forge(trained)
    assert verify_database(trained) == []  # every hash fits, every row says what its event says
    for note, number in ((of_run, of_run.split(":")[1]), (over_all, over_all.split(":")[1])):
        (said,) = histories(trained, [note])
        assert said.endswith(f"up to event {number} it is not what was noted: it was written anew")
    (said,) = histories(trained, [of_run.rpartition(":")[2]])
    assert "history was written anew or cut off since" in said


def test_what_was_noted_before_the_change_still_fits(trained: Path) -> None:
    with ModelDB(trained) as db, db.connect() as connection:
        query = "SELECT min(seq) - 1 FROM events WHERE record = 'update' AND run_id = ?"
        (before,) = connection.execute(query, (RUN_ID,)).fetchone()
        query = "SELECT hash FROM events WHERE run_id = ? AND seq = ?"
        (early,) = connection.execute(query, (RUN_ID, before)).fetchone()
    forge(trained)
    assert histories(trained, [f"{RUN_ID}:{before}:{early}"]) == []


def test_history_that_was_cut_off_is_found_by_what_was_noted_alone(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([EventRecord(RUN_ID, "run_paused", actor="ann")], 110.0)
        store.commit([EventRecord(RUN_ID, "run_resumed", actor="bob")], 111.0)
    of_run, over_all = noted(folder)
    number = int(over_all.split(":")[1])
    cut_off(folder, number - 2)
    assert verify_database(folder) == []  # no row said anything of them
    last = int(of_run.split(":")[1])
    assert histories(folder, [of_run]) == [
        f"history of run {RUN_ID}: it ends with event {last - 2}, and event {last} was noted: "
        "its end was cut off"
    ]
    (said,) = histories(folder, [over_all])
    assert said.startswith(f"history: it ends with event {number - 2}, and event {number} was noted")


def test_a_database_made_anew_and_grown_beyond_the_number_is_another(trained: Path, tmp_path: Path) -> None:
    before = noted(trained)
    other = tmp_path / "other"
    with ModelStore(other) as store:
        store.commit([EventRecord(None, "warm_up")], 1.0)
        train(store, rounds=3)
    (said,) = histories(other, before)  # that of the run is the same, event for event
    assert said.startswith("history: up to event")


def test_the_order_of_two_runs_is_part_of_the_head_over_all(trained: Path) -> None:
    with ModelStore(trained) as store:
        store.commit([EventRecord("", "one"), EventRecord(RUN_ID, "two")], 300.0)
    over_all = noted(trained)[-1]
    number = int(over_all.split(":")[1])
    with ModelStore(trained) as store:
        store.commit([EventRecord("", "three")], 301.0)
    with tampering(trained) as connection:  # two events of different runs change places
        for old, new in ((number, -1), (number + 1, number), (-1, number + 1)):
            connection.execute("UPDATE events SET event_id = ? WHERE event_id = ?", (new, old))
    assert verify_database(trained) == []
    assert len(histories(trained, [over_all])) == 1


@pytest.mark.parametrize(
    "text", ["", "abc", "run-1:5", "run-1:x:" + "0" * 64, "0" * 63, "run-1:5:" + "G" * 64]
)
def test_what_is_no_head_is_refused(trained: Path, text: str) -> None:
    with pytest.raises(StoreError, match="is no head of a history; give a note as `fl db head` prints it"):
        verify_database(trained, against=[text])


def test_a_note_is_read_as_it_was_written() -> None:
    text = "run-1:5:" + "0" * 64
    assert str(Note.parse(text)) == text
    assert str(Note.parse("0" * 64)) == "0" * 64
