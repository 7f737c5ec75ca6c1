"""The laws of `fl_main.strategies.base`, for every strategy of the table, and for steps together.

What the laws are, and how each is tried, is in `fl_main.testing.conformance`.
"""

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_main.strategies import STRATEGIES, compose
from fl_main.testing.conformance import ALWAYS, LAWS, Cohort, Trial, check_law

# Options under which each strategy is held to the laws.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "fedavg": [{}, {"weighting": "uniform"}, {"cap": 5}],
    "fedbuff": [{}, {"eta": 0.3}],
    "fedasync": [{}, {"alpha": 1}],
    "norm_bound": [{"bound": 1.0}, {"bound": 1e6}],
    "fedavgm": [{}, {"eta": 0.3, "beta": 0.5}],
    "fedadagrad": [{}, {"beta1": 0.5, "initial_v": 0.0}],
    "fedadam": [{}, {"beta2": 0.999, "bias_correction": "adam"}],
    "fedyogi": [{}, {"tau": 1e-5}],
    "noise": [{"std": 0.1, "seed": 1}],
    "fedsgd": [{}],
    "fednova": [{}, {"momentum": 0.9, "tau_eff": "a"}, {"proximal": 0.01}, {"reported": True}],
    "qfedavg": [{"learning_rate": 0.1}, {"learning_rate": 0.5, "q": 0.0}],
    "cyclic": [{}],
    "median": [{}],
    "trimmed_mean": [{}, {"beta": 0.34}],
    "geometric_median": [{"weighting": "examples", "iterations": 3}, {}],
    "krum": [{"f": 0}, {}],
    "multi_krum": [{"f": 0, "m": 2}, {"weighting": "examples"}],
    "bulyan": [{"f": 0}, {}],
    "centred_clipping": [{}, {"tau": 0.5, "iterations": 3}],
    "fltrust": [{"root": "trusted"}],
    "fedprox": [{}, {"weighting": "uniform"}],
    "scaffold": [{}, {"eta": 0.5}, {"weighting": "examples"}],
    "feddyn": [{}, {"alpha": 1.0}],
    "fedcurv": [{}],
}
# What updates must report to a strategy, where it is not the usual: arguments of `Trial`.
REPORTS: dict[str, dict[str, Any]] = {
    "fltrust": {"agent": "trusted"},
    "fedsgd": {"num_steps": (1,)},
}
# Steps that are held to the laws together.
PIPELINES: list[list[Any]] = [
    [{"norm_bound": {"bound": 1.0}}, "fedbuff", {"fedadam": {"eta": 0.1}}],
    [{"norm_bound": {"bound": 20.0}}, "multi_krum", "median", "fedyogi"],
    [{"norm_bound": {"bound": 20.0}}, {"fedavg": {"cap": 5}}, "fedavgm", {"noise": {"std": 0.1, "seed": 1}}],
]
CASES: list[tuple[Any, dict[str, Any]]] = [
    (name, options) for name in STRATEGIES for options in OPTIONS[name]
]
CASES += [(steps, {}) for steps in PIPELINES]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("strategy", "options"), CASES, ids=[f"{name} {options}" for name, options in CASES])
def test_strategy_keeps_the_law(strategy: Any, options: dict[str, Any], law: str) -> None:
    made = compose(strategy, options)
    if law in made.exceptions and law not in ALWAYS:
        pytest.skip(f"not a law of this one: {made.exceptions[law]}")
    reports = REPORTS.get(strategy, {}) if isinstance(strategy, str) else {}
    trial = Trial(partial(compose, strategy, options), **reports)

    @settings(max_examples=20)
    @given(st.integers(0, 2**32 - 1))
    def held(number: int) -> None:
        check_law(law, trial, Cohort.drawn(number, made))

    held()


def test_exceptions_are_laws_that_may_have_some() -> None:
    for strategy, options in CASES:
        exceptions = compose(strategy, options).exceptions
        assert set(exceptions) <= set(LAWS) - set(ALWAYS), strategy
        assert all("\n" not in reason for reason in exceptions.values()), strategy
