"""Our strategies beside Flower's own, on the same random updates, to rounding in float64."""

from typing import Any

import numpy as np
import pytest

from fl_main.strategies import compose
from tests.fl_main.strategies.arrays import Memory, folded
from tests.fl_main.strategies.flower import Numbers, flower, needs_flower

pytestmark = [
    needs_flower,
    pytest.mark.timeout(180),
]  # to import Flower takes seconds, on a busy machine many

ROUNDS, UPDATES, SIZE = 5, 15, 7
COUNTS = [int(count) for count in np.random.default_rng(0).integers(1, 500, UPDATES)]


def drawn() -> tuple[Numbers, Numbers]:
    chance = np.random.default_rng(1)
    return chance.normal(size=SIZE), chance.normal(size=(ROUNDS, UPDATES, SIZE))


def ours(strategy: Any, options: dict[str, Any], *, keeps_base: bool = False) -> Numbers:
    """Return the global models of some rounds, each from the one before, or all from the same base."""
    base, rounds = drawn()
    model, state, made = {"w": base}, dict[str, Memory](), []
    for version, updates in enumerate(rounds, start=1):
        local = [{"w": update} for update in updates]
        result = folded(compose(strategy, options), local, COUNTS, base=model, state=state, version=version)
        made.append(result.arrays["w"])
        if not keeps_base:
            model, state = result.arrays, result.state
    return np.stack(made)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        (
            "fedadagrad",
            {"eta": 0.3, "tau": 1e-3, "initial_v": 0.0},
            ("FedAdagrad", {"eta": 0.3, "tau": 1e-3}),
        ),
        (
            "fedadam",
            {"eta": 0.3, "tau": 1e-3, "initial_v": 0.0, "bias_correction": "flower"},
            ("FedAdam", {"eta": 0.3, "tau": 1e-3, "beta_1": 0.9, "beta_2": 0.99}),
        ),
        (
            "fedyogi",
            {"eta": 0.3, "beta1": 0.8, "beta2": 0.95, "initial_v": 0.0},
            ("FedYogi", {"eta": 0.3, "tau": 1e-3, "beta_1": 0.8, "beta_2": 0.95}),
        ),
        (
            "fedavgm",
            {"eta": 0.5, "beta": 0.7},
            ("FedAvgM", {"server_learning_rate": 0.5, "server_momentum": 0.7}),
        ),
        ("fedavg", {}, ("FedAvg", {})),
    ],
)
def test_rounds_of_an_optimizer_are_those_of_flower(
    name: str, options: dict[str, Any], theirs: tuple[str, dict[str, Any]]
) -> None:
    their_name, their_options = theirs
    expected = flower(their_name, *drawn(), COUNTS, **their_options)
    np.testing.assert_allclose(ours(name, options), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("median", {}, ("aggregate_median", {})),
        ("trimmed_mean", {"beta": 0.2}, ("aggregate_trimmed_avg", {"proportiontocut": 0.2})),
        ("krum", {"f": 2}, ("aggregate_krum", {"num_malicious": 2, "to_keep": 0})),
        (
            "multi_krum",
            {"f": 2, "m": 5, "weighting": "examples"},
            ("aggregate_krum", {"num_malicious": 2, "to_keep": 5}),
        ),
        # With f = 1 or 2 its last picks are of nearest pairs, whose scores are equal: Flower takes the first.
        ("bulyan", {"f": 3}, ("aggregate_bulyan", {"num_malicious": 3, "to_keep": 0})),
    ],
)
def test_a_robust_rule_finds_what_flower_finds(
    name: str, options: dict[str, Any], theirs: tuple[str, dict[str, Any]]
) -> None:
    their_name, their_options = theirs
    expected = flower(their_name, *drawn(), COUNTS, **their_options)
    np.testing.assert_allclose(ours(name, options, keeps_base=True), expected, rtol=1e-10, atol=1e-12)
