"""Where training goes on quadratics f_k = a_k/2 (w - b_k)², against closed forms.

K steps of gradient descent lead from x to b + (1 - lr a)^K (x - b). So the fixed point of the
mean of the local models is the mean of the b_k with weights 1 - (1 - lr a_k)^K: FedAvg's drift
point, which is not the optimum, whose weights are a_k.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fl_main.local import LocalRound, LocalTask, run_local
from fl_main.training import TrainResult
from tests.fl_main.corrections.tasks import Site, descend, optimum

SITES: dict[str, Site] = {"one": (1.0, 0.0), "two": (4.0, 1.0), "three": (2.0, -3.0)}
RATE, STEPS = 0.1, 5


def settled(
    strategy: str, options: Mapping[str, Any] | None = None, rounds: int = 300, **settings: Any
) -> float:
    """Return where a run of many rounds ends."""
    run = run_local(
        descend(RATE, STEPS),
        SITES,
        {"w": np.zeros(1)},
        rounds=rounds,
        strategy=strategy,
        strategy_options=options or {},
        settings=settings,
    )
    return float(run.weights["w"][0])


def weighted_mean(weights: Mapping[str, float]) -> float:
    return sum(weights[name] * b for name, (_, b) in SITES.items()) / sum(weights.values())


def test_fedavg_goes_to_its_drift_point_which_is_not_the_optimum() -> None:
    drift = weighted_mean({name: 1 - (1 - RATE * a) ** STEPS for name, (a, _) in SITES.items()})
    assert settled("fedavg") == pytest.approx(drift, abs=1e-12)
    assert abs(drift - optimum(SITES)) > 0.2


def test_a_program_that_does_not_look_at_feddyn_is_told_that_it_goes_to_the_drift_point(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unaware(task: LocalTask) -> TrainResult:
        a, b = task.data
        weights = task.weights["w"].copy()
        for _ in range(STEPS):
            weights -= RATE * a * (weights - b)
        return TrainResult({"w": weights}, 1)

    run = run_local(unaware, SITES, {"w": np.zeros(1)}, rounds=100, strategy="feddyn")
    drift = weighted_mean({name: 1 - (1 - RATE * a) ** STEPS for name, (a, _) in SITES.items()})
    assert run.weights["w"][0] == pytest.approx(drift, abs=1e-3)
    [said] = [record.getMessage() for record in caplog.records]  # once, not of every site and round
    assert said.startswith("the run's strategy asks the training for {'name': 'feddyn', 'alpha': 0.1}")
    caplog.clear()
    settled("feddyn", rounds=1)
    assert not caplog.records


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0])
def test_fedprox_goes_to_a_fixed_point_of_its_own(mu: float) -> None:
    # A step contracts by 1 - lr (a + μ) to (a b + μ x) / (a + μ), whose distance from x is
    # a (x - b) / (a + μ): the fixed point has the weights (1 - (1 - lr (a + μ))^K) a / (a + μ).
    fixed = weighted_mean(
        {name: (1 - (1 - RATE * (a + mu)) ** STEPS) * a / (a + mu) for name, (a, _) in SITES.items()}
    )
    assert settled("fedprox", {"mu": mu}) == pytest.approx(fixed, abs=1e-12)


def test_fedprox_of_mu_0_is_fedavg() -> None:
    assert settled("fedprox", {"mu": 0.0}, rounds=3) == settled("fedavg", rounds=3)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("scaffold", {}),
        ("scaffold", {"option": 1}),
        ("scaffold", {"eta": 0.5}),
        ("feddyn", {"alpha": 2.0}),
        ("feddyn", {"alpha": 0.5}),
    ],
)
def test_scaffold_and_feddyn_go_to_the_optimum(strategy: str, options: Mapping[str, Any]) -> None:
    assert settled(strategy, options) == pytest.approx(optimum(SITES), abs=1e-9)


@pytest.mark.parametrize(("strategy", "options"), [("scaffold", {}), ("feddyn", {"alpha": 2.0})])
def test_they_do_so_too_where_only_some_agents_are_asked_in_a_round(
    strategy: str, options: Mapping[str, Any]
) -> None:
    some = {"cohort": {"rule": "number", "number": 2}, "round": {"min_updates": 2}}
    assert settled(strategy, options, rounds=800, **some) == pytest.approx(optimum(SITES), abs=1e-9)


@pytest.mark.parametrize(("strategy", "options"), [("scaffold", {}), ("feddyn", {"alpha": 2.0})])
def test_the_optimum_does_not_depend_on_how_many_examples_sites_have(
    strategy: str, options: Mapping[str, Any]
) -> None:
    def train(task: Any) -> Any:
        result = descend(RATE, STEPS)(task)
        result.num_examples = int(10 * task.data[0])
        return result

    run = run_local(train, SITES, {"w": np.zeros(1)}, rounds=300, strategy=strategy, strategy_options=options)
    assert float(run.weights["w"][0]) == pytest.approx(optimum(SITES), abs=1e-9)


def test_scaffold_weighted_by_examples_goes_to_the_optimum_of_all_data() -> None:
    def train(task: Any) -> Any:
        result = descend(RATE, STEPS)(task)
        result.num_examples = examples[task.site]
        return result

    examples = {"one": 10, "two": 30, "three": 60}
    run = run_local(
        train,
        SITES,
        {"w": np.zeros(1)},
        rounds=300,
        strategy="scaffold",
        strategy_options={"weighting": "examples"},
    )
    # Of Σ n_k a_k/2 (w - b_k)²: (10 x 1 x 0 + 30 x 4 x 1 + 60 x 2 x -3) / (10 + 120 + 120)
    assert float(run.weights["w"][0]) == pytest.approx(-240 / 250, abs=1e-9)


def test_fedcurv_goes_nearer_to_the_optimum_than_fedavg() -> None:
    # At the fixed point site k moves to y_k = p_k + q_k (x - p_k), where h_k = a_k + 2 λ A_k,
    # q_k = (1 - lr h_k)^K and p_k = (a_k b_k + 2 λ B_k) / h_k, with A_k = Σ_(j≠k) a_j and
    # B_k = Σ_(j≠k) a_j y_j of the round before; x is the mean of the y_k.
    lam = 0.1
    a, b = np.array(list(SITES.values())).T
    others = a.sum() - a
    curvature = a + 2 * lam * others
    still = (1 - RATE * curvature) ** STEPS
    pull = 2 * lam * (np.ones((3, 3)) - np.eye(3)) * a  # B_k = pull[k] @ y / (2 λ)
    moves = np.eye(3) - ((1 - still) / curvature)[:, None] * pull - still[:, None] / 3
    fixed = float(np.linalg.solve(moves, (1 - still) / curvature * a * b).mean())
    found = settled("fedcurv", {"lam": lam})
    assert found == pytest.approx(fixed, abs=1e-12)
    assert abs(found - optimum(SITES)) < abs(settled("fedavg") - optimum(SITES))


@pytest.mark.parametrize(("strategy", "options"), [("scaffold", {}), ("feddyn", {"alpha": 2.0})])
def test_a_round_that_fails_leaves_no_trace(strategy: str, options: Mapping[str, Any]) -> None:
    """What agents kept for updates that were accepted and then discarded must not be used."""
    failures = iter([True, False])

    def train(task: Any) -> Any:
        result = descend(RATE, STEPS)(task)
        if task.round_id == 4 and task.site == "two" and next(failures, False):
            result.num_examples = 0  # rejected: the round fails, and is tried again
        return result

    models: dict[bool, list[float]] = {}
    for is_disturbed in (False, True):
        seen: list[float] = models.setdefault(is_disturbed, [])

        def note(done: LocalRound, seen: list[float] = seen) -> None:
            seen.append(float(done.weights["w"][0]))

        run_local(
            train if is_disturbed else descend(RATE, STEPS),
            SITES,
            {"w": np.zeros(1)},
            rounds=8,
            strategy=strategy,
            strategy_options=options,
            settings={"round": {"max_failed_rounds": 3}},
            on_round=note,
        )
    assert next(failures) is False  # it did fail once
    assert models[True] == models[False]
