"""How metrics went over the rounds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.curves import quantile
from tests.db.building import RUN, agent, begin, metric, train


def test_the_mean_and_each_agent(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)  # the loss of a is 1.0, 2.0, of b 1.1, 2.1; of all 1/2, 1/3
    with ModelDB(folder) as db:
        accuracy, loss = db.run().curves()
    assert (loss.source, loss.name, loss.rounds) == ("train", "loss", [1, 2])
    assert loss.mean == [0.5, 1 / 3]
    assert loss.agents == {"site a": [1.0, 2.0], "site b": [1.1, 2.1]}
    assert loss.quantiles is None
    assert (accuracy.source, accuracy.name, accuracy.mean) == ("evaluate", "accuracy", [0.5, 1 - 1 / 3])
    assert accuracy.agents == {}  # nobody told of its own


def test_rounds_that_were_undone_are_left_out(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        store.commit([replace(RUN, model_id="g1", rollbacks=1)], 200.0)
    with ModelDB(folder) as db:
        assert [curve.rounds for curve in db.run().curves()] == [[1], [1]]


def test_only_the_means_of_one_source(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with ModelDB(folder) as db:
        (curve,) = db.run().curves("train", agents=False)
    assert (curve.name, curve.mean, curve.agents, curve.quantiles) == ("loss", [0.5], None, None)


def test_many_agents_are_told_by_quantiles(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, agents="")
        # 0, 1, ..., 20 in round 1; in round 2 only 5 and 7.
        store.commit([metric("initial", 1, "loss", float(value), f"a{value:02}") for value in range(21)], 1.0)
        store.commit([metric("initial", 2, "loss", float(value), f"a{value:02}") for value in (5, 7)], 2.0)
    with ModelDB(folder) as db:
        (curve,) = db.run().curves()
    assert curve.agents is None
    assert curve.mean == [None, None]
    assert curve.quantiles == {
        "p10": [2.0, pytest.approx(5.2)],
        "p25": [5.0, 5.5],
        "p50": [10.0, 6.0],
        "p75": [15.0, 6.5],
        "p90": [18.0, pytest.approx(6.8)],
    }


def test_what_is_no_number_is_none(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        values = {1: 1.0, 2: math.nan, 3: math.inf, 4: 4.0}
        store.commit([metric("initial", number, "loss", value) for number, value in values.items()], 1.0)
        store.commit([metric("initial", 4, "loss", 4.5, "a")], 1.0)
    with ModelDB(folder) as db:
        (curve,) = db.run().curves()
    assert curve.rounds == [1, 2, 3, 4]
    assert curve.mean == [1.0, None, None, 4.0]
    assert curve.agents == {"site a": [None, None, None, 4.5]}


def test_agents_of_one_name_are_told_apart(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
        store.commit([replace(agent("b"), name="site a")], 2.0)
        store.commit([metric("initial", 1, "loss", 1.0, name) for name in "ab"], 3.0)
    with ModelDB(folder) as db:
        (curve,) = db.run().curves()
    assert curve.agents == {"site a (a)": [1.0], "site a (b)": [1.0]}


def test_a_run_without_a_round_has_no_curves(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db:
        assert db.run().curves() == []


@pytest.mark.parametrize("values", [[1.0], [1.0, 4.0], [0.5, 2.0, 2.0, 7.0, 9.0]])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy(values: list[float], part: float) -> None:
    assert quantile(values, part) == pytest.approx(float(np.quantile(values, part)))
    assert quantile([], part) is None
