"""Corrections against numbers worked out by hand, and their gradients against their terms."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.corrections import CORRECTIONS, Correction, correction_of, fisher_of
from fl_main.errors import LayoutMismatchError, LocalProtocolError, SettingsError
from fl_main.local import LocalTask
from fl_main.weights import Array
from tests.fl_main.corrections.tasks import task_of

ASKED: dict[str, dict[str, Any]] = {
    "fedprox": {"name": "fedprox", "mu": 0.7},
    "scaffold": {"name": "scaffold", "option": 2},
    "feddyn": {"name": "feddyn", "alpha": 0.3},
    "fedcurv": {"name": "fedcurv", "lam": 0.4},
}
EVERY = [name for name in CORRECTIONS if name]


def arrays(seed: int, *, positive: bool = False) -> dict[str, Array]:
    noise = np.random.default_rng(seed)
    found = {"matrix": noise.normal(size=(2, 3)), "vector": noise.normal(size=4)}
    return {name: abs(array) + 0.1 for name, array in found.items()} if positive else found


def in_the_middle(name: str) -> LocalTask:
    """Return a task of a run that has been under way, so that everything is in its place."""
    sums = {"fisher": arrays(1, positive=True), "weighted": arrays(2), "control": arrays(3)}
    kept = {f"scaffold run control/{key}": array for key, array in arrays(4).items()}
    kept |= {f"feddyn run gradient/{key}": array for key, array in arrays(5).items()}
    return task_of(ASKED[name], arrays(0), channels=sums, state=kept, round_id=3, base_round=2)


# --- the gradient is that of the term ---------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_is_the_slope_of_the_term(name: str) -> None:
    correction = correction_of(in_the_middle(name))

    @given(st.integers(0, 1000))
    def law(seed: int) -> None:
        weights, step = arrays(seed), 1e-4
        for key, analytic in correction.gradient(weights).items():
            for place in np.ndindex(analytic.shape):
                up, down = ({**weights, key: weights[key].copy()} for _ in range(2))
                up[key][place] += step
                down[key][place] -= step
                # The central difference of a quadratic is exact but for rounding.
                slope = (correction.term(up) - correction.term(down)) / (2 * step)
                assert slope == pytest.approx(analytic[place], rel=1e-6, abs=1e-6)

    law()


@pytest.mark.parametrize("name", EVERY)
def test_the_gradient_moves_with_the_weights_or_is_there_from_the_first_step(name: str) -> None:
    """A penalty that is computed from copies of the weights has the right value and no gradient."""
    task = in_the_middle(name)
    away = {key: array + 1.0 for key, array in task.weights.items()}
    gradients = {key: np.zeros_like(array) for key, array in away.items()}
    correction_of(task).add_to(gradients, away)
    assert all(np.abs(gradient).min() > 0 for gradient in gradients.values())


# --- formulas ---------------------------------------------------------------------------------

X = {"w": np.array([1.0, -2.0])}
W = {"w": np.array([3.0, -2.5])}


def corrected(
    correction: Mapping[str, Any],
    channels: Mapping[str, Mapping[str, Array]] | None = None,
    state: Mapping[str, Array] | None = None,
    base_round: int = 0,
) -> Correction:
    return correction_of(task_of(correction, X, channels=channels, state=state, base_round=base_round))


def test_fedprox_pulls_towards_the_global_model() -> None:
    found = corrected({"name": "fedprox", "mu": 0.5})
    np.testing.assert_array_equal(found.gradient(W)["w"], [1.0, -0.25])  # 0.5 (3 - 1), 0.5 (-2.5 + 2)
    assert found.term(W) == 0.25 * (2.0**2 + 0.5**2)


def test_scaffold_puts_the_runs_control_variate_in_the_place_of_the_agents() -> None:
    control, own = {"w": np.array([0.5, 0.25])}, {"scaffold run control/w": np.array([0.1, 1.0])}
    found = corrected({"name": "scaffold", "option": 2}, {"control": control}, own)
    np.testing.assert_allclose(found.gradient(W)["w"], [0.4, -0.75])  # c - c_k, wherever w is
    answer = found.answer(W, num_steps=4, learning_rate=0.25)
    # c_k - c + (x - y) / (4 x 0.25) = [-0.4 - 2, 0.75 + 0.5]
    np.testing.assert_allclose(answer["state"]["scaffold run control/w"], [-2.4, 1.25])
    np.testing.assert_allclose(answer["channels"]["control"]["w"], [-2.5, 0.25])  # less c_k
    assert answer["num_steps"] == 4


def test_scaffold_of_option_1_takes_the_gradient_at_the_global_model() -> None:
    own = {"scaffold run control/w": np.array([0.1, 1.0])}
    found = corrected({"name": "scaffold", "option": 1}, state=own)
    answer = found.answer(W, gradient=lambda: {"w": np.array([5.0, 6.0])})
    np.testing.assert_allclose(answer["channels"]["control"]["w"], [4.9, 5.0])
    np.testing.assert_allclose(answer["state"]["scaffold run control/w"], [5.0, 6.0])


def test_feddyn_pulls_to_the_global_model_and_along_what_it_kept() -> None:
    own = {"feddyn run gradient/w": np.array([0.3, -1.0])}
    found = corrected({"name": "feddyn", "alpha": 0.5}, state=own)
    np.testing.assert_allclose(found.gradient(W)["w"], [0.7, 0.75])  # 0.5 (w - x) - g_k
    answer = found.answer(W)
    np.testing.assert_allclose(answer["state"]["feddyn run gradient/w"], [-0.7, -0.75])  # g_k - 0.5 (y - x)
    assert answer["channels"] == {}


SUMS = {"fisher": {"w": np.array([3.0, 5.0])}, "weighted": {"w": np.array([2.0, 1.0])}}
OWN = {
    "fedcurv run fisher/w": np.array([1.0, 4.0]),
    "fedcurv run weighted/w": np.array([0.5, 2.0]),
    "fedcurv run round/": np.array(7),
}


def test_fedcurv_holds_back_where_the_others_are_certain() -> None:
    found = corrected({"name": "fedcurv", "lam": 0.5}, SUMS, OWN, base_round=7)
    # A = [3 - 1, 5 - 4], B = [2 - 0.5, 1 - 2]; 2 x 0.5 (A w - B) = [2 x 3 - 1.5, 1 x -2.5 + 1]
    np.testing.assert_allclose(found.gradient(W)["w"], [4.5, -1.5])
    answer = found.answer(W, fisher={"w": np.array([2.0, 4.0])})
    np.testing.assert_array_equal(answer["channels"]["fisher"]["w"], [2.0, 4.0])
    np.testing.assert_array_equal(answer["channels"]["weighted"]["w"], [6.0, -10.0])  # I_k y_k
    assert int(answer["state"]["fedcurv run round/"]) == 1  # the task's round


def test_fedcurv_takes_nothing_out_of_sums_that_it_is_no_part_of() -> None:
    found = corrected({"name": "fedcurv", "lam": 0.5}, SUMS, OWN, base_round=8)
    np.testing.assert_allclose(found.gradient(W)["w"], [3 * 3.0 - 2, 5 * -2.5 - 1])


def test_fedcurv_has_no_negative_curvature_where_sums_are_rounded() -> None:
    fisher = {"w": np.array([1.0, 4.0]) - 1e-9}
    found = corrected({"name": "fedcurv", "lam": 0.5}, {**SUMS, "fisher": fisher}, OWN, base_round=7)
    assert np.min(found.pulls["w"].curvature) == 0


def test_fedcurv_does_not_push_where_rounding_has_left_nothing_of_the_others() -> None:
    own, other = np.array([1e6], "f4"), np.array([0.02], "f4")  # 0.02 is less than the last place of 1e6
    sums = {"fisher": {"w": own + other}, "weighted": {"w": own * np.float32(0.3) + other * np.float32(5)}}
    kept = {"fisher/w": own, "weighted/w": own * np.float32(0.3), "round/": np.array(7)}
    found = correction_of(
        task_of(
            {"name": "fedcurv", "lam": 1.0},
            {"w": np.zeros(1, "f4")},
            channels=sums,
            state={f"fedcurv run {name}": array for name, array in kept.items()},
            base_round=7,
        )
    )
    assert sums["weighted"]["w"] - kept["weighted/w"] > 0  # what it would push by, however far
    assert found.gradient({"w": np.array([1e6], "f4")})["w"] == 0


@pytest.mark.parametrize("name", ["scaffold", "fedcurv"])
def test_the_first_round_has_nothing_to_correct(name: str) -> None:
    found = correction_of(task_of(ASKED[name], X))
    assert not any(np.any(gradient) for gradient in found.gradient(W).values())


def test_fisher_is_the_mean_of_squared_gradients() -> None:
    found = fisher_of([{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, -4.0])}])
    np.testing.assert_array_equal(found["w"], [5.0, 10.0])  # (1 + 9) / 2, (4 + 16) / 2
    with pytest.raises(LocalProtocolError, match="one example at least"):
        fisher_of([])


# --- a program that works whatever the strategy is ---------------------------------------------


def test_without_a_strategy_that_asks_nothing_is_added_sent_or_kept() -> None:
    found = correction_of(task_of({}, X))
    gradients = {"w": np.array([1.0, 1.0])}
    found.add_to(gradients, W)
    np.testing.assert_array_equal(gradients["w"], [1.0, 1.0])
    assert found.answer(W, num_steps=3) == {"num_steps": 3, "channels": {}, "state": None}
    assert found.term(W) == 0


@pytest.mark.parametrize("name", ["", *EVERY])
def test_what_is_not_wanted_is_not_computed_and_ones_own_state_is_kept_beside(name: str) -> None:
    def never() -> dict[str, Array]:
        raise AssertionError("nobody asked for it")

    task = task_of(ASKED.get(name, {}), X, state={"mine": np.array(3)})
    answer = correction_of(task).answer(
        W,
        num_steps=1,
        learning_rate=1.0,
        gradient=never,
        fisher={"w": np.ones(2)} if name == "fedcurv" else never,
        state={"mine": np.array(4)},
    )
    assert int(answer["state"]["mine"]) == 4


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "fedcurv"])
def test_what_a_program_kept_before_stays_unless_it_says_otherwise(name: str) -> None:
    state = {"mine": np.array(3), "ditto run w": np.ones(2), f"{name} another-run control/w": np.ones(2)}
    found = correction_of(task_of(ASKED[name], X, state=state))
    given: dict[str, Any] = {"num_steps": 1, "learning_rate": 1.0, "fisher": {"w": np.ones(2)}}
    kept = found.answer(W, **given)["state"]
    assert {key for key in kept if not key.startswith(f"{name} run ")} == {"mine", "ditto run w"}
    assert all(key.startswith(f"{name} run ") for key in found.answer(W, state={}, **given)["state"])


def test_only_arrays_that_are_trained_together_are_corrected() -> None:
    weights = {**X, "mean": np.array([1.0]), "head": np.array([1.0])}
    for name, asked in ASKED.items():
        found = correction_of(task_of(asked, weights, trained=("w",)))
        answer = found.answer(
            {**weights, **W}, num_steps=1, learning_rate=1.0, fisher={"w": np.ones(2), "head": np.ones(1)}
        )
        assert set(found.pulls) <= {"w"}
        assert all(set(channel) == {"w"} for channel in answer["channels"].values())
        assert all(key.endswith(("/w", "/")) for key in answer["state"] or {}), name


def test_what_was_kept_in_another_run_of_the_same_name_is_not_used() -> None:
    own = {"scaffold run control/w": np.array([0.1, 1.0])}
    found = correction_of(task_of(ASKED["scaffold"], X, state=own, run_id="anew"))
    assert not found.gradient(W)["w"].any()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_gradients_keep_their_type_and_what_is_kept_is_exact_enough(name: str, dtype: Any) -> None:
    weights = {"w": np.array([1.0, 2.0], dtype)}
    gradients = {"w": np.ones(2, dtype)}
    found = correction_of(task_of(ASKED[name], weights))
    found.add_to(gradients, weights)
    assert gradients["w"].dtype == dtype
    answer = found.answer(weights, num_steps=1, learning_rate=0.1, fisher={"w": np.ones(2)})
    sent = [array for channel in answer["channels"].values() for array in channel.values()]
    kept = [array for key, array in (answer["state"] or {}).items() if not key.endswith("round/")]
    assert all(array.dtype == np.float32 for array in sent + kept)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_arrays_without_dimensions_are_corrected(name: str) -> None:
    weights = {"w": np.array(2.0)}
    kept = {f"feddyn run gradient/{key}": np.array(-3.0) for key in weights}
    sums = {key: {"w": np.array(3.0)} for key in ("control", "fisher", "weighted")}
    found = correction_of(task_of(ASKED[name], {"w": np.array(1.0)}, channels=sums, state=kept))
    added = found.gradient(weights)["w"]
    assert added != 0
    for gradient in (np.array(5.0), np.float64(5.0), 5.0):  # as `error.mean()` returns them
        gradients: dict[str, Any] = {"w": gradient}
        found.add_to(gradients, weights)
        assert gradients["w"] == 5.0 + added


# --- what cannot be ----------------------------------------------------------------------------


def test_a_correction_that_is_not_known_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        correction_of(task_of({"name": "fednext"}, X))
    assert str(caught.value) == (
        "the run asks for the correction 'fednext', which this agent does not know: "
        "fedprox, scaffold, feddyn, fedcurv"
    )
    with pytest.raises(SettingsError, match=r"correction \['fedprox'\]"):
        correction_of(task_of({"name": ["fedprox"]}, X))


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "fedprox"},
        {"name": "fedprox", "mu": -1.0},
        {"name": "fedprox", "mu": float("nan")},
        {"name": "fedprox", "mu": True},
        {"name": "feddyn", "alpha": "0.1"},
        {"name": "fedcurv", "lam": float("inf")},
        {"name": "scaffold", "option": 3},
    ],
)
def test_options_that_cannot_be_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"the run asks for .*{asked['name']}"):
        correction_of(task_of(asked, X))


@pytest.mark.parametrize(
    ("name", "given_too", "missing"),
    [
        ("scaffold", {}, "num_steps"),
        ("scaffold", {"num_steps": 0, "learning_rate": 1.0}, "num_steps"),
        ("scaffold", {"num_steps": 5}, "learning_rate"),
        ("fedcurv", {}, "fisher"),
    ],
)
def test_what_the_strategy_needs_is_named(name: str, given_too: dict[str, Any], missing: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"strategy {name} needs {missing}"):
        correction_of(task_of(ASKED[name], X)).answer(W, **given_too)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_of_other_names_are_refused_before_any_is_changed(name: str) -> None:
    task = in_the_middle(name)
    found, gradients = correction_of(task), {"matrix": np.zeros((2, 3)), "vec": np.zeros(4)}
    with pytest.raises(LocalProtocolError) as caught:
        found.add_to(gradients, task.weights)
    assert str(caught.value) == (
        f"correction.add_to: the gradient of 'vector' is missing, and the run asks for {name}; "
        "name gradients as task.weights does (given: matrix, vec)"
    )
    assert not gradients["matrix"].any()
    with pytest.raises(LocalProtocolError, match="the gradient of 'vector' is a list, not an array"):
        found.add_to({"matrix": np.zeros((2, 3)), "vector": [0.0] * 4}, task.weights)  # type: ignore[dict-item]


def test_arrays_that_do_not_fit_the_model_are_named() -> None:
    found = correction_of(task_of(ASKED["fedcurv"], X))
    with pytest.raises(LayoutMismatchError, match=r"fisher: array 'w' has shape \[3\]; .* shape \[2\]"):
        found.answer(W, fisher={"w": np.ones(3)})
    with pytest.raises(LayoutMismatchError, match="weights: array 'w' is missing"):
        correction_of(task_of(ASKED["feddyn"], X)).answer({})
