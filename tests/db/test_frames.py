"""Records as tables of pandas and polars."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelDB, ModelStore, to_frame
from fl_main.errors import MissingExtraError
from tests.db.building import RUN, begin, metric, train

LIBRARIES = ["pandas", "polars"]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(
        request.param, reason=f"{request.param} is not installed: pip install {request.param}"
    )
    return request.param


@pytest.fixture
def db(folder: Path) -> ModelDB:
    with ModelStore(folder) as store:
        train(store)
    return ModelDB(folder)


def column(frame: Any, name: str) -> list[Any]:
    return list(frame[name])


def test_rounds(db: ModelDB, library: Any) -> None:
    frame = to_frame(db.run().rounds(), library)
    assert type(frame).__module__.partition(".")[0] == library
    assert len(frame) == 3
    assert column(frame, "round_id") == [0, 1, 2]
    assert column(frame, "status") == ["done"] * 3
    assert column(frame, "train.loss.value")[1:] == [1 / 2, 1 / 3]
    assert column(frame, "effort.counted") == [0, 2, 2]
    assert column(frame, "kind")[1] == "train"


def test_updates_models_agents_and_events(db: ModelDB, library: Any) -> None:
    run = db.run()
    updates = to_frame(run.updates(), library)
    assert column(updates, "verdict") == ["accepted"] * 4
    assert column(updates, "metrics.loss") == [0.25] * 4
    assert column(to_frame(run.models("global"), library), "model_id") == ["g1", "g2"]
    agents = to_frame(run.agents(), library)
    assert column(agents, "attributes.beds") == [3, 3]
    assert [list(kinds) for kinds in column(agents, "kinds")] == [["train"], ["train"]]
    assert column(to_frame(run.events(), library), "kind")[0] == "run_created"
    assert column(to_frame([each.facts for each in db.runs()], library), "settings.round.deadline_s") == [1.5]


def test_curves_have_a_row_for_each_value(db: ModelDB, library: Any) -> None:
    frame = to_frame(db.run().curves("train"), library)
    assert column(frame, "agent") == ["", "", "site a", "site a", "site b", "site b"]
    assert column(frame, "round_id") == [1, 2] * 3
    assert column(frame, "value") == [1 / 2, 1 / 3, 1.0, 2.0, 1.1, 2.1]
    assert set(column(frame, "name")) == {"loss"}


def test_quantiles_of_many_agents(folder: Path, library: Any) -> None:
    with ModelStore(folder) as store:
        begin(store, agents="")
        store.commit([metric("initial", 1, "loss", float(value), f"a{value:02}") for value in range(21)], 1.0)
    with ModelDB(folder) as found:
        frame = to_frame(found.run().curves(), library)
    assert column(frame, "agent") == ["", "p10", "p25", "p50", "p75", "p90"]
    assert column(frame, "value")[1:] == [2.0, 5.0, 10.0, 15.0, 18.0]


def test_a_heat_map(db: ModelDB, library: Any) -> None:
    frame = to_frame(db.run().heat("train_loss"), library)
    assert column(frame, "agent") == ["site a", "site a", "site b", "site b"]
    assert column(frame, "train_loss") == [0.25] * 4
    assert column(frame, "outlier") == [False] * 4


def test_arrays_and_differences(db: ModelDB, library: Any) -> None:
    frame = to_frame(db.model("g1").difference(db.model("g2")), library)
    assert column(frame, "name") == ["bias", "layer/w"]
    assert column(frame, "changed") == [1, 9]
    assert column(to_frame(db.model("g1").arrays(), library), "dtype") == ["F64", "F32"]


def test_none_and_what_only_some_have(folder: Path, library: Any) -> None:
    assert len(to_frame([], library)) == 0
    with ModelStore(folder) as store:
        store.commit([RUN, replace(RUN, run_id="run-2", settings={"seed": 7})], 1.0)
    with ModelDB(folder) as found:
        frame = to_frame([run.facts for run in found.runs()], library)
    assert column(frame, "settings.seed")[1] == 7
    assert column(frame, "settings.seed")[0] != 7


def test_which_library_is_taken(db: ModelDB, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    rounds = db.run().rounds()
    assert type(to_frame(rounds)).__module__.startswith("pandas")
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match="a frame needs pandas or polars: pip install pandas"):
        to_frame(rounds)
    with pytest.raises(MissingExtraError, match="polars is not installed: pip install polars"):
        to_frame(rounds, "polars")
