"""Pruning by hand: what would go is told first, and what something needs never goes."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.cli import db as fl_db
from fl_main.db.upkeep import prune as module
from fl_main.db.upkeep.prune import Going, Keep, plan_prune, prune
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.errors import SettingsError, StoreError
from fl_main.store import TagRecord, TaskStatus
from tests.db.building import LAYOUT, RUN, RUN_ID, answer, ask, model, publish, stage, task, train
from tests.db.recording import record

SIZE = LAYOUT.nbytes


def stored_ids(folder: Path, run: str | None = None) -> set[str]:
    with ModelDB(folder) as db:
        return {found.model_id for found in db.run(run).models() if found.is_stored}


def files(folder: Path) -> int:
    return len(list((folder / "models").glob("??/*.safetensors")))


@pytest.fixture
def hearts(folder: Path) -> Iterator[Path]:
    """Three rounds of two agents, in a database that a daemon has open."""
    with ModelStore(folder) as store:
        train(store, rounds=3)
        yield folder


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rounds", "limit"),
    [
        ("globals", 0, 0),
        ("rounds:5", 5, 0),
        ("bytes:10GB", 0, 10**10),
        ("bytes:1.5 GiB", 0, 3 * 2**29),
        ("bytes:100", 0, 100),
        ("bytes:20k", 0, 20_000),
    ],
)
def test_policies_in_words(text: str, rounds: int, limit: int) -> None:
    keep = Keep.parse(text)
    assert (keep.rounds, keep.bytes) == (rounds, limit)
    assert keep.keep == ("bytes" if limit else "rounds")


@pytest.mark.parametrize(
    "text", ["", "all", "rounds", "rounds:-1", "rounds:x", "bytes:", "bytes:10XB", "local"]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give globals, rounds:5 or bytes:10GB"):
        Keep.parse(text)


# --- what goes ----------------------------------------------------------------------------------


def test_what_would_go_is_told_and_nothing_is_done(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        found = plan_prune(db, Keep.parse("rounds:2"))
    assert found.going == (Going("hearts", "local", 2, 2, 2 * SIZE),)
    assert (found.is_done, found.files, found.size, found.needed) == (False, 2, 2 * SIZE, 0)
    assert files(hearts) == 10
    assert {"m1a", "m1b"} <= stored_ids(hearts)


def test_what_was_told_is_what_is_done(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        told = plan_prune(db, Keep.parse("rounds:2"))
        done = prune(db, Keep.parse("rounds:2"))
        assert done == replace(told, is_done=True)
        with pytest.raises(StoreError, match="m1a is not stored: deleted by fl db prune --keep rounds:2"):
            db.model("m1a").weights()
        [event] = db.run().events("models_pruned")
        assert event.details == {"keep": "rounds:2", "files": 2, "size": 2 * SIZE}
        assert prune(db, Keep.parse("rounds:2")).files == 0
        assert len(db.run().events("models_pruned")) == 1  # nothing was done, nothing is noted
    assert stored_ids(hearts) == {"initial", "g1", "g2", "g3", "m2a", "m2b", "m3a", "m3b"}
    assert files(hearts) == 8
    assert verify_database(hearts) == []


def test_globals_only(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        assert prune(db, Keep.parse("globals")).files == 6
    assert stored_ids(hearts) == {"initial", "g1", "g2", "g3"}
    assert verify_database(hearts) == []


def test_up_to_so_many_bytes_the_oldest_go(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        assert prune(db, Keep.parse(f"bytes:{3 * SIZE}")).files == 3
    assert {name for name in stored_ids(hearts) if name.startswith("m")} == {"m2b", "m3a", "m3b"}


def test_only_the_runs_that_are_named(folder: Path) -> None:
    with ModelStore(folder) as store:
        record(store, name="hearts", rounds=1)
        record(store, name="lungs", rounds=2)
    with ModelDB(folder) as db:
        before = stored_ids(folder, "hearts")
        found = prune(db, Keep.parse("globals"), ["lungs"])
        assert [(group.run, group.kind) for group in found.going] == [("lungs", "local")]
        with pytest.raises(StoreError, match="there is no run 'livers'"):
            plan_prune(db, Keep.parse("globals"), ["livers"])
    assert stored_ids(folder, "hearts") == before
    assert verify_database(folder) == []


def test_what_something_needs_stays_and_is_counted(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
        ask(store, 3, "g2")
        waiting = answer(store, 3, "a", 9.0)  # not counted yet
        tagged = model("tagged", stage(store, "tagged", 50.0))
        base = model("base", stage(store, "base", 51.0))
        of_late = task("late", "b", status=TaskStatus.LATE, model_id="base")
        store.commit([tagged, base, TagRecord(RUN_ID, "mine", "tagged"), of_late], 150.0)
        with ModelDB(folder) as db:
            found = prune(db, Keep.parse("globals"))
        assert (found.files, found.needed) == (4, 3)
        assert {"tagged", "base", waiting.model_id} <= stored_ids(folder)
        publish(store, 3, [waiting], 0.25)
        with ModelDB(folder) as db:
            assert prune(db, Keep.parse("globals")).going == (Going("hearts", "local", 1, 1, SIZE),)
    assert verify_database(folder) == []


def test_what_updates_began_from_goes_with_them(folder: Path) -> None:
    """Global models that were sent encoded, from which the updates of a round are differences."""
    with ModelStore(folder) as store:
        record(store, rounds=3, settings={"compression": {"codec": "float16", "download": "int8"}})
    with ModelDB(folder) as db:
        found = prune(db, Keep.parse("globals"))
        kinds = {group.kind: group.files for group in found.going}
        assert kinds == {"local": 30, "download": 2}  # the last one is what the run would send
        assert not [model for model in db.run().models("local") if model.is_stored]
        assert [model.round_id for model in db.run().models("download") if model.is_stored] == [3]
    assert verify_database(folder) == []


def test_equal_models_are_one_file(hearts: Path) -> None:
    """A file goes when none of its models is needed, and is counted once."""
    with ModelDB(hearts) as db, SecondWriter(hearts) as store:
        payload = stage(store, "copy", 1.0)  # as m1a
        store.commit(
            [
                replace(RUN, run_id="run-2", name="lungs", round_id=1),
                replace(model("copy", payload), run_id="run-2"),
            ],
            200.0,
        )
        assert plan_prune(db, Keep.parse("globals"), ["hearts"]).files == 5
        found = prune(db, Keep.parse("globals"))
        assert found.going == (Going("hearts", "local", 7, 6, 6 * SIZE),)
    assert verify_database(hearts) == []


def test_in_small_transactions_while_a_daemon_writes(
    hearts: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon tags a model that was about to go, between the look and the deed."""
    monkeypatch.setattr(module, "FILES", 1)
    told: list[tuple[int, int]] = []

    def tag(done: int, total: int) -> None:
        told.append((done, total))
        if done == 1:
            with SecondWriter(folder) as other:
                other.commit([TagRecord(RUN_ID, "mine", "m3b")], 200.0)

    with ModelDB(hearts) as db:
        assert prune(db, Keep.parse("globals"), progress=tag).files == 5
    assert told == [(done, 6) for done in range(1, 7)]
    assert "m3b" in stored_ids(folder)
    assert verify_database(folder) == []


def test_file_of_which_there_is_a_younger_model_by_now_stays(
    hearts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deed an agent sends once more what was chosen."""
    monkeypatch.setattr(module, "FILES", 1)

    def meanwhile(done: int, total: int) -> None:
        if done == 1:  # m1a is gone
            with SecondWriter(hearts) as other:
                again = model("again", stage(other, "again", 1.1), 3, agent_id="a")  # as m1b
                other.commit([again], 200.0)

    with ModelDB(hearts) as db:
        assert plan_prune(db, Keep.parse("rounds:1")).files == 4
        assert prune(db, Keep.parse("rounds:1"), progress=meanwhile).files == 3
    assert stored_ids(hearts) == {"initial", "g1", "g2", "g3", "m1b", "again", "m3a", "m3b"}
    assert verify_database(hearts) == []


def test_files_that_a_killed_pruning_left_go_with_the_next(
    hearts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died before they were set aside, or before they were deleted; a daemon runs all the time."""
    with monkeypatch.context() as dying, ModelDB(hearts) as db:
        dying.setattr(SecondWriter, "_delete_files", lambda self: None)
        assert prune(db, Keep.parse("rounds:2")).files == 2
    fold = hearts / "models" / ".staging" / "of a fold"
    fold.write_bytes(b"the daemon's")
    aside = fold.with_name("pruned.blake3%3A" + "ab" * 32)
    aside.write_bytes(b"nobody's")
    assert files(hearts) == 10
    with ModelDB(hearts) as db:
        assert prune(db, Keep.parse("rounds:2")).files == 0
    assert files(hearts) == 8
    assert fold.exists()
    assert not aside.exists()
    assert verify_database(hearts) == []


def test_models_are_kept_where_their_records_are_lost(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
    ModelStore(tmp_path / "other").close()
    for name in ("fl.db", "fl.db-wal", "fl.db-shm"):
        (folder / name).unlink(missing_ok=True)
    (tmp_path / "other" / "fl.db").rename(folder / "fl.db")
    with ModelDB(folder) as db, pytest.raises(StoreError, match=r"fl\.db is lost or another one"):
        prune(db, Keep.parse("globals"))
    assert files(folder) == 7


def test_two_at_once(hearts: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES", 1)
    found: list[int] = []

    def work() -> None:
        with ModelDB(folder) as db:
            found.append(prune(db, Keep.parse("globals")).files)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 6
    assert verify_database(folder) == []


# --- the command --------------------------------------------------------------------------------


def test_command_tells_first_and_does_it_when_told(hearts: Path) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(fl_db, ["-d", str(hearts), "prune", *args], catch_exceptions=False)
        return done.output

    table, last = run("--keep", "rounds:1").split("\n\n")
    assert [line.split() for line in table.splitlines()] == [
        ["run", "kind", "models", "files", "size"],
        ["hearts", "local", "4", "4", str(4 * SIZE)],
    ]
    assert last == f"4 files of {4 * SIZE} bytes would be deleted; say --yes to do it\n"
    assert files(hearts) == 10
    assert run("--keep", "rounds:1", "--yes").endswith(f"4 files of {4 * SIZE} bytes deleted\n")
    assert files(hearts) == 6
    found = json.loads(run("--keep", "globals", "--json"))
    assert (found["is_done"], found["files"], found["size"]) == (False, 2, 2 * SIZE)
    assert (
        run("--keep", "globals", "--run", "hearts", "--csv").splitlines()[0] == "run,kind,models,files,size"
    )
