"""FedProx at the aggregator: FedAvg that tells its agents μ."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.strategies import FedProx, make_strategy
from tests.fl_main.strategies.arrays import folded

MODELS = [{"w": np.array([1.0, 10.0])}, {"w": np.array([2.0, 20.0])}]


def test_models_are_averaged_as_by_fedavg() -> None:
    np.testing.assert_allclose(folded(FedProx(), MODELS, [10, 30]).arrays["w"], [1.75, 17.5], rtol=1e-15)
    uniform = folded(FedProx(weighting="uniform"), MODELS, [10, 30])
    np.testing.assert_allclose(uniform.arrays["w"], [1.5, 15.0], rtol=1e-15)


def test_agents_are_told_mu() -> None:
    assert FedProx(0.01).correction() == {"name": "fedprox", "mu": 0.01}


@pytest.mark.parametrize("options", [{"mu": -0.1}, {"mu": "1"}, {"mu": True}, {"cap": 0}, {"lam": 1.0}])
def test_options_that_it_does_not_take_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("fedprox", options)
