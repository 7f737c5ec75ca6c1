"""`fl db verify` and `fl db head` as people type them."""

import json
from pathlib import Path

import pytest

from fl_main.db import ModelDB, ModelStore
from tests.db.building import RUN, RUN_ID, tampering, train
from tests.db.commands import fl_db


@pytest.fixture
def trained(folder: Path) -> Path:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    return folder


def test_head_prints_what_is_to_be_noted(trained: Path) -> None:
    with ModelDB(trained) as db:
        of_run, over_all = map(str, db.heads())
    head, *rows = (line.split() for line in fl_db("head", "-d", trained).stdout.splitlines())
    assert head == ["run", "events", "note"]
    assert rows == [["hearts", of_run.split(":")[1], of_run], ["all", over_all.split(":")[1], over_all]]
    (only,) = json.loads(fl_db("head", "hearts", "--json", "-d", trained).stdout)
    assert only == {"run": "hearts", "events": int(of_run.split(":")[1]), "note": of_run}
    assert f"of {RUN.name}" not in of_run
    assert of_run.startswith(f"{RUN_ID}:")


def test_history_that_leads_on_is_said_to(trained: Path) -> None:
    with ModelDB(trained) as db:
        notes = [str(note) for note in db.heads()]
    one = fl_db("verify", "-d", trained, "--against", notes[0])
    assert one.stdout == f"{trained}: no damage found, and history leads on from what was noted\n"
    both = fl_db("verify", "-d", trained, "--against", notes[0], "--against", notes[1])
    assert both.stdout == f"{trained}: no damage found, and history leads on from all 2 notes\n"


def test_history_that_was_cut_off_is_told_in_a_line(trained: Path) -> None:
    with ModelDB(trained) as db:
        note, _ = db.heads()
    later = f"{note.run_id}:{note.number + 7}:{note.hash}"
    result = fl_db("verify", "-d", trained, "--against", later)
    assert result.exit_code == 1
    assert result.stdout == (
        f"history of run {RUN_ID}: it ends with event {note.number}, and event {note.number + 7} was noted: "
        "its end was cut off\n"
    )
    assert result.stderr == f"error: {trained}: 1 damage found\n"
    as_json = json.loads(fl_db("verify", "--json", "-d", trained, "--against", later).stdout)
    assert [damage["fault"] for damage in as_json] == ["history"]


def test_what_is_no_note_is_refused_in_a_line(trained: Path) -> None:
    result = fl_db("verify", "-d", trained, "--against", "yesterday")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: 'yesterday' is no head of a history; give a note as `fl db head` prints it, "
        "or the 64 digits of a hash\n"
    )


def test_damage_is_told_though_history_fits(trained: Path) -> None:
    with ModelDB(trained) as db:
        note, _ = db.heads()
    with tampering(trained) as connection:
        connection.execute("UPDATE tags SET tag = 'last'")
    result = fl_db("verify", "-d", trained, "--against", note)
    assert result.exit_code == 1
    assert result.stderr == f"error: {trained}: 2 damages found\n"
