"""The generator of model databases makes what a daemon writes."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.database.crowd import measure_crowd
from bench.database.figures import Database, Groups, Readers, database_of
from bench.database.groups import measure_groups
from bench.database.make import Shape, make
from bench.database.pages import time_pages
from bench.database.readers import measure_readers
from bench.database.words import told_crowd, told_database
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


def test_updates_of_many_agents_go_into_the_database_in_groups(tmp_path: Path) -> None:
    found = measure_groups(tmp_path / "models", agents=60, rounds=2, values=4)
    assert found.agents == 60
    assert found.records > 5 * 60  # of each update: its row, its task twice, its model, a metric
    assert found.transactions < 60 / 2
    assert found.largest > 2 * found.records / 60  # more than one update's
    assert verify_database(tmp_path / "models") == []


def test_readers_and_a_writer_have_no_errors(folder: Path) -> None:
    found = measure_readers(folder, seconds=0.5, readers=1)
    assert found.reads > 0
    assert found.errors == 0
    assert verify_database(folder) == []


def test_readers_pruning_and_exporting_beside_a_writer_have_no_errors(folder: Path, tmp_path: Path) -> None:
    found = measure_crowd(folder, tmp_path, seconds=3.0, readers=3)
    assert found.errors == 0
    assert min(found.reads, found.exports) > 0
    assert found.updates_per_s > 0
    assert "3 readers, `fl db prune` and `fl db export` at once" in told_crowd(found)
    assert verify_database(folder) == []


def test_every_page_and_answer_is_asked_for(folder: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra web: pip install -e '.[web]'")
    found = time_pages(folder, turns=1)
    assert {"/", "/runs/RUN", "/runs/RUN/rounds", "/models/RUN:best", "/api/runs/RUN/heat"} <= found.keys()
    assert {"/api/models/RUN:best/difference?other=RUN:2"} <= found.keys()
    assert "/api/changes" not in found


FOUND = Database(
    {"runs": 1, "updates": 1000},
    12.3,
    4.5,
    {"fl db runs": 0.1, "(completion)": 0.08, "fl why (of a daemon)": 0.2},
    1.5,
    0.75,
    Groups(1000, 1.5, 6, 6000, 2500, 0.5),
    Readers(2, 50.0, 900, 0, 0.02, 0.01, 0.03, 0.005),
    {"/runs/RUN": 0.05},
)


def test_what_was_found_is_told() -> None:
    assert told_database(None) == "Not measured."
    text = told_database(FOUND).splitlines()
    assert text[0] == "On a database of 1 runs, 1,000 updates; `fl.db` has 12 MB:"
    assert "| `fl db runs` | 0.10 |" in text
    assert "| `fl why` (of a daemon) | 0.20 |" in text
    assert "| (completion) | 0.08 |" in text
    assert "| `/runs/RUN` | 0.05 |" in text
    assert text[-3].endswith("6,000 records, 2,500 in the largest transaction, 12,000 a second.")
    assert "The longest transaction took 20 ms (10 ms without readers)" in text[-1]


def test_what_was_found_is_read_as_it_was_written() -> None:
    assert database_of(json.loads(json.dumps(asdict(FOUND)))) == FOUND
    bare = Database({}, 1.0, 2.0)
    assert database_of(asdict(bare)) == bare
