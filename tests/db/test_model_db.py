"""Looking into a database from Python."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest

from fl_main.db import Effort, ModelDB, ModelStore
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError
from fl_main.store import EventRecord, ModelKind, RunStatus, TagRecord, Verdict
from fl_main.training import Kind
from tests.db.building import (
    LAYOUT,
    RUN,
    RUN_ID,
    agent,
    answer,
    answer_delta,
    ask,
    begin,
    metric,
    model,
    publish,
    round_record,
    stage,
    tampering,
    train,
    update,
    weights,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def db(folder: Path) -> ModelDB:
    with ModelStore(folder) as store:
        train(store)
        store.commit([TagRecord(RUN_ID, "paper", "g1")], 200.0)
    return ModelDB(folder)


def test_a_run_is_found_by_name_or_id(db: ModelDB) -> None:
    assert db.run("hearts") == db.run(RUN_ID) == db.run() == db.runs()[0]
    facts = db.run().facts
    assert (facts.name, facts.rounds_done, facts.agents, facts.settings) == ("hearts", 2, 2, RUN.settings)
    with pytest.raises(StoreError, match=r"there is no run 'lungs'; the runs in .*models are: hearts"):
        db.run("lungs")


def test_of_runs_with_one_name_the_newest_is_meant(folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([replace(RUN, run_id="old")], 1.0)
        store.commit([replace(RUN, run_id="new")], 2.0)
    assert ModelDB(folder).run("hearts").run_id == "new"
    with pytest.raises(StoreError, match="name a run"):
        ModelDB(folder).run()
    with pytest.raises(StoreError, match="there is no model 'last'; give a model id"):
        ModelDB(folder).model("last")


def test_an_id_is_that_of_its_run_though_another_has_it_as_its_name(folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([replace(RUN, run_id="first")], 1.0)
        store.commit([replace(RUN, run_id="second", name="first")], 2.0)
    assert ModelDB(folder).run("first").run_id == "first"


def test_of_many_runs_an_error_lists_some(folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([replace(RUN, run_id=f"{n}", name=f"run-{n:02}") for n in range(30)], 1.0)
    with pytest.raises(StoreError, match=r"run-18, run-19 and 10 more \(`fl db runs`\)$"):
        ModelDB(folder).run("lungs")


def test_rounds_say_what_came_of_them(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "abcd")
        ask(store, 1, "initial", "abcd")
        good = [answer(store, 1, name, 1.0) for name in "ab"]
        late = update("t1c", "c", verdict=Verdict.DISCARDED, reason="late: round 1 is over", size=7)
        bad = update("t1d", "d", verdict=Verdict.REJECTED, reason="not finite", size=5)
        measured = update("e1a", "a", kind=Kind.EVALUATE, metrics={"accuracy": 0.5})
        store.commit([late, bad, measured], 112.0)
        publish(store, 1, good, 0.25)
    first, second = ModelDB(folder).run().rounds()
    assert (first.round_id, first.status, first.model_id, first.kind, first.invited) == (
        0,
        "done",
        "initial",
        None,
        0,
    )
    assert (second.status, second.kind, second.base_model_id, second.model_id) == (
        "done",
        Kind.TRAIN,
        "initial",
        "g1",
    )
    assert (second.accepted, second.late, second.rejected, second.discarded) == (2, 1, 1, 1)
    assert second.size == 2 * LAYOUT.nbytes + 7 + 5
    assert second.seconds == 0.5
    loss, accuracy = second.train["loss"], second.evaluate["accuracy"]
    assert (loss.value, loss.num_examples, loss.agents) == (0.25, 20, 2)
    assert accuracy.value == 0.75


def test_rounds_say_how_stale_their_updates_were_and_where_time_went(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
        counted = [
            replace(answer_delta(store, f"t{n}", "a", 2.0, "g1"), counted_in=2, staleness=n) for n in (1, 3)
        ]
        spent = [
            round_record(n, status="done", busy_s=6.0 * n, idle_s=3.0, wasted_s=1.0, model_id=f"g{n}")
            for n in (1, 2)
        ]
        store.commit([*counted, *spent, update("refused", "b", verdict=Verdict.REJECTED)], 160.0)
    run = ModelDB(folder).run()
    assert [entry.effort for entry in run.rounds()] == [
        Effort(0, None, None, 0.0, 0.0, 0.0),
        Effort(2, 0.0, 0, 6.0, 1.0, 3.0),
        Effort(4, 1.0, 3, 12.0, 1.0, 3.0),
    ]
    assert run.effort() == Effort(6, 4 / 6, 3, 18.0, 2.0, 6.0)


def test_agents_that_poll_and_times_of_updates_are_told(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
        store.commit([replace(agent("b"), poll_s=60.0)], 140.0)
        answer_delta(store, "t", "a", 2.0, base="g1")
    run = ModelDB(folder).run()
    assert [member.poll_s for member in run.agents()] == [None, 60.0]
    assert [found.received_s for found in run.updates()] == [0.0, 0.0, 7.0]


def test_models_can_be_selected(db: ModelDB) -> None:
    run = db.run()
    assert [found.model_id for found in run.models("global")] == ["g1", "g2"]
    assert [found.model_id for found in run.models(ModelKind.LOCAL, round_id=1)] == ["m1a", "m1b"]
    assert [found.model_id for found in run.models(agent_id="b")] == ["m1b", "m2b"]
    assert len(run.models()) == 7


def test_a_models_weights_layout_and_parents(db: ModelDB) -> None:
    found = db.model("m2b")
    loaded = found.weights()
    expected = weights(2.1)
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    loaded["bias"][:] = 0  # theirs to change
    assert found.layout == LAYOUT
    assert [(parent.model_id, parent.share) for parent in db.model("g2").parents] == [
        ("m2a", 0.5),
        ("m2b", 0.5),
    ]
    assert db.model("g1").tags == ("paper",)
    assert [(m.name, m.value) for m in db.model("g1").metrics()] == [("loss", 0.5), ("accuracy", 0.5)]


def test_the_weights_of_a_delta_are_those_of_the_local_model(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t", "a", 2.0, base="g1")
    db = ModelDB(folder)
    found = db.model("d-t")
    assert (found.form, found.base_id, db.model("m1a").form, db.model("m1a").base_id) == (
        *("delta", "g1"),
        *("full", None),
    )
    for name, array in weights(2.0).items():
        np.testing.assert_array_equal(found.weights()[name], array)
        np.testing.assert_array_equal(found.as_stored()[name], array - weights(0.5)[name])
    layer = next(entry for entry in found.arrays() if entry.name == "layer/w")
    assert (layer.least, layer.largest) == (1.5, 1.5)  # of what is stored
    db.model("g1").path.unlink()
    with pytest.raises(StoreDamagedError, match="missing"):
        found.weights()
    assert found.as_stored().keys() == weights(2.0).keys()


def test_a_model_is_named_in_many_ways(db: ModelDB) -> None:
    digest = db.model("g2").digest
    for reference in (
        "g2",
        "hearts:2",
        f"{RUN_ID}:2",
        "hearts:final",
        "final",
        "2",
        "last",
        digest,
        digest[:15],
    ):
        assert db.model(reference).model_id == "g2"
    assert db.model(digest.removeprefix("blake3:")[:8]).model_id == "g2"
    assert db.model("hearts:paper").model_id == "g1"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("hearts:7", "run 'hearts' has no model of round 7"),
        ("hearts:best", "there is no model 'best' in run 'hearts'"),
        ("hearts:finl", r"in run 'hearts' \(its tags: .*final.*\); give a model id"),
        ("lungs:1", "there is no run 'lungs'"),
        ("nothing", "there is no model 'nothing'"),
        ("sha256:" + "0" * 64, "there is no run 'sha256'"),
    ],
)
def test_what_is_no_model_is_told(db: ModelDB, reference: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        db.model(reference)


def test_the_beginning_of_two_models_is_told(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        payloads = [stage(store, str(i), float(i)) for i in range(1, 3)]
        store.commit([model(f"abcd{i}", payload) for i, payload in enumerate(payloads)], 110.0)
    with pytest.raises(StoreError, match="is the beginning of several models; give more digits"):
        ModelDB(folder).model("abcd")
    assert ModelDB(folder).model("abcd1").model_id == "abcd1"


def test_best_and_final(db: ModelDB, folder: Path) -> None:
    assert db.run().best is None
    assert db.run().final == db.model("g2")  # tagged, though the run goes on
    with ModelStore(folder) as store:
        over = replace(RUN, status=RunStatus.FINISHED, model_id="g2", best_model_id="g1", best_value=0.5)
        # `best_round` counts rounds that were done, whose numbers may differ: some failed or were undone.
        store.commit([replace(over, best_round=7)], 300.0)
    run = db.run()
    assert run.best is not None
    assert run.final is not None
    assert (run.best.model_id, run.final.model_id) == ("g1", "g2")
    assert run.facts.best_round == run.best.round_id == 1
    assert db.model("hearts:best") == run.best
    assert db.model("hearts:final") == run.final


def test_agents_updates_metrics_and_events(db: ModelDB, folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([agent("a", is_present=False)], 300.0)
        store.commit([EventRecord(RUN_ID, "agent_left", 2, "a", details={"why": "cut"})], 301.0)
    run = db.run()
    first, second = run.agents()
    assert (first.agent_id, first.is_present, first.joined_at, first.left_at, first.seen_at) == (
        "a",
        False,
        101,
        300,
        300,
    )
    assert (second.is_present, second.left_at, second.accepted, second.refused) == (True, None, 2, 0)
    assert [(found.agent_id, found.counted_in) for found in run.updates(round_id=2)] == [("a", 2), ("b", 2)]
    assert len(run.updates(agent_id="a")) == 2
    assert [found.task_id for found in run.updates(last=3)] == ["t1b", "t2a", "t2b"]
    assert [found.task_id for found in run.updates(since=120.0, verdict="accepted")] == ["t2a", "t2b"]
    assert run.updates(kind="evaluate") == run.updates(verdict="rejected") == []
    assert run.updates(are_outliers=True) == []
    assert [found.value for found in run.metrics("train", "loss", agent_id="")] == [0.5, 1 / 3]
    assert len(run.metrics(agent_id="a")) == 2
    (left,) = run.events("agent_left")
    assert (left.at, left.round_id, left.agent_id, left.details) == (301.0, 2, "a", {"why": "cut"})
    assert [event.kind for event in run.events()][:2] == ["run_created", "update_accepted"]
    assert run.tags() == {"final": "g2", "paper": "g1"}


def test_arrays_in_numbers(folder: Path) -> None:
    arrays = {
        "w": np.array([[3.0, -4.0], [np.nan, np.inf]]),
        "n": np.array([1, 2, 6], np.int16),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 2), np.float32),
    }
    from fl_main.store import StoredPayload
    from fl_main.weights import Layout, pack

    layout = Layout.of(arrays)
    with ModelStore(folder) as store:
        begin(store)
        staging = store.stage("x", layout)
        staging.write(bytes(pack(arrays, layout)))
        store.commit(
            [model("odd", StoredPayload("weights", staging.finish(), layout.nbytes, layout, "x"))], 110.0
        )
    found = {entry.name: entry for entry in ModelDB(folder).model("odd").arrays()}
    w, n, flag, none = (found[name] for name in ("w", "n", "flag", "none"))
    assert (w.least, w.mean, w.largest, w.norm, w.not_finite) == (-4.0, -0.5, 3.0, 5.0, 2)
    assert (n.dtype, n.shape, n.least, n.mean, n.largest) == ("I16", (3,), 1.0, 3.0, 6.0)
    assert (flag.mean, flag.largest) == (0.5, 1.0)
    assert (none.least, none.norm, none.not_finite) == (None, None, 0)


def test_bfloat16_arrays_in_numbers(folder: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    from fl_main.store import StoredPayload
    from fl_main.weights import Layout, pack

    arrays = {"w": np.array([1.5, -2.0], ml_dtypes.bfloat16)}
    layout = Layout.of(arrays)
    with ModelStore(folder) as store:
        begin(store)
        staging = store.stage("x", layout)
        staging.write(bytes(pack(arrays, layout)))
        store.commit(
            [model("half", StoredPayload("weights", staging.finish(), layout.nbytes, layout, "x"))], 110.0
        )
    (entry,) = ModelDB(folder).model("half").arrays()
    assert (entry.dtype, entry.least, entry.largest, entry.norm) == ("BF16", -2.0, 1.5, 2.5)


# --- what cannot be opened ----------------------------------------------------------------------


def test_a_missing_folder_or_database_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder"):
        ModelDB(tmp_path / "models")
    assert not (tmp_path / "models").exists()
    with pytest.raises(StoreError, match=r"has no model database in it \(fl\.db is missing\)"):
        ModelDB(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "fl.db").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(StoreError, match="is not a model database"):
        ModelDB(tmp_path)
    (tmp_path / "fl.db").write_bytes(b"")
    with pytest.raises(StoreError, match="is empty"):
        ModelDB(tmp_path)


def test_a_newer_database_is_refused(db: ModelDB, folder: Path) -> None:
    with tampering(folder) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreVersionError, match="schema version 99"):
        ModelDB(folder)


def test_it_cannot_write(db: ModelDB) -> None:
    with pytest.raises(StoreError, match="is read-only; allow writing"), db.connect() as connection:
        connection.execute("DELETE FROM runs")
    assert len(db.runs()) == 1


def test_a_missing_model_file_is_told(db: ModelDB) -> None:
    found = db.model("g1")
    found.path.unlink()
    with pytest.raises(StoreDamagedError, match="is missing; see `fl db verify`"):
        found.weights()


def test_every_call_sees_the_latest_commit(folder: Path, store: ModelStore) -> None:
    begin(store)
    with ModelDB(folder) as db:
        assert db.run().last is not None
        ask(store, 1, "initial")
        publish(store, 1, [answer(store, 1, "a", 1.0)], 0.5)
        last = db.run().last
        assert last is not None
        assert last.model_id == "g1"
        store.commit([metric("g1", 1, "accuracy", 0.75)], 130.0)
        assert db.run().rounds()[-1].evaluate["accuracy"].value == 0.75


def test_without_a_tag_a_run_has_a_final_model_when_it_is_over(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        run = ModelDB(folder).run()
        assert run.final is None
        with pytest.raises(
            StoreError, match="run 'hearts' is running, not over; its latest model is hearts:last"
        ):
            ModelDB(folder).model("hearts:final")
        store.commit([replace(RUN, status=RunStatus.STOPPED, model_id="initial")], 300.0)
    assert ModelDB(folder).run().final == ModelDB(folder).model("hearts:final") == run.last


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes another user's rights")
def test_a_database_in_a_read_only_folder_can_be_read(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
    code = f"""
import os
from fl_main.db import ModelDB, verify_database
os.setuid(65534)
print(ModelDB({str(folder)!r}).run().name, verify_database({str(folder)!r}))
"""
    for place in (folder.parent, *folder.parent.parents):
        if place.owner() == "root" and place.is_relative_to(gettempdir()) and place != Path(gettempdir()):
            place.chmod(0o755)  # pytest keeps its folders to itself
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "hearts []\n", done.stderr


def test_updates_and_agents_say_what_was_measured(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        ask(store, 1, "initial")
        notes = {"distance": 0.1, "score": 1e300, "cosine": -1.0}
        publish(store, 1, [replace(answer(store, 1, "a", 1.0), notes=notes)], 0.5)
        store.commit([replace(agent("b"), outlying=3, quarantined="outliers")], 130.0)
    with ModelDB(folder) as db:
        run = db.run()
        assert [update.notes for update in run.updates()] == [notes]
        assert [(one.outlying, one.quarantined) for one in run.agents()] == [(0, ""), (3, "outliers")]
        assert [(one.outliers, one.dropped) for one in run.rounds()] == [(0, 0), (0, 0)]
