"""Norm bound against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.strategies import compose, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

BASE = {"a": np.array([1.0, 1.0]), "b": np.array([0.0], "f4")}
# What they add: (2, 4) and 4, of norm 6 over both arrays; and (0, 0) and 3.
MODELS = [
    {"a": np.array([3.0, 5.0]), "b": np.array([4.0], "f4")},
    {"a": np.array([1.0, 1.0]), "b": np.array([3.0], "f4")},
]


def test_an_update_is_scaled_to_the_norm_over_all_arrays() -> None:
    found = folded(compose("norm_bound", {"bound": 3.0}), MODELS[:1], base=BASE)
    assert {name: array.tolist() for name, array in found.arrays.items()} == {"a": [2.0, 3.0], "b": [2.0]}
    assert found.folded.notes == ({"norm": 6.0, "factor": 0.5},)
    assert found.folded.shares == (0.5,)  # the other half of running statistics is the base's


def test_what_is_within_the_bound_stays_as_it_is_bit_for_bit() -> None:
    found = folded(compose("norm_bound", {"bound": 6.0}), MODELS, [1, 2], base=BASE)
    assert found.model.data == folded(compose("fedavg"), MODELS, [1, 2], base=BASE).model.data


def test_an_update_of_nothing_has_a_factor_of_1() -> None:
    found = folded(compose("norm_bound", {"bound": 1.0}), [BASE], base=BASE)
    assert found.folded.notes == ({"norm": 0.0, "factor": 1.0},)


def test_a_round_of_an_update_whose_norm_is_no_float64_changes_nothing() -> None:
    base = {"w": np.array([1.0, 2.0]), "var": np.array([3.0]), "n": np.array([2**62 + 1])}
    attack = {"w": np.array([1e200, -1e200]), "var": np.array([9.0]), "n": np.array([9])}
    found = folded(compose("norm_bound", {"bound": 1.0}), [attack], base=base, roles={"var": Role.BUFFER})
    assert {name: array.tolist() for name, array in found.arrays.items()} == {
        name: array.tolist() for name, array in base.items()
    }
    assert found.folded.shares == (0.0,)


@pytest.mark.parametrize("boost", [1e3, 1e30])
def test_a_boosted_update_moves_the_model_by_no_more_than_the_bound(boost: float) -> None:
    honest, attack = {"w": np.zeros(4, "f4")}, {"w": np.full(4, boost, "f4")}
    found = folded(compose("norm_bound", {"bound": 1.0}), [honest] * 9 + [attack], base=honest)
    assert np.linalg.norm(found.arrays["w"]) == pytest.approx(0.1, rel=1e-5)  # one of ten


@pytest.mark.parametrize("bound", [0, -1, float("inf"), "1", True, None])
def test_the_bound_is_a_number_above_0(bound: object) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.bound: .* is not a number above 0$"):
        make_strategy("norm_bound", {"bound": bound})
