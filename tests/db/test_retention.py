"""Which files go, which never do, and that rows say why."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.db import ModelDB, ModelStore, verify_database
from fl_main.db.files import ModelFiles
from fl_main.db.retention import Stored, choose
from fl_main.errors import StoreError
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import ModelKind, RunStatus, TagRecord, TaskStatus, Verdict
from tests.db.building import (
    LAYOUT,
    RUN,
    RUN_ID,
    agent,
    answer,
    answer_delta,
    ask,
    model,
    stage,
    task,
    train,
    update,
)


def keeping(**retention: object) -> DatabaseSettings:
    return DatabaseSettings(retention=RetentionSettings.model_validate(retention))


def stored_ids(folder: Path) -> set[str]:
    with ModelDB(folder) as db:
        return {found.model_id for found in db.run().models() if found.is_stored}


def stored(model_id: str, digest: str = "", may_go: bool = True, at: int = 0, age: int = 9) -> Stored:
    return Stored(model_id, digest or model_id, 10, at, may_go, age)


def test_by_default_everything_stays(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        assert store.prune() == 0
    assert len(stored_ids(folder)) == 1 + 3 * 3


def test_local_models_of_the_last_rounds_stay(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="rounds", rounds=2)) as store:
        train(store, rounds=4)
        assert store.prune() == 4 * LAYOUT.nbytes
        assert store.prune() == 0
        assert store.damages == []
    assert stored_ids(folder) == {"initial", "g1", "g2", "g3", "g4", "m3a", "m3b", "m4a", "m4b"}
    assert len(list((folder / "models").glob("??/*"))) == 9
    assert verify_database(folder) == []


def test_a_row_says_why_its_file_is_gone(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="rounds", rounds=1)) as store:
        train(store, rounds=2)
        store.prune()
        gone = store.find_model("m1a")
        assert gone is not None
        with pytest.raises(StoreError, match="not stored any more: deleted by the retention settings"):
            store.read(gone.payload.digest)
    with (
        ModelDB(folder) as db,
        pytest.raises(StoreError, match="m1a is not stored: deleted by the retention"),
    ):
        db.model("m1a").weights()


def test_what_is_still_needed_stays(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="bytes", bytes=1)) as store:
        train(store, rounds=3)
        local = {
            name: model(name, stage(store, name, i + 50.0), 1)
            for i, name in enumerate(("tagged", "base", "last"))
        }
        waiting = model("waiting", stage(store, "waiting", 60.0), 1, agent_id="c")
        channel = model(
            "channel", stage(store, "channel", 61.0, "control"), 1, ModelKind.CHANNEL, agent_id="c"
        )
        store.commit(
            [
                agent("c"),
                *local.values(),
                waiting,
                channel,
                TagRecord(RUN_ID, "keep", "tagged"),
                task("open", "a", 3, status=TaskStatus.LATE, model_id="base"),
                update("t1c", "c", model_id="waiting"),
                replace(RUN, round_id=3, model_id="last"),
            ],
            200.0,
        )
        assert store.prune() == 6 * LAYOUT.nbytes
    assert stored_ids(folder) == {"initial", "g1", "g2", "g3", *local, "waiting", "channel"}
    assert verify_database(folder) == []


@pytest.mark.parametrize("retention", [{"keep": "rounds", "rounds": 1}, {"keep": "bytes", "bytes": 1}])
def test_a_delta_and_its_base_stay_until_it_counts(folder: Path, retention: dict[str, object]) -> None:
    """Bases are global models, and those never go; nor does that of a task that is still open."""
    with ModelStore(folder, keeping(**retention)) as store:
        train(store, rounds=4)
        asked = task("open", "b", status=TaskStatus.OPEN, model_id="g2")
        first, second = (
            answer_delta(store, name, "c", value, "g1") for name, value in (("t", 2.0), ("u", 3.0))
        )
        store.commit([asked, replace(first, counted_in=4, staleness=3)], 160.0)
        store.prune()
        assert {"d-u", "g1", "g2"} <= stored_ids(folder)  # old as its round is
        store.commit([replace(second, counted_in=4, staleness=3)], 170.0)
        assert store.prune() == 2 * LAYOUT.nbytes  # the agent's both models of that round
        assert {"g1", "g2"} <= stored_ids(folder)
        assert not {"d-t", "d-u"} & stored_ids(folder)
    assert verify_database(folder) == []


@pytest.mark.parametrize(
    "change", [{"status": RunStatus.STOPPED}, {"verdict": Verdict.DISCARDED}], ids=["run over", "discarded"]
)
def test_an_update_that_will_never_count_may_go(folder: Path, change: dict[str, object]) -> None:
    with ModelStore(folder, keeping(keep="bytes", bytes=1)) as store:
        train(store, rounds=1)
        ask(store, 2, "g1")
        found = answer(store, 2, "a", 9.0)
        store.prune()
        assert "m2a" in stored_ids(folder)
        if "status" in change:
            store.commit([replace(RUN, model_id="g1", round_id=2, status=RunStatus.STOPPED)], 150.0)
        else:
            store.commit([replace(found, verdict=Verdict.DISCARDED, reason="round failed")], 150.0)
        assert store.prune() == LAYOUT.nbytes
    assert "m2a" not in stored_ids(folder)


def test_a_file_that_a_global_model_shares_stays(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="rounds", rounds=1)) as store:
        train(store, rounds=3)
        shared = store.find_model("g1")
        assert shared is not None
        store.commit([model("same", replace(shared.payload, staged=None), 1)], 190.0)
        store.prune()
        store.read(shared.payload.digest).close()
    assert "same" in stored_ids(folder)


def test_with_a_limit_in_bytes_the_oldest_go_first(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="bytes", bytes=3 * LAYOUT.nbytes)) as store:
        train(store, rounds=3)
        assert store.prune() == 3 * LAYOUT.nbytes
    assert {name for name in stored_ids(folder) if name.startswith("m")} == {"m2b", "m3a", "m3b"}


def test_a_model_that_comes_again_after_it_was_deleted_is_stored_again(folder: Path) -> None:
    with ModelStore(folder, keeping(keep="rounds", rounds=1)) as store:
        train(store, rounds=2)
        store.prune()
        again = model("again", stage(store, "again", 1.0), 2)  # equal to m1a
        store.commit([again], 190.0)
        store.read(again.payload.digest).close()
    assert "again" in stored_ids(folder)
    assert "m1a" not in stored_ids(folder)
    assert verify_database(folder) == []


@pytest.mark.parametrize("step", ["set_aside", "unlink"])
def test_a_crash_between_the_commit_and_the_deletion_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with ModelStore(folder, keeping(keep="rounds", rounds=1)) as store:
        train(store, rounds=2)
        with monkeypatch.context() as patch:
            patch.setattr(ModelFiles if step == "set_aside" else Path, step, stop)
            with pytest.raises(KeyboardInterrupt):
                store.prune()
        assert len([path for path in (folder / "models").rglob("*") if path.is_file()]) > 5
    ModelStore(folder).close()
    assert len([path for path in (folder / "models").rglob("*") if path.is_file()]) == 5
    assert verify_database(folder) == []


def test_all_models_of_a_file_must_be_free() -> None:
    group = [stored("a", "x"), stored("b", "x", may_go=False), stored("c", "y")]
    assert choose(group, RetentionSettings(keep="rounds", rounds=1)).keys() == {"y"}


@given(
    st.lists(
        st.builds(
            stored,
            st.uuids().map(str),
            st.sampled_from("abcdef"),
            st.booleans(),
            st.floats(0, 9),
            st.integers(0, 5),
        )
    ),
    st.sampled_from(["rounds", "bytes"]),
    st.integers(1, 60),
)
def test_nothing_needed_ever_goes_and_no_more_than_must(models: list[Stored], keep: str, limit: int) -> None:
    settings = RetentionSettings.model_validate({"keep": keep, keep: limit})
    chosen = choose(models, settings)
    gone = [found for group in chosen.values() for found in group]
    assert all(found.may_go for found in gone)
    assert all(found.digest not in chosen or found in gone for found in models)
    if keep == "bytes" and chosen:
        left = 10 * (len({found.digest for found in models}) - len(chosen))
        assert left + 10 > limit  # one file fewer would have been too few
    if keep == "rounds":
        assert all(found.age >= limit for found in gone)
