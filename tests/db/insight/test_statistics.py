"""How the values of a model are spread."""

import math
from pathlib import Path

import numpy as np
import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.statistics import histograms
from fl_main.errors import NotFoundError, StoreDamagedError, StoreError
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.sources import Held
from fl_main.weights import Array, Layout
from tests.db.building import answer_delta, train


def of(array: Array, bins: int = 4) -> "tuple[list[float], list[int]]":
    (found,) = histograms(Held({"w": array}, Layout.of({"w": array})), bins)
    return found.edges, found.counts


def test_counts_and_facts() -> None:
    values = np.array([0.0, 1.0, 1.0, 2.0, 3.5, 4.0, math.nan, math.inf, -math.inf], np.float32)
    (found,) = histograms(Held({"w": values}, Layout.of({"w": values})), 4)
    assert found.edges == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert found.counts == [1, 2, 1, 2]  # a value on an edge is in the bin that begins there; the last: 4
    assert (found.name, found.dtype, found.shape, found.role, found.size) == (
        "w",
        "F32",
        (9,),
        "parameter",
        9,
    )
    assert (found.least, found.largest, found.zeros, found.nan, found.infinite) == (0.0, 4.0, 1, 1, 2)
    # 0 + 1 + 1 + 2 + 3.5 + 4 = 11.5; the squares are 1 + 1 + 4 + 12.25 + 16 = 34.25
    assert found.mean == pytest.approx(11.5 / 6)
    assert found.norm == pytest.approx(math.sqrt(34.25))
    assert found.deviation == pytest.approx(math.sqrt(34.25 / 6 - (11.5 / 6) ** 2))


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 1000)
    weights = {"w": values}
    whole = list(histograms(Held(weights, Layout.of(weights))))
    monkeypatch.setattr("fl_main.db.arrays.STEP", 7)
    (cut,) = histograms(Held(weights, Layout.of(weights)))
    assert (cut.edges, cut.counts) == (whole[0].edges, whole[0].counts)
    assert sum(cut.counts) == 1000
    assert (cut.mean, cut.deviation) == pytest.approx((values.mean(), values.std()))


def test_arrays_without_a_spread() -> None:
    assert of(np.full(3, 2.0)) == ([2.0, 2.0], [3])
    assert of(np.zeros((0, 3), np.float32)) == ([], [])
    assert of(np.array([math.nan])) == ([], [])
    edges, counts = of(np.array([-1.7e308, 1.7e308]), 2)  # their difference is no float64
    assert (edges, counts) == ([-1.7e308, 0.0, 1.7e308], [1, 1])
    assert of(np.array([True, False, True]), 2) == ([0.0, 0.5, 1.0], [1, 2])
    assert of(np.array([-3, 5], np.int8), 2) == ([-3.0, 1.0, 5.0], [1, 1])


def test_a_stored_model(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with ModelDB(folder) as db:
        bias, layer = db.model("m1b").histograms(bins=2)
        assert (bias.name, bias.edges) == ("bias", [-1.0, pytest.approx(0.05), 1.1])  # of 1.1, 0.5, -1
        assert bias.counts == [1, 2]
        assert layer.counts == [9]  # all are 1.1
        (chosen,) = db.model("m1b").histograms(arrays=["bias"])
        assert len(chosen.counts) == 20
        with pytest.raises(NotFoundError, match="the model has no array 'x'; it has: bias, layer/w"):
            db.model("m1b").histograms(arrays=["x"])


def test_a_delta_is_taken_with_its_base_unless_told_otherwise(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
        answer_delta(store, "t", "a", 2.0, base="g1")  # 0.5 -> 2.0
    with ModelDB(folder) as db:
        delta = db.model("d-t")
        assert [entry.largest for entry in delta.histograms()] == [2.0, 2.0]
        assert [entry.largest for entry in delta.histograms(as_stored=True)] == [1.5, 1.5]


def test_what_is_not_there_is_said(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        store.prune()
    with ModelDB(folder) as db:
        with pytest.raises(StoreError, match="m1a is not stored: deleted by the retention settings"):
            db.model("m1a").histograms()
        db.model("g2").path.unlink()
        with pytest.raises(StoreDamagedError, match="is missing"):
            db.model("g2").histograms()
