"""Two writers of one database: neither undoes what the other did, whoever dies."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db import sqlite as own_sqlite
from fl_main.db.audit import Fault
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.errors import StoreError, StoreLockedError, StoreVersionError
from fl_main.store import EventRecord, ModelKind, RunRecord, RunStatus, TagRecord
from tests.db.building import (
    RUN,
    RUN_ID,
    answer,
    ask,
    begin,
    model,
    publish,
    stage,
    tampering,
    train,
)
from tests.db.recording import record

ROOT = Path(__file__).resolve().parents[3]
GONE = "deleted by a test"


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked and killed")


def staged(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models" / ".staging").iterdir()}


def other_run(name: str = "lungs") -> RunRecord:
    return replace(RUN, run_id="run-2", name=name)


def test_daemon_goes_on_where_a_second_writer_left_the_chain(store: ModelStore, folder: Path) -> None:
    begin(store)
    with SecondWriter(folder, clock=lambda: 103.0) as second:
        assert not second.is_alone
        second.commit([EventRecord(RUN_ID, "noted", actor="ann"), other_run()], 103.0)
        ask(store, 1, "initial")
        second.commit([EventRecord(RUN_ID, "noted", actor="bob")], 112.0)
        publish(store, 1, [answer(store, 1, "a", 1.0), answer(store, 1, "b", 2.0)], 0.5)
    store.commit([TagRecord(RUN_ID, "mine", "g1")], 130.0)
    with ModelDB(folder) as db:
        assert [event.actor for event in db.run("hearts").events("noted")] == ["ann", "bob"]
        assert [run.name for run in db.runs()] == ["hearts", "lungs"]
    assert verify_database(folder) == []


def test_two_writers_at_full_speed_make_one_history(store: ModelStore, folder: Path) -> None:
    begin(store)

    def note(writer: ModelStore, who: str) -> None:
        for number in range(40):
            writer.commit([EventRecord(RUN_ID, "noted", actor=who, details={"number": number})], 103.0)

    with SecondWriter(folder) as second:
        threads = [
            threading.Thread(target=note, args=(writer, who)) for writer, who in ((store, "a"), (second, "b"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with ModelDB(folder) as db:
        events = db.run().events("noted")
        for who in "ab":
            assert [event.details["number"] for event in events if event.actor == who] == list(range(40))
    assert verify_database(folder) == []


def test_models_come_with_their_files_and_an_equal_one_is_stored_once(
    store: ModelStore, folder: Path
) -> None:
    train(store, 1)
    with SecondWriter(folder) as second:
        payload = stage(second, "new", 7.0)
        equal = stage(second, "equal", 0.0)
        second.commit([model("n", payload), model("e", equal)], 150.0)
    with ModelDB(folder) as db:
        assert db.model_by_id("n").weights()["bias"][0] == 7.0
        assert db.model_by_id("e").path == db.model_by_id("initial").path
    assert verify_database(folder) == []


def test_what_is_asked_within_a_change_holds_until_its_end(store: ModelStore, folder: Path) -> None:
    begin(store)
    with SecondWriter(folder) as second:
        with second.changing("note what is there") as change:
            (count,) = change.connection.execute("SELECT count(*) FROM models").fetchone()
            change.add([EventRecord(RUN_ID, "counted", details={"models": count})])
        with pytest.raises(ZeroDivisionError), second.changing("fail") as change:
            change.add([EventRecord(RUN_ID, "never", round_id=1 // 0)])
    with ModelDB(folder) as db:
        assert [event.details for event in db.run().events("counted")] == [{"models": 1}]
        assert db.run().events("never") == []
    assert verify_database(folder) == []


def test_removed_models_say_why_and_only_files_that_nobody_needs_go(store: ModelStore, folder: Path) -> None:
    train(store, 1)
    store.commit([model("copy", stage(store, "copy", 1.0), agent_id="b")], 150.0)  # as m1a
    with ModelDB(folder) as db:
        shared, own = db.model("m1a").path, db.model("m1b").path
    with SecondWriter(folder) as second, second.changing("remove models") as change:
        change.remove(["m1a", "m1b"], GONE)
    assert shared.exists()
    assert not own.exists()
    with ModelDB(folder) as db:
        with pytest.raises(StoreError, match=f"m1a is not stored: {GONE}"):
            db.model("m1a").weights()
        assert db.model("copy").weights()["bias"][0] == 1.0
    with pytest.raises(StoreError, match=f"not stored any more: {GONE}"):
        store.read(f"blake3:{own.stem}")
    assert verify_database(folder) == []


def test_file_that_is_needed_again_before_it_is_deleted_stays(store: ModelStore, folder: Path) -> None:
    """Rows say that it is gone; then a daemon stores an equal model; only then files are looked at."""
    train(store, 1)

    class Slow(SecondWriter):
        def _delete_files(self) -> None:
            if self._let_go:
                store.commit([model("again", stage(store, "again", 1.0))], 150.0)
            super()._delete_files()

    with Slow(folder) as second, second.changing("remove models") as change:
        change.remove(["m1a"], GONE)
    with ModelDB(folder) as db:
        assert db.model("again").weights()["bias"][0] == 1.0
    assert verify_database(folder) == []


def test_who_waits_too_long_for_its_turn_is_told(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    monkeypatch.setattr(own_sqlite, "BUSY_S", 0.05)
    with SecondWriter(folder) as second, closing(sqlite3.connect(folder / "fl.db")) as busy:
        busy.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(
                StoreLockedError, match=r"cannot tidy up: another process is writing to .*try again"
            ),
            second.changing("tidy up"),
        ):
            raise AssertionError("it is not our turn")
        busy.rollback()
        second.commit([EventRecord(RUN_ID, "noted")], 150.0)
    assert verify_database(folder) == []


# --- with and without a daemon -------------------------------------------------------------------


def test_no_daemon_starts_while_somebody_else_writes(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 1)
    with SecondWriter(folder) as second:
        assert second.is_alone
        with pytest.raises(
            StoreLockedError, match="a command that writes to it, as fl db prune, is over soon"
        ):
            ModelStore(folder)
    ModelStore(folder).close()


def test_what_a_daemon_has_staged_is_left_alone(store: ModelStore, folder: Path) -> None:
    begin(store)
    payload = stage(store, "of a fold", 3.0)
    SecondWriter(folder).close()
    store.commit([model("g", payload, kind=ModelKind.GLOBAL)], 150.0)
    assert verify_database(folder) == []


def test_daemon_that_starts_leaves_alone_what_somebody_else_stages(folder: Path) -> None:
    """The daemon beside whom he began is restarted in the middle of it."""
    daemon = ModelStore(folder)
    begin(daemon)
    stage(daemon, "fold.weights", 2.0)
    second = SecondWriter(folder)
    payload = stage(second, "new.weights", 3.0)
    daemon.close()
    with ModelStore(folder):
        assert staged(folder) == {"fold.weights", "new.weights"}
        with second:
            second.commit([model("g", payload, kind=ModelKind.GLOBAL)], 150.0)
        stage(second, "late.weights", 4.0)
    with ModelStore(folder):  # by now nobody else is there
        assert staged(folder) == set()
    assert {path.name for path in folder.iterdir()} == {"fl.db", "lock", "models"}
    assert verify_database(folder) == []


@forks
def test_what_somebody_else_staged_who_was_killed_goes_with_the_next_start(folder: Path) -> None:
    with ModelStore(folder) as daemon:
        begin(daemon)
        child = os.fork()
        if not child:
            stage(SecondWriter(folder), "new.weights", 3.0)
            os._exit(9)
        os.waitpid(child, 0)
        assert staged(folder) == {"new.weights"}
    with ModelStore(folder):
        assert staged(folder) == set()
    assert {path.name for path in folder.iterdir()} == {"fl.db", "lock", "models"}


def test_database_is_made_and_brought_up_to_date_by_daemons_only(folder: Path) -> None:
    with pytest.raises(StoreError, match="has no model database in it"):
        SecondWriter(folder)
    assert not folder.exists()
    ModelStore(folder).close()
    with tampering(folder) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    with pytest.raises(StoreVersionError, match="start the aggregator once to bring it up to date"):
        SecondWriter(folder)


# --- crashes -------------------------------------------------------------------------------------

DIES = """
import os, shutil, sys
from pathlib import Path
from fl_main.db import Keep, ModelDB, ModelStore, prune, replay, withdraw
from fl_main.db.upkeep.writing import SecondWriter
from tests.db import building

there, cases, what, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def dying(real, left):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call

def change(db):
    with SecondWriter(db.folder) as second:
        new = building.stage(second, "new", 9.0)
        again = building.stage(second, "again", 1.0)
        with second.changing("do much at once") as change:
            change.add([building.model("new", new), building.model("more", again)])
            change.remove(["m1a", "m1b", "m2a", "m2b"], "deleted by a test")

sys.modules["fl_main.db.upkeep.prune"].FILES = 7
work = {
    "change": change,
    "prune": lambda db: prune(db, Keep.parse("globals")),
    "withdraw": lambda db: withdraw(db, "bob"),
    "replay": lambda db: replay(db, "hearts", strategy="fedadam", without=["bob"]),
}[what]
for number in range(1, 10_000, step):
    folder = cases / str(number)
    shutil.copytree(there, folder)
    child = os.fork()
    if not child:
        left = [number]
        for name in ("_execute", "_write"):
            setattr(ModelStore, name, dying(getattr(ModelStore, name), left))
        for name in ("replace", "unlink"):
            setattr(os, name, dying(getattr(os, name), left))
        with ModelDB(folder) as db:
            work(db)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def killed(there: Path, cases: Path, what: str, step: int = 1) -> Iterator[Path]:
    """Yield a copy of a database for each place at which a process died that worked on it, and one whole."""
    command = [sys.executable, "-W", "ignore", "-c", DIES, str(there), str(cases), what, str(step)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    for case in sorted(cases.iterdir(), key=lambda case: int(case.name)):
        left_over = verify_database(case)
        assert {damage.fault for damage in left_over} <= {Fault.FILE_UNKNOWN}  # swept by the next start
        yield case
        with ModelStore(case) as store:
            assert store.damages == []
        assert verify_database(case) == []


@forks
def test_killed_between_any_two_statements_it_leaves_a_whole_database(folder: Path, tmp_path: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 2)
    outcomes = []
    for case in killed(folder, tmp_path / "cases", "change"):
        with ModelDB(case) as db:
            stored = {found.model_id for found in db.run().models() if found.is_stored}
        outcomes.append(stored == {"g1", "g2", "initial", "more", "new"})
        assert outcomes[-1] or stored == {"g1", "g2", "initial", "m1a", "m1b", "m2a", "m2b"}
    assert len(outcomes) > 15  # statements, renames and deletions, each once
    assert outcomes == sorted(outcomes)
    assert {*outcomes} == {True, False}  # all of it or nothing


@forks
@pytest.mark.parametrize(("what", "step"), [("prune", 5), ("withdraw", 2), ("replay", 7)])
def test_commands_that_are_killed_have_done_a_part_or_nothing(
    folder: Path, tmp_path: Path, what: str, step: int
) -> None:
    with ModelStore(folder) as store:
        record(store, rounds=2)
    seen = set()
    for case in killed(folder, tmp_path / "cases", what, step):
        with ModelDB(case) as db:
            assert all(found.is_stored for found in db.run("hearts").models("global"))
            for found in db.run("hearts").models():  # what is said to be there can be read
                if found.is_stored:
                    found.weights()
            seen.add(sum(found.is_stored for found in db.run("hearts").models()))
            for run in db.runs()[1:]:
                assert run.status in (RunStatus.STOPPED, RunStatus.FINISHED)
                assert run.facts.reason == "replay of hearts: strategy fedadam, without bob"
                assert (run.status is RunStatus.FINISHED) <= (run.facts.rounds_done == 2)
    assert len(seen) == {"prune": 4, "withdraw": 2, "replay": 1}[what]
