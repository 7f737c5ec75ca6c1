"""The options that a run has if it gives none: numbers of papers, and of nobody else."""

import inspect
from typing import Any

import pytest

from fl_main.strategies import STRATEGIES

NONE: dict[str, Any] = {}
MEAN = {"weighting": "examples", "cap": None}  # McMahan et al. 2017, Algorithm 1
PAPERS: dict[str, dict[str, Any]] = {
    "fedavg": MEAN,
    "fedsgd": NONE,
    "fedavgm": {"eta": 1.0, "beta": 0.9},  # Hsu et al. 2019, section 4.3
    # Reddi et al. 2021: Algorithm 2, and section 4 for b1, b2 and tau
    "fedadagrad": {"eta": 0.1, "beta1": 0.0, "tau": 1e-3, "initial_v": None},
    "fedadam": {
        "eta": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "tau": 1e-3,
        "initial_v": None,
        "bias_correction": "none",
    },
    "fedyogi": {"eta": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "initial_v": None},
    "fedprox": {"mu": 0.1, **MEAN},  # one of the four that Li et al. 2020 try
    "scaffold": {"eta": 1.0, "option": 2, "weighting": "uniform"},  # Karimireddy et al. 2020, section 7
    "feddyn": {"alpha": 0.1},  # one of the three that Acar et al. 2021 try
    "fedcurv": {"lam": 0.1, **MEAN},
    # Wang et al. 2020: plain steps, and tau_eff as its section 4 recommends
    "fednova": {"momentum": 0.0, "proximal": 0.0, "reported": False, "tau_eff": "steps"},
    "qfedavg": {"q": 1.0, "metric": "loss"},  # Li et al. 2020
    "fedbuff": {"eta": 1.0},
    "fedasync": {"alpha": 0.6},  # Xie et al. 2019, section 5
    "cyclic": NONE,
    "noise": {"seed": None},  # from the system's entropy, as nobody may know it
}
# Rules against faulty agents: their own modules hold them to what they bear by default.
ROBUST = {
    *("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan", "centred_clipping"),
    *("fltrust", "norm_bound"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_defaults_are_those_of_the_paper(name: str) -> None:
    options = inspect.signature(STRATEGIES[name]).parameters.values()
    given = {option.name: option.default for option in options if option.default is not option.empty}
    assert given == PAPERS[name]


def test_every_strategy_is_held_to_its_own() -> None:
    assert PAPERS.keys() | ROBUST == STRATEGIES.keys()
