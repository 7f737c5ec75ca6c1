"""What stays at a site, and what it trains for itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.local import LocalTask, run_local
from fl_main.personal import Ditto, PrivateArrays, personal_of, side_by_side
from fl_main.training import Evaluation, NamedArrays, TrainResult
from fl_main.weights import Array, Role
from tests.fl_main.corrections.tasks import task_of

X = {"w": np.array([1.0, -2.0])}

# --- private arrays ----------------------------------------------------------------------------

# Sites measure y = 3 x + offset, each with an offset of its own: the slope is common, the offset is not.
OFFSETS = {"one": -5.0, "two": 0.0, "three": 7.0}
ROLES = {"offset": Role.PRIVATE}


def measurements(name: str) -> tuple[Array, Array]:
    inputs = np.random.default_rng(len(name)).normal(size=40)
    return inputs, 3 * inputs + OFFSETS[name]


def train(task: LocalTask) -> TrainResult:
    inputs, targets = task.data
    slope, offset = task.weights["slope"].copy(), task.weights["offset"].copy()
    for _ in range(10):
        error = slope * inputs + offset - targets
        slope -= 0.1 * (error * inputs).mean()
        offset -= 0.1 * error.mean()
    return TrainResult(NamedArrays({"slope": slope, "offset": offset}, ROLES), len(targets))


def measure(weights: Mapping[str, Array], data: tuple[Array, Array]) -> Evaluation:
    inputs, targets = data
    error = weights["slope"] * inputs + weights["offset"] - targets
    return Evaluation({"loss": float((error**2).mean())}, len(targets))


SITES = {name: measurements(name) for name in OFFSETS}
START = {"slope": np.zeros(1), "offset": np.zeros(1)}


def test_a_private_head_is_each_sites_own_over_a_common_body() -> None:
    seen: dict[str, float] = {}

    def trained(task: LocalTask) -> TrainResult:
        seen[task.site] = float(task.weights["offset"][0])
        return train(task)

    run = run_local(trained, SITES, NamedArrays(START, ROLES), rounds=40, evaluate=measure)
    assert set(run.weights) == {"slope"}  # nothing else left the sites
    assert run.weights["slope"][0] == pytest.approx(3.0, abs=1e-3)
    assert seen == pytest.approx(OFFSETS, abs=1e-2)
    assert run.metrics[-1]["evaluate_loss"] < 1e-4  # measured with each site's own offset


def test_without_private_arrays_one_offset_has_to_do_for_all() -> None:
    def shared(task: LocalTask) -> TrainResult:
        result = train(task)
        return TrainResult(dict(result.weights), result.num_examples)

    run = run_local(shared, SITES, START, rounds=40, evaluate=measure)
    assert run.metrics[-1]["evaluate_loss"] > 10


def test_private_arrays_begin_as_the_program_gave_them_and_are_read_only() -> None:
    def look(task: LocalTask) -> TrainResult:
        assert task.weights["offset"][0] == 4.0
        with pytest.raises(ValueError, match="read-only"):
            task.weights["offset"][0] = 1.0
        return TrainResult({"slope": task.weights["slope"]}, 1)  # the offset is left as it is

    start = NamedArrays({"slope": np.zeros(1), "offset": np.array([4.0])}, ROLES)
    assert run_local(look, SITES, start, rounds=2).rounds == 2


@pytest.mark.parametrize("roles", [None, dict.fromkeys(START, Role.PARAMETER)])
def test_what_was_private_stays_so_however_an_update_is_handed_in(roles: dict[str, Role] | None) -> None:
    def forgetful(task: LocalTask) -> TrainResult:
        weights = dict(train(task).weights)  # as of an agent that said in initial_weights what is private
        return TrainResult(NamedArrays(weights, roles) if roles else weights, len(task.data[1]))

    run = run_local(forgetful, SITES, NamedArrays(START, ROLES), rounds=40, evaluate=measure)
    assert set(run.weights) == {"slope"}
    assert run.metrics[-1]["evaluate_loss"] < 1e-4


def test_ones_own_state_stays_beside_private_arrays() -> None:
    def counted(task: LocalTask) -> TrainResult:
        count = int(task.state.get("count", np.array(0)))
        assert set(task.state) == ({"count"} if task.round_id > 1 else set())
        assert count == min(task.round_id - 1, 2)
        result = train(task)
        result.state = {"count": np.array(count + 1)} if task.round_id < 3 else None  # None: as it was
        return result

    run_local(counted, SITES, NamedArrays(START, ROLES), rounds=5)


def test_private_arrays_that_an_update_leaves_out_stay_as_they_are_whatever_else_is_kept() -> None:
    seen: list[tuple[float, float, int]] = []

    def trained(task: LocalTask) -> TrainResult:
        head, bias = (float(task.weights[name][0]) for name in ("head", "bias"))
        seen.append((head, bias, int(task.state.get("count", np.array(0)))))
        given = [("head", head), ("bias", bias)][: max(0, 3 - task.round_id)]  # both, the first, none
        weights = {"slope": task.weights["slope"], **{name: np.array([value + 1]) for name, value in given}}
        return TrainResult(weights, 1, state={"count": np.array(task.round_id)})

    roles = {"head": Role.PRIVATE, "bias": Role.PRIVATE}
    start = NamedArrays({name: np.ones(1) for name in ("slope", "head", "bias")}, roles)
    run_local(trained, {"one": None}, start, rounds=4)
    assert seen == [(1, 1, 0), (2, 2, 1), (3, 2, 2), (3, 2, 3)]


def test_what_is_kept_of_another_run_is_neither_used_nor_shown() -> None:
    kept = PrivateArrays("first", {}).to_keep({}, X, {"mine": np.array(1)})
    assert kept is not None
    anew = PrivateArrays("anew", {"w": np.zeros(2)})
    np.testing.assert_array_equal(anew.of(kept)["w"], [0.0, 0.0])
    assert set(anew.others(kept)) == {"mine"}
    assert anew.to_keep(kept, {}, None) is None


# --- Ditto -------------------------------------------------------------------------------------


def test_ditto_pulls_the_personal_model_to_the_global_one() -> None:
    ditto = Ditto(task_of({}, X), 0.5)
    np.testing.assert_array_equal(ditto.weights["w"], X["w"])  # at first v is x
    gradients = {"w": np.array([1.0, 1.0])}
    ditto.add_to(gradients, {"w": np.array([3.0, -2.5])})
    np.testing.assert_array_equal(gradients["w"], [2.0, 0.75])  # 1 + 0.5 (3 - 1), 1 + 0.5 (-2.5 + 2)


def test_the_personal_model_is_where_the_last_counted_update_left_it() -> None:
    kept = Ditto(task_of({}, X), 0.5).state({"w": np.array([7.0, 8.0])})
    again = Ditto(task_of({}, X, state=kept), 0.5)
    np.testing.assert_array_equal(again.weights["w"], [7.0, 8.0])
    np.testing.assert_array_equal(personal_of(kept)["w"], [7.0, 8.0])
    other = Ditto(task_of({}, X, state=kept, run_id="anew"), 0.5)
    np.testing.assert_array_equal(other.weights["w"], X["w"])


@pytest.mark.parametrize("lam", [0.0, 0.5, 100.0])
def test_ditto_goes_to_the_optimum_between_a_site_and_the_global_model(lam: float) -> None:
    sites = {"one": (1.0, 0.0), "two": (4.0, 1.0), "three": (2.0, -3.0)}  # a/2 (w - b)²
    found: dict[str, float] = {}
    rate, steps = 0.009, 10

    def trained(task: LocalTask) -> TrainResult:
        a, b = task.data
        ditto = Ditto(task, lam)
        weights, personal = ({"w": model["w"].copy()} for model in (task.weights, ditto.weights))
        for _ in range(steps):
            weights["w"] -= rate * a * (weights["w"] - b)
            gradients = {"w": a * (personal["w"] - b)}
            ditto.add_to(gradients, personal)
            personal["w"] -= rate * gradients["w"]
        found[task.site] = float(personal["w"][0])
        return TrainResult(weights, 1, state=ditto.state(personal))

    run = run_local(trained, sites, {"w": np.zeros(1)}, rounds=200)
    x = float(run.weights["w"][0])  # as FedAvg trains it: v does not touch it
    drift = {name: 1 - (1 - rate * a) ** steps for name, (a, _) in sites.items()}
    assert x == pytest.approx(sum(drift[n] * b for n, (_, b) in sites.items()) / sum(drift.values()))
    # v minimises a/2 (v - b)² + λ/2 (v - x)²
    assert found == pytest.approx({n: (a * b + lam * x) / (a + lam) for n, (a, b) in sites.items()}, abs=1e-6)


@pytest.mark.parametrize("lam", [-1.0, float("nan"), float("inf")])
def test_a_lambda_that_cannot_be_is_refused(lam: float) -> None:
    with pytest.raises(SettingsError, match="Ditto: lam is"):
        Ditto(task_of({}, X), lam)


# --- side by side ------------------------------------------------------------------------------


def test_both_models_are_measured_under_names_of_their_own() -> None:
    def measured(weights: Mapping[str, Array]) -> Evaluation:
        return Evaluation({"sum": float(weights["w"].sum())}, 5)

    found = side_by_side(measured, X, {"w": np.array([1.0, 1.0])})
    assert (dict(found.metrics), found.num_examples) == ({"sum": -1.0, "personal_sum": 2.0}, 5)
    assert dict(side_by_side(measured, X, {}).metrics) == {"sum": -1.0}


def test_run_local_measures_personal_models_of_the_sites() -> None:
    def trained(task: LocalTask) -> TrainResult:
        ditto = Ditto(task, 0.0)
        return TrainResult(task.weights, 1, state=ditto.state({"w": np.full(1, task.data)}))

    def evaluate(weights: Mapping[str, Array], data: float, state: Mapping[str, Array]) -> Evaluation:
        def measured(model: Mapping[str, Array]) -> Evaluation:
            return Evaluation({"error": abs(float(model["w"][0]) - data)}, 1)

        return side_by_side(measured, weights, personal_of(state))

    run = run_local(trained, {"one": 2.0, "two": 4.0}, {"w": np.zeros(1)}, rounds=2, evaluate=evaluate)
    last: Any = run.metrics[-1]
    assert (last["evaluate_error"], last["evaluate_personal_error"]) == (3.0, 0.0)  # (2 + 4) / 2
