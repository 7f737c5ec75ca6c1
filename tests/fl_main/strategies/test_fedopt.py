"""FedAdagrad, FedAdam, FedYogi and FedAvgM against numbers worked out by hand, from their papers."""

import math
from typing import Any

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.strategies import compose, make_strategy
from tests.fl_main.strategies.arrays import Memory, folded

BASE = 1.0
DELTAS = (2.0, -1.0)  # what the rule finds beside the base, round by round


def rounds(name: str, **options: Any) -> list[float]:
    """Return the global model after each round."""
    model, state, made = {"w": np.array([BASE])}, dict[str, Memory](), []
    for version, delta in enumerate(DELTAS, start=1):
        result = folded(
            compose(name, options), [{"w": model["w"] + delta}], base=model, state=state, version=version
        )
        model, state = result.arrays, result.state
        made.append(float(model["w"][0]))
    return made


def test_momentum_adds_up() -> None:
    # v = 2, then 0.5 x 2 - 1 = 0: 1 + 0.1 x 2 = 1.2, and no further
    assert rounds("fedavgm", eta=0.1, beta=0.5) == pytest.approx([1.2, 1.2], rel=1e-15)


def test_without_momentum_and_with_a_rate_of_1_it_is_the_mean() -> None:
    assert rounds("fedavgm", eta=1.0, beta=0.0) == [3.0, 2.0]


def test_adagrad_adds_up_the_squares() -> None:
    # v = 0.25 + 4, then + 1: steps of 2 / (sqrt(4.25) + 0.5) and -1 / (sqrt(5.25) + 0.5)
    first = BASE + 0.1 * 2 / (math.sqrt(4.25) + 0.5)
    second = first - 0.1 / (math.sqrt(5.25) + 0.5)
    assert rounds("fedadagrad", eta=0.1, tau=0.5) == pytest.approx([first, second], rel=1e-14)


def test_adam_averages_the_squares() -> None:
    # m = 0.5 x 2 = 1, then 0.5 x 1 - 0.5 = 0; v = 0.75 x 0.25 + 0.25 x 4 = 1.1875
    first = BASE + 0.1 / (math.sqrt(1.1875) + 0.5)
    assert rounds("fedadam", eta=0.1, beta1=0.5, beta2=0.75, tau=0.5) == pytest.approx(
        [first, first], rel=1e-14
    )


def test_yogi_goes_towards_the_square_by_its_size_only() -> None:
    # v = 0.25 + 0.25 x 4 = 1.25 as 0.25 < 4, then 1.25 - 0.25 x 1 = 1 as 1.25 > 1; beta1 = 0: m is the delta
    first = BASE + 0.1 * 2 / (math.sqrt(1.25) + 0.5)
    second = first - 0.1 / (math.sqrt(1.0) + 0.5)
    found = rounds("fedyogi", eta=0.1, beta1=0.0, beta2=0.75, tau=0.5)
    assert found == pytest.approx([first, second], rel=1e-14)


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_v_begins_with_the_square_of_tau_or_as_stated(name: str) -> None:
    paper = rounds(name, tau=0.5)
    assert rounds(name, tau=0.5, initial_v=0.25) == paper
    assert rounds(name, tau=0.5, initial_v=0.0)[0] != paper[0]


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
@pytest.mark.parametrize("before", [[], [{"norm_bound": {"bound": 10.0}}]])
def test_v_begins_in_the_same_way_where_the_state_begins_anew_later(name: str, before: list[Any]) -> None:
    # As after `fl run rollback --fresh-state`, or in a replay by another strategy: round 7, and no state.
    strategy = compose([*before, {name: {"tau": 0.5, "initial_v": 0.25}}])
    late = folded(strategy, [{"w": np.array([3.0])}], base={"w": np.array([BASE])}, version=7)
    assert late.arrays["w"].tolist() == [rounds(name, tau=0.5)[0]]


@pytest.mark.parametrize(("variant", "power"), [("adam", 1), ("flower", 2)])
def test_the_bias_of_the_first_rounds_may_be_corrected(variant: str, power: int) -> None:
    steps = {"beta1": 0.5, "beta2": 0.75, "tau": 0.5}
    plain = rounds("fedadam", eta=1.0, bias_correction="none", **steps)[0] - BASE
    found = rounds("fedadam", eta=1.0, bias_correction=variant, **steps)[0] - BASE
    assert found == pytest.approx(plain * math.sqrt(1 - 0.75**power) / (1 - 0.5**power), rel=1e-12)


@pytest.mark.parametrize(("variant", "later"), [("adam", 0), ("flower", 1)])
def test_the_correction_of_the_bias_fades_with_the_rounds(variant: str, later: int) -> None:
    # beta1 = 1/4: m = 3/4 x 2 = 1.5, then 1.5 / 4 - 3/4 = -0.375
    # beta2 = 3/4, v from 1/4: v = 0.1875 + 4/4 = 1.1875, then 0.890625 + 1/4 = 1.140625
    model, expected = BASE, []
    for power, m, v in ((1 + later, 1.5, 1.1875), (2 + later, -0.375, 1.140625)):
        model += math.sqrt(1 - 0.75**power) / (1 - 0.25**power) * m / (math.sqrt(v) + 0.5)
        expected.append(model)
    found = rounds("fedadam", eta=1.0, beta1=0.25, beta2=0.75, tau=0.5, bias_correction=variant)
    assert found == pytest.approx(expected, rel=1e-14)


def test_the_first_step_of_a_corrected_adam_is_the_sign_of_delta() -> None:
    # m / (1 - beta1) = delta and sqrt(v / (1 - beta2)) = |delta|: what the correction is for
    found = rounds("fedadam", eta=0.1, initial_v=0.0, tau=1e-12, bias_correction="adam")[0]
    assert found == pytest.approx(BASE + 0.1, rel=1e-9)


def test_state_is_that_of_the_papers() -> None:
    result = folded(
        compose("fedadam", {"beta1": 0.5, "beta2": 0.75, "tau": 0.5}),
        [{"w": np.array([3.0], "f4")}],
        base={"w": np.array([1.0], "f4")},
    )
    assert {name: kept.arrays["w"].tolist() for name, kept in result.state.items()} == {
        "m": [1.0],
        "v": [1.1875],
    }


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("fedadam", {"eta": 0}, "eta: 0 is not a number above 0"),
        ("fedadam", {"beta1": 1}, "beta1: 1 is not a number of at least 0, below 1"),
        ("fedyogi", {"beta2": -0.1}, "beta2: -0.1 is not a number of at least 0, below 1"),
        ("fedadagrad", {"tau": 0.0}, "tau: 0.0 is not a number above 0"),
        ("fedadam", {"initial_v": -1}, "initial_v: -1 is not a number of at least 0"),
        ("fedadam", {"bias_correction": "keras"}, "bias_correction: 'keras' is not none, adam or flower"),
        ("fedavgm", {"beta": True}, "beta: True is not a number of at least 0, below 1"),
    ],
)
def test_options_that_it_does_not_take_are_refused(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_strategy(name, options)
    assert str(caught.value) == f"strategy_options.{line}"
