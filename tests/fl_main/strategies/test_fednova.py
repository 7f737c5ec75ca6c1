"""FedNova against numbers worked out by hand, and against the optimum of a quadratic."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fl_main import run_local
from fl_main.agent import TrainResult
from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Contribution, FedNova, make_strategy
from tests.fl_main.strategies.arrays import folded

BASE = {"w": np.array([1.0])}
MODELS = [{"w": np.array([5.0])}, {"w": np.array([2.0])}]  # they add 4 and 1


def moved(strategy: FedNova, steps: tuple[int | None, ...] = (4, 1), **metrics: float) -> float:
    facts = [
        Contribution(f"agent-{i}", count, number, metrics={"a_k": metrics[f"a{i}"]} if metrics else {})
        for i, (count, number) in enumerate(zip((1, 3), steps, strict=True))
    ]
    return float(folded(strategy, MODELS, base=BASE, facts=facts).arrays["w"][0]) - 1.0


def test_updates_are_divided_by_their_steps() -> None:
    # tau_eff = 4 / 4 + 3 x 1 / 4 = 1.75; 1.75 x (1/4 x 4/4 + 3/4 x 1/1)
    assert moved(FedNova()) == pytest.approx(1.75, rel=1e-15)


def test_equal_steps_are_the_mean_by_examples() -> None:
    assert moved(FedNova(), (3, 3)) == pytest.approx((4 + 3 * 1) / 4, rel=1e-15)


def test_momentum_makes_later_steps_count_more() -> None:
    # rho = 1/2: after 2 steps gradients count 1.5 and 1: a = 2.5; after 1 step 1. tau_eff = 2/4 + 3/4
    expected = 1.25 * (4 / 2.5 / 4 + 3 / 4)
    assert moved(FedNova(momentum=0.5), (2, 1)) == pytest.approx(expected, rel=1e-15)
    by_a = (2.5 / 4 + 3 / 4) * (4 / 2.5 / 4 + 3 / 4)
    assert moved(FedNova(momentum=0.5, tau_eff="a"), (2, 1)) == pytest.approx(by_a, rel=1e-15)


@pytest.mark.parametrize(("options", "a"), [({"momentum": 0.5}, 2.5), ({"proximal": 0.5}, 1.5)])
def test_equal_steps_are_the_mean_times_tau_by_a(options: dict[str, Any], a: float) -> None:
    mean = (4 + 3 * 1) / 4
    assert moved(FedNova(**options), (2, 2)) == pytest.approx(mean * 2 / a, rel=1e-15)
    assert moved(FedNova(**options, tau_eff="a"), (2, 2)) == pytest.approx(mean, rel=1e-15)


def test_a_proximal_term_makes_earlier_steps_count_less() -> None:
    # alpha = 1/2: after 2 steps gradients count 1/2 and 1: a = 1.5
    expected = 1.25 * (4 / 1.5 / 4 + 3 / 4)
    assert moved(FedNova(proximal=0.5), (2, 1)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("alpha", [1e-17, 1e-320])
def test_a_proximal_term_of_next_to_nothing_is_none(alpha: float) -> None:
    assert moved(FedNova(proximal=alpha)) == pytest.approx(moved(FedNova()), rel=1e-15)


@pytest.mark.parametrize("rest", [2**-53, 1e-12, 1e-7, 3e-4, 1.5e-3, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 1000])
def test_a_momentum_next_to_one_is_the_sum_of_what_each_gradient_counts(rest: float, steps: int) -> None:
    rho = 1 - Fraction(1 - (1 - rest))
    powers = [rho**i for i in range(steps)]
    a = float(sum((steps - i) * power for i, power in enumerate(powers)))  # gradient j counts Σ_{i<=τ-j} ρ^i
    # Both make as many steps, so that each difference counts τ / a
    found = moved(FedNova(momentum=1 - rest), (steps, steps))
    assert found == pytest.approx((4 + 3 * 1) / 4 * steps / a, rel=1e-11)


def test_agents_may_report_what_their_gradients_count() -> None:
    found = moved(FedNova(reported=True), (2, 1), a0=2.5, a1=1.0)
    assert found == pytest.approx(moved(FedNova(momentum=0.5), (2, 1)), rel=1e-15)
    assert FedNova(reported=True).needs == ("num_steps", "a_k")


# F_k(w) = c/2 (w - b)^2 at sites of n examples that make so many steps
SITES: dict[str, tuple[float, float, int, int]] = {"few": (1.0, 0.0, 100, 1), "many": (2.0, 3.0, 50, 20)}
RATE = 0.05


def descend(task: Any) -> TrainResult:
    c, b, examples, steps = task.data
    w = task.weights["w"].copy()
    for _ in range(steps):
        w -= task.config["rate"] * c * (w - b)
    return TrainResult({"w": w}, examples, num_steps=steps)


def final(strategy: str, rate: float) -> float:
    run = run_local(
        descend, SITES, {"w": np.zeros(1)}, rounds=round(20 / rate), strategy=strategy, config={"rate": rate}
    )
    return float(run.weights["w"][0])


def test_unequal_steps_lead_to_the_optimum_of_all_examples_as_the_rate_falls() -> None:
    optimum = sum(n * c * b for c, b, n, _ in SITES.values()) / sum(n * c for c, _, n, _ in SITES.values())
    assert optimum == 1.5
    # It ends where the differences divided by steps cancel out: with weights n (1 - (1 - rate c)^K) / K.
    found = {rate: final("fednova", rate) for rate in (0.1, 0.01)}
    for rate, end in found.items():
        weights = {
            name: n * (1 - (1 - rate * c) ** steps) / steps for name, (c, _, n, steps) in SITES.items()
        }
        fixed = sum(weights[name] * b for name, (_, b, _, _) in SITES.items()) / sum(weights.values())
        assert end == pytest.approx(fixed, abs=1e-6)
    assert abs(found[0.01] - optimum) < abs(found[0.1] - optimum)
    assert found[0.01] == pytest.approx(optimum, abs=0.15)
    assert final("fedavg", 0.01) > 2.5  # the site of many steps has it nearly to itself


@pytest.mark.parametrize("steps", [0, None])
def test_updates_without_steps_are_refused(steps: int | None) -> None:
    with pytest.raises(UpdateRejectedError, match=r"^agent-1: num_steps is 0; it must be at least 1$"):
        moved(FedNova(), (4, steps))


@pytest.mark.parametrize("a", [0.0, -1.0, float("nan"), float("inf")])
def test_a_report_that_cannot_be_is_refused(a: float) -> None:
    with pytest.raises(
        UpdateRejectedError, match=r"^agent-0: a_k is .*; it must be a number of more than 0$"
    ):
        moved(FedNova(reported=True), a0=a, a1=1.0)
    with pytest.raises(UpdateRejectedError, match=r"^agent-0: num_steps is 0"):
        moved(FedNova(reported=True), (0, 1), a0=1.0, a1=1.0)  # of no steps in all, nothing would move


def test_a_report_that_nothing_can_be_divided_by_is_refused_by_name() -> None:
    with pytest.raises(UpdateRejectedError, match=r"^agent-1: a_k is 1e-310; it is too small to divide by$"):
        moved(FedNova(reported=True), a0=1.0, a1=1e-310)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"proximal": -0.1},
        {"tau_eff": "x"},
        {"reported": 1},
        {"momentum": 0.5, "reported": True},
    ],
)
def test_options_that_it_does_not_take_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("fednova", options)
