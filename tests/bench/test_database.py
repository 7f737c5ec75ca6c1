"""The generator of model databases makes what a daemon writes."""

from pathlib import Path

import pytest

from bench.database.make import Shape, make
from fl_main.db import ModelDB, verify_database
from fl_main.store import RunStatus

SHAPE = Shape(runs=5, rounds=2, agents=40, values=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "models"
    make(folder, SHAPE)
    return folder


def test_it_is_whole(folder: Path) -> None:
    assert verify_database(folder) == []


def test_it_has_runs_of_all_modes_and_what_they_are_made_of(folder: Path) -> None:
    with ModelDB(folder) as found:
        runs = found.runs()
        assert {run.facts.settings["mode"] for run in runs} == {"sync", "semi-sync", "async"}
        updates = [update for run in runs for update in run.updates()]
        late = [update for update in updates if update.reason.startswith("late")]
        assert late
        assert 300 < len(updates) < 500
        for run in runs:
            assert run.facts.agents == SHAPE.agents
            assert run.facts.best_model_id
            trained = run.rounds()[1:]
            assert [entry.status for entry in trained] == ["done"] * SHAPE.rounds
            assert all(entry.train and entry.evaluate for entry in trained)
            assert run.events()


def test_the_same_shape_gives_the_same_models(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", SHAPE)
    with ModelDB(folder) as one, ModelDB(tmp_path / "again") as other:
        assert [run.last for run in one.runs()] == [run.last for run in other.runs()]


def test_the_last_runs_can_be_left_under_way(tmp_path: Path) -> None:
    make(tmp_path / "models", Shape(runs=10, rounds=1, agents=20, values=4))
    with ModelDB(tmp_path / "models") as found:
        statuses = [run.status for run in found.runs()]
    assert statuses == [RunStatus.FINISHED] * 9 + [RunStatus.RUNNING]
    assert verify_database(tmp_path / "models") == []
