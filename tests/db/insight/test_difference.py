"""How one model differs from another."""

import math
from pathlib import Path

import numpy as np
import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.difference import ArrayDifference, difference, total
from fl_main.errors import StoreError
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.sources import Held
from fl_main.weights import Layout, Role, Weights
from tests.db.building import answer_delta, train


def between(first: Weights, second: Weights, **roles: Role) -> list[ArrayDifference]:
    def held(weights: Weights) -> Held:
        return Held(
            weights, Layout.of(weights, {name: role for name, role in roles.items() if name in weights})
        )

    return list(difference(held(first), held(second)))


def test_one_array() -> None:
    first = {"w": np.array([[3.0, 0.0], [4.0, 0.0]])}
    second = {"w": np.array([[3.0, 0.0], [0.0, -12.0]])}
    (found,) = between(first, second)
    assert found.norm == 5.0
    assert found.other_norm == pytest.approx(math.sqrt(9 + 144))
    assert found.l2 == pytest.approx(math.sqrt(16 + 144))
    assert found.relative == pytest.approx(math.sqrt(160) / 5)
    assert found.cosine == pytest.approx(9 / (5 * math.sqrt(153)))
    assert (found.largest, found.at, found.changed) == (-12.0, (1, 1), 2)
    assert (found.not_finite, found.mismatch) == (0, "")
    (back,) = between(second, first)
    assert (back.largest, back.at, back.l2) == (12.0, (1, 1), found.l2)


def test_equal_and_empty_and_zero_arrays() -> None:
    (same,) = between({"w": np.ones(3)}, {"w": np.ones(3)})
    assert (same.l2, same.relative, same.largest, same.at, same.changed) == (0.0, 0.0, 0.0, None, 0)
    assert same.cosine == pytest.approx(1.0)
    (zero,) = between({"w": np.zeros(2)}, {"w": np.ones(2)})
    assert (zero.relative, zero.cosine) == (None, None)
    assert zero.l2 == pytest.approx(math.sqrt(2))
    (empty,) = between({"w": np.zeros((0, 2))}, {"w": np.zeros((0, 2))})
    assert (empty.l2, empty.at, empty.changed) == (0.0, None, 0)
    (scalar,) = between({"w": np.array(2.0)}, {"w": np.array(5.0)})
    assert (scalar.largest, scalar.at) == (3.0, ())


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    first, second = np.array([math.nan, 1.0, 2.0, math.inf]), np.array([1.0, 1.0, 4.0, math.inf])
    (found,) = between({"w": first}, {"w": second})
    assert (found.not_finite, found.l2, found.largest, found.at) == (2, 2.0, 2.0, (2,))
    assert found.norm == pytest.approx(math.sqrt(5))


def test_layouts_that_do_not_match_are_said() -> None:
    first: Weights = {"a": np.zeros(2), "b": np.zeros(3), "c": np.ones(2, np.float32), "n": np.array([1])}
    second: Weights = {"b": np.zeros((3, 1)), "c": np.zeros(2), "d": np.zeros(1), "n": np.array([3])}
    found = {entry.name: entry for entry in between(first, second, n=Role.BUFFER)}
    assert found["a"].mismatch == "only in the first model"
    assert found["d"].mismatch == "only in the second model"
    unlike = "{} (parameter) in the first model, {} (parameter) in the second"
    assert found["b"].mismatch == unlike.format("F64 [3]", "F64 [3, 1]")
    assert (found["b"].l2, found["b"].changed) == (None, None)
    # Types differ, but the values can be compared.
    assert found["c"].mismatch == unlike.format("F32 [2]", "F64 [2]")
    assert found["c"].l2 == pytest.approx(math.sqrt(2))
    assert (found["n"].role, found["n"].largest) == ("buffer", 2.0)


def test_all_parameters_taken_together() -> None:
    first = {"a": np.array([3.0]), "b": np.array([0.0, 4.0]), "n": np.array([7])}
    second = {"a": np.array([3.0]), "b": np.array([12.0, 4.0]), "n": np.array([9])}
    found = total(between(first, second))
    assert (found.norm, found.other_norm, found.l2) == (5.0, 13.0, 12.0)
    assert found.relative == pytest.approx(2.4)
    assert found.cosine == pytest.approx(25 / (5 * 13))
    assert (found.largest, found.changed) == (12.0, 1)  # integers are no trained parameters
    assert total([]).l2 == 0.0


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_main.db.insight.difference.STEP", 3)
    first, second = np.zeros((2, 5)), np.zeros((2, 5))
    second[1, 2], second[0, 1] = -2.0, 1.0
    (found,) = between({"w": first}, {"w": second})
    assert (found.largest, found.at, found.changed) == (-2.0, (1, 2), 2)
    assert found.l2 == pytest.approx(math.sqrt(5))


def test_stored_models(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)  # round 1 made 0.5 of 1.0 and 1.1
        answer_delta(store, "t", "a", 2.0, base="g1")
    with ModelDB(folder) as db:
        bias, layer = db.model("g1").difference(db.model("m1a"))
        assert (bias.name, bias.l2, bias.at) == ("bias", 0.5, (0,))
        assert layer.l2 == pytest.approx(1.5)  # nine times 0.5
        # A delta stands for base + delta: 2.0.
        bias, _ = db.model("g1").difference(db.model("d-t"))
        assert bias.largest == 1.5


def test_what_is_not_stored_is_said(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        store.prune()
    with ModelDB(folder) as db, pytest.raises(StoreError, match="m1a is not stored: deleted by"):
        db.model("g1").difference(db.model("m1a"))
