"""FedCurv at the aggregator: FedAvg, and the sums that it sends back."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.strategies import FedCurv, make_strategy
from tests.fl_main.strategies.arrays import folded, memory

MODELS = [{"w": np.array([1.0, 10.0])}, {"w": np.array([2.0, 20.0])}]
SENT = [
    {"fisher": memory({"w": np.array([1.0, 0.0])}), "weighted": memory({"w": np.array([1.0, 0.0])})},
    {"fisher": memory({"w": np.array([3.0, 2.0])}), "weighted": memory({"w": np.array([6.0, 40.0])})},
]


def test_models_are_averaged_and_what_came_with_them_is_added_up() -> None:
    found = folded(FedCurv(), MODELS, [10, 30], channels=SENT)
    np.testing.assert_allclose(found.arrays["w"], [1.75, 17.5], rtol=1e-15)
    np.testing.assert_array_equal(found.state["fisher"].arrays["w"], [4.0, 2.0])
    np.testing.assert_array_equal(found.state["weighted"].arrays["w"], [7.0, 40.0])


def test_sums_are_those_of_the_last_round_only() -> None:
    first = folded(FedCurv(), MODELS, channels=SENT)
    second = folded(FedCurv(), MODELS[:1], channels=SENT[:1], state=first.state)
    np.testing.assert_array_equal(second.state["fisher"].arrays["w"], [1.0, 0.0])


def test_agents_are_told_lambda() -> None:
    assert FedCurv(2.0).correction() == {"name": "fedcurv", "lam": 2.0}


@pytest.mark.parametrize("options", [{"lam": -1.0}, {"lam": None}, {"weighting": "size"}, {"mu": 1.0}])
def test_options_that_it_does_not_take_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("fedcurv", options)
