"""FedAvg against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError, StrategyError
from fl_main.strategies import Contribution, FedAvg, Strategy, make_strategy
from fl_main.strategies.fedavg import running_shares
from tests.fl_main.strategies.arrays import folded

HERE = "tests.fl_main.strategies.test_fedavg"
MODELS = [{"w": np.array([1.0, 10.0])}, {"w": np.array([2.0, 20.0])}, {"w": np.array([5.0, 0.0])}]


def test_models_are_weighted_by_their_examples() -> None:
    found = folded(FedAvg(), MODELS, [10, 30, 60])
    # (10 x 1 + 30 x 2 + 60 x 5) / 100 = 3.7; (10 x 10 + 30 x 20) / 100 = 7
    np.testing.assert_allclose(found.arrays["w"], [3.7, 7.0], rtol=1e-15)
    assert found.folded.shares == (0.1, 0.3, 0.6)
    assert found.folded.notes == ({}, {}, {})


def test_uniform_counts_every_update_once() -> None:
    found = folded(FedAvg(weighting="uniform"), MODELS, [10, 30, 60])
    np.testing.assert_allclose(found.arrays["w"], [8 / 3, 10.0], rtol=1e-15)
    assert found.folded.shares == (1 / 3, 1 / 3, 1 / 3)


def test_a_cap_limits_what_one_update_counts_for() -> None:
    found = folded(FedAvg(cap=20), MODELS, [10, 30, 60])
    # (10 x 1 + 20 x 2 + 20 x 5) / 50 = 3; (10 x 10 + 20 x 20) / 50 = 10
    np.testing.assert_allclose(found.arrays["w"], [3.0, 10.0], rtol=1e-15)
    assert found.folded.shares == (0.2, 0.4, 0.4)


def test_one_update_is_the_new_model() -> None:
    assert folded(FedAvg(), MODELS[:1], [7]).model.data == np.array([1.0, 10.0]).tobytes()


@pytest.mark.parametrize(("weighting", "parts"), [("examples", (0.25, 0.75)), ("uniform", (0.5, 0.5))])
def test_staleness_alone_counts_for_nothing(weighting: str, parts: tuple[float, float]) -> None:
    facts = [Contribution("a", 10), Contribution("b", 30, staleness=3)]
    assert (
        folded(make_strategy("fedavg", {"weighting": weighting}), MODELS[:2], facts=facts).folded.shares
        == parts
    )


def test_late_updates_count_as_much_as_their_discount_leaves() -> None:
    facts = [Contribution("a", 10), Contribution("b", 60, staleness=3, discount=0.5)]
    found = folded(FedAvg(), MODELS[:2], facts=facts)
    # (10 x 1 + 60 / 2 x 2) / 40 = 1.75; (10 x 10 + 60 / 2 x 20) / 40 = 17.5
    np.testing.assert_allclose(found.arrays["w"], [1.75, 17.5], rtol=1e-15)
    assert found.folded.shares == (0.25, 0.75)
    uniform = folded(FedAvg(weighting="uniform"), MODELS[:2], facts=facts)
    assert uniform.folded.shares == pytest.approx((2 / 3, 1 / 3))


def test_running_shares_are_parts_of_what_came_so_far() -> None:
    assert running_shares([10, 30, 60]) == [1.0, 0.75, 0.6]
    assert running_shares([0, 5, 0, 5]) == [0.0, 1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    "options", [{"weighting": "size"}, {"cap": 0}, {"cap": 1.5}, {"cap": True}, {"cup": 1}]
)
def test_options_that_it_does_not_take_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("fedavg", options)


def test_error_says_which_options_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        make_strategy("fedavg", {"cup": 1})
    assert str(caught.value) == (
        "strategy_options: fedavg: got an unexpected keyword argument 'cup'; its options: weighting, cap"
    )


class Picky(FedAvg):
    def __init__(self, rate: float) -> None:
        raise ValueError(f"rate {rate}\nis not mine")


def test_constructor_that_raises_is_one_line() -> None:
    with pytest.raises(SettingsError) as caught:
        make_strategy(f"{HERE}:Picky", {"rate": 5})
    assert str(caught.value) == f"strategy_options: {HERE}:Picky: rate 5 is not mine; its options: rate"


class Mine(FedAvg):
    """A strategy of the user's own."""


class Wrong(FedAvg):
    down = ("control",)


class Shadow(FedAvg):
    up = ("weights",)


def not_one() -> object:
    return 5


def test_a_strategy_of_ones_own_is_found_by_its_path() -> None:
    found = make_strategy("tests.fl_main.strategies.test_fedavg:Mine", {"cap": 3})
    assert isinstance(found, Strategy)
    assert type(found).__name__ == "Mine"


@pytest.mark.parametrize(
    "name", ["fedawg", "no.such.module:Class", "json:Strategy", ":x", ".relative:x", "json:__name__"]
)
def test_a_strategy_that_is_not_there_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError, match="strategy: "):
        make_strategy(name, {})


@pytest.mark.parametrize("name", ["Wrong", "Shadow", "not_one"])
def test_what_keeps_no_contract_is_refused(name: str) -> None:
    with pytest.raises(StrategyError, match="strategy: "):
        make_strategy(f"tests.fl_main.strategies.test_fedavg:{name}", {})
