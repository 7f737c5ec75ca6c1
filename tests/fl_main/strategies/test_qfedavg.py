"""q-FedAvg against numbers worked out by hand, from Algorithm 2 of Li et al. 2020."""

from typing import Any

import numpy as np
import pytest

from fl_main import run_local
from fl_main.agent import TrainResult
from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Contribution, QFedAvg, make_strategy
from fl_main.strategies.qfedavg import TINY
from tests.fl_main.strategies.arrays import Result, folded

BASE = {"w": np.array([1.0, 1.0])}
MODELS = [{"w": np.array([4.0, 5.0])}, {"w": np.array([1.0, 2.0])}]  # they add (3, 4) and (0, 1)


def fair(q: float, losses: tuple[float, float] = (4.0, 1.0), rate: float = 0.5) -> Result:
    facts = [Contribution(f"agent-{i}", 10 * i + 1, metrics={"loss": loss}) for i, loss in enumerate(losses)]
    return folded(QFedAvg(rate, q), MODELS, base=BASE, facts=facts)


def test_q_of_0_is_the_plain_mean() -> None:
    np.testing.assert_allclose(fair(0.0).arrays["w"], [2.5, 3.5], rtol=1e-9)


def test_a_high_loss_counts_for_more() -> None:
    # q = 1, L = 2: weights F L = 8 and 2; below: |L d|^2 + L F = 4 x 25 + 8 and 4 x 1 + 2, in all 114
    found = fair(1.0)
    np.testing.assert_allclose(found.arrays["w"], [1 + 8 / 114 * 3, 1 + 8 / 114 * 4 + 2 / 114], rtol=1e-8)
    assert found.folded.shares == pytest.approx((8 / 114, 2 / 114))
    assert found.folded.notes[0]["factor"] == pytest.approx(8 / 114)


def test_a_loss_of_0_is_no_division_by_0() -> None:
    weights = np.array([2 * TINY**0.5, 2.0])
    below = 0.5 * TINY**-0.5 * 4 * 25 + 2 * TINY**0.5 + 0.5 * 4 + 2
    found = fair(0.5, (0.0, 1.0))
    assert found.folded.shares == pytest.approx(tuple(weights / below))


@pytest.mark.parametrize(("q", "loss"), [(2.0, 1e300), (15.0, 1e25), (100.0, 1e-3), (1.0, 1e308)])
def test_the_power_of_a_large_loss_is_not_infinite(q: float, loss: float) -> None:
    # Next to F^q of the first the other is nothing: F^q L d / (q F^(q-1) |L d|^2 + L F^q), divided by F^q
    found = fair(q, (loss, loss * 1e-9))
    assert found.folded.shares[0] == pytest.approx(2 / (q / (loss + TINY) * 4 * 25 + 2), rel=1e-6)
    assert found.folded.shares[1] == pytest.approx(0, abs=1e-6)


HUGE = [{"w": np.array([1.0, 2.0])}, {"w": np.array([1e160, 0.0])}]  # a norm whose square is 1e320


def test_an_update_that_is_too_long_to_be_weighed_is_refused_by_name() -> None:
    facts = [Contribution(f"agent-{i}", 1, metrics={"loss": 1.0}) for i in range(2)]
    with pytest.raises(UpdateRejectedError, match=r"^agent-1: its update is too long to be weighed"):
        folded(QFedAvg(0.5, 1.0), HUGE, base=BASE, facts=facts)


@pytest.mark.parametrize(
    ("learning_rate", "q", "share"), [(1e-200, 1e-200, 1 / 6), (1e-200, 1e-100, 0.0), (1e-320, 0.0, 0.5)]
)
def test_a_learning_rate_by_which_nothing_can_be_divided_twice(
    learning_rate: float, q: float, share: float
) -> None:
    # Of equal losses of 1: 1 / (1 + 1 + q L 4); the first adds nothing, the second 2
    facts = [Contribution(f"agent-{i}", 1, metrics={"loss": 1.0}) for i in range(2)]
    models = [{"w": np.array([0.0, 0.0])}, {"w": np.array([2.0, 0.0])}]
    found = folded(QFedAvg(learning_rate, q), models, base={"w": np.zeros(2)}, facts=facts)
    assert found.folded.shares[1] == pytest.approx(share, abs=1e-9)


def test_q_of_0_weighs_no_length() -> None:
    facts = [Contribution(f"agent-{i}", 1, metrics={"loss": 1.0}) for i in range(2)]
    found = folded(QFedAvg(0.5, 0.0), HUGE, base=BASE, facts=facts)
    np.testing.assert_allclose(found.arrays["w"], [5e159, 1.0], rtol=1e-9)


CENTRES = {"few": -1.0, "many-1": 1.0, "many-2": 1.0, "many-3": 1.0}  # F_k(w) = (w - centre)^2 / 2


def descend(task: Any) -> TrainResult:
    w = task.weights["w"]
    loss = float((w[0] - task.data) ** 2) / 2
    return TrainResult({"w": w - 0.1 * (w - task.data)}, 1, metrics={"loss": loss})


@pytest.mark.parametrize("q", [0.0, 1.0, 4.0])
def test_losses_come_closer_the_larger_q_is(q: float) -> None:
    run = run_local(
        descend,
        CENTRES,
        {"w": np.zeros(1)},
        rounds=600,
        strategy="qfedavg",
        strategy_options={"learning_rate": 0.1, "q": q},
    )
    # Stationary where Σ F_k^q (w - centre_k) = 0: 3 (1 - w)^(2q + 1) = (1 + w)^(2q + 1)
    ratio = 3 ** (1 / (2 * q + 1))
    assert run.weights["w"][0] == pytest.approx((ratio - 1) / (ratio + 1), abs=1e-3)


@pytest.mark.parametrize("loss", [-0.1, float("nan"), float("inf")])
def test_a_loss_that_cannot_be_is_refused(loss: float) -> None:
    with pytest.raises(
        UpdateRejectedError, match=r"^agent-1: loss is .*; it must be a number of at least 0$"
    ):
        fair(1.0, (1.0, loss))


@pytest.mark.parametrize("options", [{}, {"learning_rate": 0}, {"learning_rate": 0.1, "q": -1}])
def test_options_that_it_does_not_take_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("qfedavg", options)
