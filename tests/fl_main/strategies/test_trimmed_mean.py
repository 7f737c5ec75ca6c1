"""The coordinate-wise trimmed mean against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import TrimmedMean, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

MODELS = [
    {"w": np.array(values)} for values in ([1.0, -50.0], [2.0, 3.0], [3.0, 5.0], [4.0, 4.0], [99.0, 0.0])
]


def test_the_ends_of_each_value_are_left_out() -> None:
    found = folded(TrimmedMean(beta=0.2), MODELS)  # one at each end
    np.testing.assert_allclose(found.arrays["w"], [3.0, 7 / 3], rtol=1e-15)
    assert folded(TrimmedMean(beta=0.4), MODELS).arrays["w"].tolist() == [3.0, 3.0]  # two: the median


def test_as_many_are_dropped_as_whole_updates_make_up_beta() -> None:
    models = [{"w": np.array([float(value)])} for value in range(10)] + [{"w": np.array([1e6])}]
    # ⌊0.2 x 11⌋ = 2: the mean of 2 … 8
    assert folded(TrimmedMean(beta=0.2), models).arrays["w"].item() == pytest.approx(5.0)


def test_one_or_two_are_left_however_near_to_a_half_beta_is() -> None:
    models = [{"w": np.array([float(value)])} for value in (0, 1, 2, 1e6)]
    for beta in (0.4999, 0.4999999999):
        assert folded(TrimmedMean(beta), models).arrays["w"].item() == 1.5
        assert TrimmedMean(beta).bears(4) == 1


def test_running_statistics_are_trimmed_too() -> None:
    models = [{"w": np.zeros(1), "var": np.array([value])} for value in (1.0, 2.0, 6.0, 4.0, 1e30)]
    found = folded(TrimmedMean(), models, roles={"var": Role.BUFFER}).arrays
    assert found["var"].item() == 4.0  # of 2, 4 and 6


@pytest.mark.parametrize(
    ("beta", "updates", "borne"), [(0.2, 5, 1), (0.2, 9, 1), (0.2, 10, 2), (0.29, 100, 29), (0.1, 30, 3)]
)
def test_it_bears_what_it_drops_at_one_end(beta: float, updates: int, borne: int) -> None:
    assert TrimmedMean(beta).bears(updates) == borne


@pytest.mark.parametrize(("beta", "least"), [(0.2, 5), (0.1, 10), (0.3, 4), (0.49, 3)])
def test_it_needs_as_many_as_let_it_drop_one(beta: float, least: int) -> None:
    assert TrimmedMean(beta).min_updates == least
    assert TrimmedMean(beta).bears(least) == 1
    assert TrimmedMean(beta).bears(least - 1) == 0


def test_too_few_are_refused() -> None:
    with pytest.raises(
        UpdateRejectedError, match=r"^4 updates, .* needs 5: of fewer, beta = 0\.2 drops none$"
    ):
        folded(TrimmedMean(), MODELS[:4])


@pytest.mark.parametrize("beta", [0, -0.1, 0.5, 1, "0.1", None, True])
def test_beta_is_a_part_below_a_half(beta: object) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.beta: "):
        make_strategy("trimmed_mean", {"beta": beta})
