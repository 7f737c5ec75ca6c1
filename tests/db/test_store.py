"""The store as the daemon uses it: what is committed is there after a restart, and nothing else."""

import errno
import math
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_main.db import ModelDB, ModelStore, disk, verify_database
from fl_main.disk import REAL_DISK
from fl_main.errors import (
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)
from fl_main.settings import DatabaseSettings
from fl_main.store import (
    AgentPast,
    EventRecord,
    MetricRecord,
    ModelKind,
    Phase,
    Record,
    RunStatus,
    Store,
    TaskStatus,
    Verdict,
)
from fl_main.training import Kind
from fl_main.weights import Layout, pack
from tests.db.building import (
    LAYOUT,
    RUN,
    RUN_ID,
    agent,
    answer,
    answer_delta,
    ask,
    begin,
    model,
    publish,
    round_record,
    stage,
    step,
    tampering,
    task,
    train,
    update,
    weights,
)

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_a_store(store: ModelStore) -> None:
    checked: Store = store  # for the type checker
    assert checked.snapshots() == []


def test_what_names_model_files_is_decided_when_the_database_is_made(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ModelStore(folder, DatabaseSettings(digest="sha256")) as store:
        train(store, rounds=1)
    caplog.set_level("INFO", "fl_main.db")
    with ModelStore(folder, DatabaseSettings(digest="blake3")) as store:
        assert store.algorithm == "sha256"
        assert store.damages == []
        assert stage(store, "x", 1.0).digest.startswith("sha256:")
    [line] = caplog.messages
    assert line.endswith("names model files by sha256 for good; database.digest is for new ones")
    assert verify_database(folder) == []


def test_a_database_that_names_files_by_what_nobody_knows_is_not_opened(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with tampering(folder) as connection:
        connection.execute("UPDATE meta SET value = 'md5' WHERE key = 'digest_algorithm'")
    with pytest.raises(StoreDamagedError, match="'md5' digests name model files, which are blake3 or sha256"):
        ModelStore(folder)


# --- records and models -----------------------------------------------------------------------


def test_a_run_goes_on_after_a_restart_where_it_stopped(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
        ask(store, 2, "g1")
        found = answer(store, 2, "a", 2.0)
    with ModelStore(folder) as store:
        (snapshot,) = store.snapshots()
    assert (snapshot.run.round_id, snapshot.run.kind, snapshot.run.model_id) == (2, Kind.TRAIN, "g1")
    assert snapshot.run.settings == RUN.settings
    assert snapshot.round == round_record(2, base_model_id="g1")
    assert snapshot.step == step(2, ("a", "b"))
    assert [(t.task_id, t.status) for t in snapshot.tasks] == [
        ("t2a", TaskStatus.ANSWERED),
        ("t2b", TaskStatus.OPEN),
    ]
    assert snapshot.updates == (found,)
    assert snapshot.models.keys() == {"g1", "m2a"}  # the run's model, and what waits to be counted
    assert snapshot.agents == (agent("a"), agent("b"))


def test_a_frozen_step_is_still_under_way(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        found = [answer(store, 1, name, 1.0) for name in "ab"]
        frozen = step(1, ("a", "b"), status="frozen", frozen=("t1a", "t1b"), ended_s=3.0)
        store.commit([frozen], 120.0)
    with ModelStore(folder) as store:
        (snapshot,) = store.snapshots()
        assert snapshot.step == frozen
        assert snapshot.updates == tuple(found)
        digests = {found.digests["weights"] for found in snapshot.updates}
        for digest in digests:
            with closing(store.read(digest)) as file:
                assert file.layout == LAYOUT


def test_a_clock_that_went_back_does_not_hide_the_step_under_way(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([step(1, ("a",), attempt=0, status="failed", ended_s=1.0)], 5000.0)
        current = step(1, ("a", "b"), attempt=1, started_s=2.0)
        store.commit([round_record(1), current, replace(RUN, round_id=1, phase=Phase.COLLECTING)], 110.0)
    with ModelStore(folder) as store:
        assert store.snapshots()[0].step == current


def test_between_rounds_there_is_no_step(store: ModelStore) -> None:
    train(store, rounds=1)
    (snapshot,) = store.snapshots()
    assert snapshot.step is None
    assert snapshot.tasks == ()
    assert snapshot.updates == ()
    assert snapshot.round is not None
    assert snapshot.round.status == "done"


def test_tasks_of_an_earlier_try_of_a_step_do_not_come_back(store: ModelStore) -> None:
    begin(store)
    ask(store, 1, "initial")
    failed = step(1, ("a", "b"), status="failed", ended_s=9.0)
    store.commit([failed, *(task(f"t1{name}", name, status=TaskStatus.CANCELLED) for name in "ab")], 110.0)
    again = step(1, ("a",), attempt=1, started_s=10.0)
    store.commit([again, task("t1a'", "a", assigned_s=10.0)], 111.0)
    (snapshot,) = store.snapshots()
    assert snapshot.step == again
    assert [found.task_id for found in snapshot.tasks] == ["t1a'"]


def test_late_tasks_and_uncounted_updates_outlive_their_round(store: ModelStore) -> None:
    train(store, rounds=1)
    late, uncounted = task("t1c", "c", status=TaskStatus.LATE), update("t1b'", "b", reason="late")
    store.commit([agent("c"), late, uncounted], 130.0)
    ask(store, 2, "g1")
    (snapshot,) = store.snapshots()
    assert late in snapshot.tasks
    assert snapshot.updates == (uncounted,)


def test_the_bases_of_uncounted_updates_come_back(store: ModelStore) -> None:
    train(store, rounds=3)
    answer_delta(store, "late", "a", 2.0, base="g1")
    (snapshot,) = store.snapshots()
    assert snapshot.models.keys() == {"g3", "d-late", "g1"}
    assert (snapshot.models["d-late"].form, snapshot.models["g1"].form) == ("delta", "full")


def test_two_answers_to_one_base_wait_in_the_order_in_which_they_came(store: ModelStore) -> None:
    train(store, rounds=1)
    first, second = (answer_delta(store, task_id, "a", 2.0, "g1") for task_id in ("t9", "t5"))
    (snapshot,) = store.snapshots()
    assert snapshot.updates == (first, second)


def test_what_agents_did_comes_back(store: ModelStore) -> None:
    begin(store, "abc")
    given = [task(f"t{n}", "a", assigned_s=10.0 * n, status=TaskStatus.ANSWERED) for n in range(1, 8)]
    took = [update(f"t{n}", "a", received_s=10.0 * n + n) for n in range(1, 8)]
    took[2] = replace(took[2], verdict=Verdict.REJECTED, reason="not finite")
    took[3] = replace(took[3], verdict=Verdict.DISCARDED, reason="late")
    measured = task("e", "a", kind=Kind.EVALUATE, assigned_s=99.0, status=TaskStatus.ANSWERED)
    accuracy = update("e", "a", kind=Kind.EVALUATE, received_s=100.0)
    store.commit([*given, *took, measured, accuracy, task("u", "b", assigned_s=5.0)], 120.0)
    (snapshot,) = store.snapshots()
    assert snapshot.past == {
        "a": AgentPast(7, 70.0, (2.0, 4.0, 5.0, 6.0, 7.0)),  # the third tells nothing, the fourth was late
        "b": AgentPast(1, 5.0, ()),
    }


@pytest.mark.parametrize(
    ("status", "is_known"), [(RunStatus.FINISHED, False), (RunStatus.STOPPED, True), (RunStatus.FAILED, True)]
)
def test_what_agents_did_comes_back_while_a_run_may_go_on(
    store: ModelStore, status: RunStatus, is_known: bool
) -> None:
    train(store, rounds=1)
    store.commit([replace(RUN, model_id="g1", round_id=1, status=status)], 150.0)
    assert bool(store.snapshots()[0].past) == is_known


def test_a_stored_model_is_read_as_it_was_sent(store: ModelStore) -> None:
    begin(store)
    found = store.find_model("initial")
    assert found is not None
    assert found.payload == replace(found.payload, staged=None, layout=LAYOUT, size=LAYOUT.nbytes)
    file = store.read(found.payload.digest)
    buffer = bytearray(LAYOUT.nbytes)
    file.read_into(0, memoryview(buffer))
    assert buffer == pack(weights(0.0), LAYOUT)
    file.read_into(8, memoryview(buffer)[:4])
    assert buffer[:4] == buffer[8:12]
    with pytest.raises(StoreDamagedError, match="ends too early"):
        file.read_into(8, memoryview(buffer))
    file.close()
    file.close()


def test_model_files_are_plain_safetensors(folder: Path, store: ModelStore) -> None:
    begin(store)
    (path,) = (folder / "models").glob("??/*.safetensors")
    loaded = load_file(path)
    assert loaded.keys() == weights(0.0).keys()
    np.testing.assert_array_equal(loaded["bias"], weights(0.0)["bias"])


def test_identical_models_are_one_file(folder: Path, store: ModelStore) -> None:
    begin(store)
    records = [model(f"twin{i}", stage(store, f"twin{i}", 7.0)) for i in range(2)]
    store.commit(records, 110.0)
    assert len(list((folder / "models").glob("??/*"))) == 2  # the initial model and theirs
    assert not list((folder / "models" / ".staging").iterdir())


def test_a_task_is_found_with_its_agents_first_answer(store: ModelStore) -> None:
    train(store, rounds=1)
    stranger = update("t1a", "b", verdict=Verdict.REJECTED, reason="not its task")
    second = update("t1a", "a", verdict=Verdict.REJECTED, digests={"weights": "sha256:other"})
    store.commit([stranger, second], 130.0)
    found = store.find_task("t1a")
    assert found is not None
    assert found[0].status is TaskStatus.ANSWERED
    assert found[1] is not None
    assert (found[1].verdict, found[1].counted_in, found[1].share) == (Verdict.ACCEPTED, 1, 0.5)
    assert store.find_task("nothing") is None
    assert store.find_model("nothing") is None


def test_a_later_verdict_on_the_same_update_replaces_the_first(store: ModelStore, folder: Path) -> None:
    begin(store)
    ask(store, 1, "initial")
    found = answer(store, 1, "a", 1.0)
    store.commit([replace(found, verdict=Verdict.DISCARDED, reason="round failed")], 120.0)
    with ModelDB(folder) as db:
        (stored,) = db.run().updates()
    assert (stored.verdict, stored.reason, stored.received_at) == (Verdict.DISCARDED, "round failed", 111.0)


def test_no_task_has_two_accepted_updates(store: ModelStore) -> None:
    begin(store)
    ask(store, 1, "initial")
    answer(store, 1, "a", 1.0)
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        store.commit([update("t1a", "a", digests={"weights": "sha256:other"})], 120.0)


def test_an_accepted_training_update_has_examples(store: ModelStore) -> None:
    begin(store)
    with pytest.raises(StoreError, match="CHECK constraint failed"):
        store.commit([update("t1a", "a", num_examples=0)], 120.0)
    store.commit([update("t1a", "a", num_examples=-3, verdict=Verdict.REJECTED)], 120.0)


def test_a_claim_larger_than_any_integer_is_stored_as_the_largest(store: ModelStore, folder: Path) -> None:
    begin(store)
    store.commit([update("t1a", "a", num_examples=10**30, verdict=Verdict.REJECTED)], 120.0)
    with ModelDB(folder) as db:
        assert db.run().updates()[0].num_examples == 2**63 - 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_numbers_come_back_as_such(folder: Path, store: ModelStore, value: float) -> None:
    begin(store)
    store.commit([MetricRecord(RUN_ID, 0, "initial", "a", "train", "loss", value, 1)], 110.0)
    store.commit([update("t1a", "a", metrics={"loss": value})], 111.0)
    with ModelDB(folder) as db:
        (metric,) = db.run().metrics()
        (found,) = db.run().updates()
    np.testing.assert_equal([metric.value, found.metrics["loss"]], [value, value])
    assert verify_database(folder) == []


def test_records_may_name_rows_that_come_later_in_the_commit(store: ModelStore) -> None:
    payload = stage(store, "x", 1.0)
    store.commit([replace(RUN, model_id="first"), model("first", payload, 0)], 100.0)
    assert store.snapshots()[0].models.keys() == {"first"}


def test_a_record_that_names_nothing_is_refused(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.commit([replace(RUN, model_id="nowhere")], 100.0)
    assert store.snapshots() == []
    store.commit([RUN], 101.0)
    assert [snapshot.run for snapshot in store.snapshots()] == [RUN]


# --- one transaction: all or nothing ------------------------------------------------------------


def failing(_: object, *__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_rename_stores_nothing_and_can_be_tried_again(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    before = store.snapshots()
    payload = stage(store, "t1a.weights", 1.0)
    records: list[Record] = [model("m1a", payload), replace(RUN, model_id="m1a")]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(StoreFullError, match="no room left"):
            store.commit(records, 110.0)
    assert store.snapshots() == before
    store.commit(records, 111.0)
    store.read(payload.digest).close()
    assert verify_database(folder) == []  # the failed try left no trace in the chain


def test_a_commit_that_fails_after_the_rename_can_be_tried_again(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    payload = stage(store, "t1a.weights", 1.0)
    rename = os.replace

    def rename_and_fail(source: Any, target: Any) -> None:
        rename(source, target)
        failing(None)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename_and_fail)
        with pytest.raises(StoreFullError):
            store.commit([model("m1a", payload)], 110.0)
    assert store.find_model("m1a") is None
    store.commit([model("m1a", payload)], 111.0)
    store.read(payload.digest).close()
    assert verify_database(folder) == []


def test_a_failed_commit_of_sqlite_leaves_staged_files_for_another_try(
    store: ModelStore, folder: Path
) -> None:
    begin(store)
    payload = stage(store, "t1a.weights", 1.0)
    bad = update("t1a", "a", num_examples=0)
    with pytest.raises(StoreError):
        store.commit([model("m1a", payload), bad], 110.0)
    store.commit([model("m1a", payload)], 111.0)
    assert verify_database(folder) == []


def test_a_commit_that_sqlite_cannot_finish_can_be_tried_again(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = store._execute

    def cannot(statement: str, values: Sequence[Any] = ()) -> None:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        execute(statement, values)

    begin(store)
    payload = stage(store, "t1a.weights", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_execute", cannot)
        with pytest.raises(StoreError, match=r"cannot store records .* disk I/O error") as caught:
            store.commit([model("m1a", payload)], 110.0)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert store.find_model("m1a") is None
    store.commit([model("m1a", payload)], 111.0)
    store.read(payload.digest).close()
    assert verify_database(folder) == []


def test_a_model_that_was_never_staged_is_not_stored(store: ModelStore) -> None:
    begin(store)
    payload = stage(store, "x", 1.0)
    with pytest.raises(StoreDamagedError, match="neither staged nor stored"):
        store.commit([model("m", replace(payload, staged="elsewhere"))], 110.0)
    with pytest.raises(StoreDamagedError, match="neither staged nor stored"):
        store.commit([model("m", replace(payload, staged=None))], 110.0)
    assert store.find_model("m") is None


def test_a_model_may_name_a_payload_that_is_stored_already(store: ModelStore) -> None:
    begin(store)
    found = store.find_model("initial")
    assert found is not None
    store.commit([model("copy", found.payload, parents=(("initial", 1.0),))], 110.0)
    copy = store.find_model("copy")
    assert copy is not None
    assert copy.parents == (("initial", 1.0),)


DIES = """
import os, sys
from pathlib import Path
from fl_main.db import ModelStore, store as module
from tests.db import building

store = ModelStore(sys.argv[1])
building.begin(store)
building.ask(store, 1, "initial")
building.answer(store, 1, "a", 1.0)

def dying(real, after):
    def call(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        os._exit(9)
    return call

point, when = sys.argv[2], sys.argv[3] == "after"
if point == "insert":
    ModelStore._insert = dying(ModelStore._insert, when)
elif point == "rename":
    os.replace = dying(os.replace, when)
elif point == "commit":
    execute, last = ModelStore._execute, dying(ModelStore._execute, when)
    ModelStore._execute = lambda store, statement, values=(): (
        last if statement == "COMMIT" else execute
    )(store, statement, values)
building.answer(store, 1, "b", 2.0)
os._exit(1)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", ["insert", "rename", "commit"])
def test_killed_at_any_point_nothing_accepted_is_lost_and_nothing_is_half(
    folder: Path, point: str, when: str
) -> None:
    command = [sys.executable, "-c", DIES, str(folder), point, when]
    died = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert died.returncode == 9
    is_stored = (point, when) == ("commit", "after")
    with ModelStore(folder) as store:
        assert store.damages == []
        (snapshot,) = store.snapshots()
        assert [found.task_id for found in snapshot.updates] == ["t1a", "t1b"][: 1 + is_stored]
        if not is_stored:
            answer(store, 1, "b", 2.0)
        publish(store, 1, list(store.snapshots()[0].updates), 0.5)
    assert verify_database(folder) == []


# --- opening ------------------------------------------------------------------------------------


def test_left_over_staging_files_go_but_those_of_open_tasks_stay(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        answer(store, 1, "a", 1.0)
        for name in ("t1a.weights", "t1b.weights", f"{RUN_ID}.1.train", "t1bc.weights"):
            stage(store, name, 3.0)
    with ModelStore(folder) as store:
        assert [path.name for path in (folder / "models" / ".staging").iterdir()] == ["t1b.weights"]
        resumed = store.stage("t1b.weights", LAYOUT, resume=True)
        assert resumed.size == LAYOUT.nbytes
        resumed.close()


def test_a_file_without_a_row_is_deleted_and_a_row_without_a_file_reported(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        lost = store.find_model("initial")
        assert lost is not None
    (path,) = (folder / "models").glob("??/*.safetensors")
    orphan = folder / "models" / "ab" / ("ab" * 32 + ".safetensors")
    orphan.parent.mkdir(exist_ok=True)
    path.rename(orphan)
    notes = folder / "models" / "notes.txt"
    notes.write_text("not ours: not touched")
    with ModelStore(folder) as store:
        assert not orphan.exists()
        assert notes.exists()
        assert store.damages == [f"model file {path} is missing"]
        with pytest.raises(StoreDamagedError, match="is missing"):
            store.read(lost.payload.digest)


def test_models_are_kept_where_their_records_are_lost(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
    there = sorted((folder / "models").rglob("*.safetensors"))
    for name in ("fl.db", "fl.db-wal", "fl.db-shm"):
        (folder / name).unlink(missing_ok=True)
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match=r"knows of no run: fl\.db is lost"):
            ModelStore(folder)
    assert sorted((folder / "models").rglob("*.safetensors")) == there
    assert not disk_is_locked(folder)


def test_a_second_writer_is_refused(store: ModelStore, folder: Path) -> None:
    with pytest.raises(StoreLockedError, match=r"in use by another aggregator; stop that one, or give"):
        ModelStore(folder)


def test_another_process_is_refused_until_the_first_closes(folder: Path) -> None:
    code = f"from fl_main.db import ModelStore; ModelStore({str(folder)!r}).close()"

    def open_elsewhere() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    with ModelStore(folder):
        assert "StoreLockedError" in open_elsewhere().stderr
    assert open_elsewhere().returncode == 0


def test_closing_twice_is_fine_and_nothing_is_written_afterwards(folder: Path) -> None:
    store = ModelStore(folder)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.commit([RUN], 100.0)


def test_a_closed_database_is_one_file(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    assert not (folder / "fl.db-wal").exists()


def test_a_file_that_is_no_database_is_refused_and_kept(folder: Path) -> None:
    folder.mkdir()
    content = b"not a database, but long enough to be looked at" * 30
    (folder / "fl.db").write_bytes(content)
    with pytest.raises(StoreError, match="is not a model database; choose another folder"):
        ModelStore(folder)
    assert (folder / "fl.db").read_bytes() == content


def test_another_programs_database_is_refused(folder: Path) -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / "fl.db")
    connection.execute("CREATE TABLE meta (key, value)")
    connection.close()
    with pytest.raises(StoreError, match="is a database of another program"):
        ModelStore(folder)


def test_a_newer_database_is_refused(folder: Path) -> None:
    ModelStore(folder).close()
    with tampering(folder) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreVersionError, match=r"schema version 99, .* knows up to \d+; install the newer"):
        ModelStore(folder)


def test_a_damaged_database_is_refused(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
    with (folder / "fl.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(StoreError):
        ModelStore(folder)
    assert not disk_is_locked(folder)


def disk_is_locked(folder: Path) -> bool:
    try:
        disk.lock(folder, REAL_DISK).release()
    except StoreLockedError:
        return True
    return False


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the model database"):
        ModelStore(tmp_path / "file" / "models")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes another user's rights")
def test_a_folder_without_permission_is_refused_as_such(tmp_path: Path) -> None:
    code = f"""
import os
from fl_main.db import ModelStore
from fl_main.errors import StoreError
os.chmod({str(tmp_path)!r}, 0o755)
os.chdir({str(tmp_path)!r})
os.mkdir("models", 0o555)
os.setuid(65534)
try:
    ModelStore("models")
except StoreError as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "no permission for" in done.stdout, done.stderr


def test_a_disk_that_is_read_only_or_full_is_told_as_such(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(store)
    staging = store.stage("t", LAYOUT)
    for number, words in ((errno.EROFS, "read-only disk"), (errno.EDQUOT, "no room left")):

        def fail(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(StoreFullError, match=words):
                staging.write(b"12345678")
    assert staging.size == 0
    staging.close()


def test_a_full_database_disk_is_told_as_such(store: ModelStore) -> None:
    begin(store)
    store._writer.execute("PRAGMA max_page_count = 1")  # at least what is there
    with pytest.raises(StoreFullError, match="no room left"):
        store.commit([EventRecord(RUN_ID, "long", details={"text": "x" * 1_000_000})], 110.0)
    store._writer.execute("PRAGMA max_page_count = 1000000")
    store.commit([EventRecord(RUN_ID, "short")], 111.0)


def test_free_bytes_are_those_of_the_disk(store: ModelStore, folder: Path) -> None:
    stat = os.statvfs(folder)
    assert store.free_bytes() == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.2)


# --- durability and threads ---------------------------------------------------------------------


def test_durability_power_syncs_file_folder_and_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync
    replace_ = os.replace

    def noting(fd: int) -> None:
        synced.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        sync(fd)

    def renaming(source: Any, target: Any) -> None:
        synced.append("rename")
        replace_(source, target)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", renaming)
    with ModelStore(folder, DatabaseSettings(durability="power")) as store:
        begin(store)
        assert store._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert synced == ["file", "rename", "folder", "folder"]


def test_durability_process_syncs_nothing_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing)
    with ModelStore(folder) as store:
        begin(store)
        assert store._writer.execute("PRAGMA synchronous").fetchone()[0] == 1  # NORMAL


def test_threads_may_commit_and_read_at_once(store: ModelStore, folder: Path) -> None:
    begin(store, "abcd")
    ask(store, 1, "initial", "abcd")
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            answer(store, 1, name, float(ord(name)))
            for number in range(20):
                store.commit([EventRecord(RUN_ID, "tick", details={"n": number})], 120.0)
                assert store.find_task(f"t1{name}") is not None
                store.snapshots()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.snapshots()[0].updates) == 4
    assert verify_database(folder) == []


def _read(folder: Path, ready: Any, stop: Any, results: Any) -> None:
    seen = 0
    with ModelDB(folder) as db:
        while True:
            is_last = stop.is_set()
            run = db.run("hearts")
            # A round that is done has its model, in every state that can be seen.
            assert all(run_round.model_id for run_round in run.rounds() if run_round.status == "done")
            if run.last is not None:
                run.last.weights()
            assert verify_database(folder) == []
            seen += 1
            ready.set()
            if is_last:
                break
    results.put(seen)


def test_processes_read_while_the_daemon_writes(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ModelStore(folder) as store:
        begin(store)
        events = [(context.Event(), context.Event()) for _ in range(2)]
        results = context.Queue()
        readers = [context.Process(target=_read, args=(folder, *pair, results)) for pair in events]
        for reader in readers:
            reader.start()
        for ready, _ in events:
            assert ready.wait(30)
        base = "initial"
        for round_id in range(1, 11):
            ask(store, round_id, base)
            base = publish(
                store, round_id, [answer(store, round_id, n, round_id + 0.0) for n in "ab"], 0.1 * round_id
            )
        for _, stop in events:
            stop.set()
        counts = [results.get(timeout=30) for _ in readers]
        for reader in readers:
            reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert min(counts) >= 2


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nhost:/x {tmp_path}/net nfs4 rw 0 0\nhost:/y /srv cifs rw 0 0\n"
    )
    assert disk.network_file_system(tmp_path / "net" / "models", mounts) == "nfs4"
    assert disk.network_file_system(tmp_path / "netto", mounts) is None
    assert disk.network_file_system(tmp_path, tmp_path / "nothing") is None
    monkeypatch.setattr(disk, "network_file_system", lambda folder: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*database\.folder"):
        ModelStore(tmp_path / "models")


def test_kinds_of_models_all_have_a_place(store: ModelStore) -> None:
    begin(store)
    records = [model(kind.value, stage(store, kind.value, 1.0), kind=kind) for kind in ModelKind]
    store.commit(records, 110.0)
    found = [store.find_model(kind.value) for kind in ModelKind]
    assert [record.kind for record in found if record] == list(ModelKind)


def test_a_layout_may_have_no_arrays_or_empty_ones(store: ModelStore) -> None:
    begin(store)
    for number, layout in enumerate([Layout([]), Layout.of({"none": np.zeros((0, 3))}), Layout.free(0)]):
        staging = store.stage("empty", layout)
        digest = staging.finish()
        payload = replace(stage(store, "x", 0.0), digest=digest, size=0, layout=layout, staged="empty")
        store.commit([model(f"empty{number}", payload)], 110.0)
        with closing(store.read(digest)) as file:
            assert file.layout == layout
