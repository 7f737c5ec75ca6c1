"""Bytes are counted once, by the model that was there first."""

from dataclasses import replace
from pathlib import Path

from fl_main.db import ModelDB, ModelStore
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import ModelKind
from tests.db.building import LAYOUT, RUN, RUN_ID, answer, ask, begin, model, publish, stage, train

ONE = LAYOUT.nbytes  # 9 float32 and 3 float64: 60


def counted(folder: Path) -> dict[tuple[str, str], tuple[int, ...]]:
    with ModelDB(folder) as db:
        return {
            (share.run, share.kind): (
                share.models,
                share.stored,
                share.files,
                share.size,
                share.shared,
                share.may_go,
            )
            for share in db.usage().shares
        }


def test_models_are_counted_by_run_and_kind(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
    assert ONE == 60
    assert counted(folder) == {
        ("hearts", "initial"): (1, 1, 1, 60, 0, 0),
        ("hearts", "local"): (4, 4, 4, 240, 0, 240),
        ("hearts", "global"): (2, 2, 2, 120, 0, 0),
    }


def test_equal_models_share_a_file_which_goes_only_if_all_may(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "abc")
        ask(store, 1, "initial", "abc")
        found = [answer(store, 1, name, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 0.5))]
        publish(store, 1, found, 0.5)  # equal to the update of c
    assert counted(folder) == {
        ("hearts", "initial"): (1, 1, 1, 60, 0, 0),
        ("hearts", "local"): (3, 3, 2, 120, 60, 60),
        ("hearts", "global"): (1, 1, 0, 0, 60, 0),
    }


def test_bytes_add_up_to_those_of_the_files(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        answer(store, 3, "c", 0.25)  # equal to the third global model
    with ModelDB(folder) as db:
        files = list((folder / "models").glob("??/*"))
        assert sum(share.files for share in db.usage().shares) == len(files)
        header = len(LAYOUT.header)
        assert sum(share.size for share in db.usage().shares) == sum(
            path.stat().st_size - header for path in files
        )


def test_models_that_are_not_stored_take_nothing(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings.model_validate({"keep": "rounds", "rounds": 1}))
    with ModelStore(folder, settings) as store:
        train(store)
        assert store.prune() == 120
    assert counted(folder)["hearts", "local"] == (4, 2, 2, 120, 0, 120)


def test_one_run_is_told_apart(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        other = replace(RUN, run_id="run-2", name="lungs")
        first = replace(model("i2", stage(store, "x", 0.0), 0, ModelKind.INITIAL), run_id="run-2")
        store.commit([other, first], 200.0)
    with ModelDB(folder) as db:
        (share,) = db.usage("run-2").shares
        assert (share.run, share.models, share.files, share.shared) == ("lungs", 1, 0, 60)
        assert {share.run for share in db.usage(RUN_ID).shares} == {"hearts"}


def test_the_rest_of_the_database_is_counted_too(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store)
        staging = store.stage("t9.weights", LAYOUT)
        staging.close()
        with ModelDB(folder) as db:
            found = db.usage()
            journal = folder / "fl.db-wal"
            assert found.database == db.file.stat().st_size + journal.stat().st_size
            assert (found.staged_files, found.staged) == (1, len(LAYOUT.header))
            assert found.free == 0
