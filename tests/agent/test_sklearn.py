"""Estimators lend and take weights, and go on training from them."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model, svm
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from fl_main.agent.sklearn import get_weights, initialise, set_weights
from fl_main.errors import LayoutMismatchError, WeightsError
from fl_main.local import LocalTask, run_local
from fl_main.training import TrainResult
from fl_main.weights import Layout

LINEAR_CLASSIFIERS = [
    linear_model.LogisticRegression(),
    linear_model.Perceptron(),
    linear_model.RidgeClassifier(),
    linear_model.SGDClassifier(class_weight="balanced", early_stopping=True),
    svm.LinearSVC(),
]
LINEAR_REGRESSORS = [
    linear_model.ElasticNet(),
    linear_model.GammaRegressor(),
    linear_model.HuberRegressor(),
    linear_model.Lasso(),
    linear_model.LinearRegression(),
    linear_model.PoissonRegressor(),
    linear_model.Ridge(),
    linear_model.SGDRegressor(),
    linear_model.TweedieRegressor(),
    svm.LinearSVR(),
]
LINEAR = LINEAR_CLASSIFIERS + LINEAR_REGRESSORS
NETWORKS = [
    MLPClassifier(hidden_layer_sizes=(5, 4)),
    MLPClassifier(solver="lbfgs"),
    MLPClassifier(solver="sgd", learning_rate="adaptive", early_stopping=True),
    MLPRegressor(batch_size=32),
]

each_linear = pytest.mark.parametrize("estimator", LINEAR, ids=lambda e: type(e).__name__)
each_network = pytest.mark.parametrize("estimator", NETWORKS, ids=str)
each = pytest.mark.parametrize("estimator", LINEAR + NETWORKS, ids=str)


def made(estimator: Any, num_features: int = 3, seed: int = 0) -> Any:
    return initialise(clone(estimator), num_features, "abc" if is_classifier(estimator) else None, seed)


def classes_of(estimator: Any) -> list[str]:
    return list(estimator.classes_) if is_classifier(estimator) else []


@pytest.fixture(autouse=True)
def _short_training() -> Iterator[None]:
    """Training here is short on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


# --- weights and back --------------------------------------------------------------------


@each
def test_an_estimator_made_ready_can_predict_and_keeps_its_parameters(estimator: Any) -> None:
    model = made(estimator)
    assert model.predict(np.ones((2, 3))).shape == (2,)
    assert model.n_features_in_ == 3
    assert model.get_params() == estimator.get_params()
    assert classes_of(model) == (["a", "b", "c"] if is_classifier(estimator) else [])


@each
def test_weights_come_back_exactly_and_are_copies(estimator: Any) -> None:
    model, other = made(estimator), made(estimator)
    chance = np.random.default_rng(0)
    weights = {name: chance.normal(size=array.shape) for name, array in get_weights(model).items()}
    for array in weights.values():
        array.flags.writeable = False  # as a task's are
    set_weights(model, weights)
    back = get_weights(model)
    assert all(np.array_equal(back[name], array) for name, array in weights.items())
    Layout.of(back).require(weights)
    for array in back.values():
        array[...] = 7.0
    set_weights(other, weights)
    x = chance.normal(size=(20, 3))
    assert np.array_equal(model.predict(x), other.predict(x))


@given(values=st.lists(st.floats(allow_nan=False, width=64), min_size=4, max_size=4))
@settings(max_examples=50)
def test_any_weights_come_back_bit_by_bit(values: list[float]) -> None:
    model = initialise(linear_model.LinearRegression(), 3)
    set_weights(model, {"coef_": np.array(values[:3]), "intercept_": np.array(values[3])})
    back = get_weights(model)
    assert [*back["coef_"], back["intercept_"]] == values
    assert back["intercept_"].shape == ()


@each_linear
def test_a_linear_model_begins_at_zero(estimator: Any) -> None:
    weights = get_weights(made(estimator))
    assert list(weights) == ["coef_", "intercept_"]
    assert not any(array.any() for array in weights.values())


@each_linear
def test_a_model_without_intercept_sends_none(estimator: Any) -> None:
    model = made(clone(estimator).set_params(fit_intercept=False))
    assert list(get_weights(model)) == ["coef_"]
    assert model.predict(np.ones((2, 3))).shape == (2,)


@each_network
def test_a_network_begins_as_the_seed_says(estimator: Any) -> None:
    first, again, other = made(estimator), made(estimator), made(estimator, seed=1)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(get_weights(first).values(), get_weights(again).values(), strict=True)
    )
    assert not np.array_equal(first.coefs_[0], other.coefs_[0])


def test_a_network_begins_with_the_weights_that_it_would_draw_itself() -> None:
    x, y = np.eye(3), ["a", "b", "c"]
    own = MLPClassifier(random_state=5, max_iter=1, learning_rate_init=1e-300).fit(x, y)
    assert np.array_equal(initialise(MLPClassifier(), 3, y, seed=5).coefs_[0], own.coefs_[0])


# --- training goes on --------------------------------------------------------------------


def test_training_after_initialise_is_as_without_it() -> None:
    x, y = digits()[0]
    plain = linear_model.SGDClassifier(random_state=0)
    ready = initialise(linear_model.SGDClassifier(random_state=0), 64, range(10))
    plain.partial_fit(x, y, classes=np.arange(10))
    ready.partial_fit(x, y)
    assert np.array_equal(plain.coef_, ready.coef_)
    assert plain.t_ == ready.t_


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_network_goes_on_with_the_optimizer_that_it_was_given(solver: str) -> None:
    x, y = digits()[0]
    plain = MLPClassifier(solver=solver, random_state=0).partial_fit(x, y, classes=np.arange(10))
    ready = initialise(MLPClassifier(solver=solver, random_state=0), 64, range(10))
    plain.partial_fit(x, y)
    ready.partial_fit(x, y)
    ready.partial_fit(x, y)
    # The draws that made the weights came before those that shuffle: only nearly the same.
    assert ready.loss_ == pytest.approx(plain.loss_, rel=0.05)
    assert (ready.t_, len(ready.loss_curve_)) == (plain.t_, 2)


@each
def test_weights_can_be_set_between_steps_of_training(estimator: Any) -> None:
    model = made(estimator)
    if "warm_start" in model.get_params():
        model.set_params(warm_start=True)
    chance = np.random.default_rng(0)
    x = chance.normal(size=(60, 3))
    y = np.array(["a", "b", "c"] * 20) if is_classifier(model) else np.abs(x).sum(axis=1)
    for _ in range(3):
        model.fit(x, y)
        set_weights(model, get_weights(model))
    assert np.isfinite(np.concatenate([array.ravel() for array in get_weights(model).values()])).all()


def test_early_stopping_does_not_bring_back_the_model_from_before() -> None:
    (x, y), _ = digits()
    model = initialise(
        MLPClassifier(early_stopping=True, warm_start=True, max_iter=2, learning_rate_init=1e-300),
        64,
        range(10),
    )
    set_weights(model, trained := get_weights(MLPClassifier(max_iter=30).fit(x, y)))
    model.fit(x, y)
    bad = get_weights(initialise(MLPClassifier(), 64, range(10)))
    set_weights(model, bad)
    model.fit(x, y)  # in steps that change nothing
    assert np.array_equal(model.coefs_[0], bad["coefs_.0"])
    assert not np.array_equal(model.coefs_[0], trained["coefs_.0"])


def test_weights_are_double_precision_whatever_the_data() -> None:
    (x, y), _ = digits()
    model = MLPClassifier((5,), max_iter=2).fit(x.astype(np.float32), y)
    assert model.coefs_[0].dtype == np.float32
    weights = get_weights(model)
    assert weights["coefs_.0"].dtype == np.float64
    set_weights(model, weights)
    assert model.coefs_[0].dtype == np.float32


# --- what does not work ------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [DecisionTreeClassifier(), linear_model.LogisticRegressionCV(), make_pipeline(linear_model.Ridge())],
    ids=lambda e: type(e).__name__,
)
def test_other_estimators_are_refused_by_name(estimator: Any) -> None:
    for call in (get_weights, lambda e: set_weights(e, {}), lambda e: initialise(e, 3, "ab")):
        with pytest.raises(WeightsError, match=f"^{type(estimator).__name__} is not supported: [^\n]*$"):
            call(estimator)


def test_averaged_sgd_is_refused() -> None:
    with pytest.raises(WeightsError, match="set average=False"):
        initialise(linear_model.SGDClassifier(average=True), 3, "ab")


def test_an_estimator_without_weights_says_what_to_do() -> None:
    for estimator in (linear_model.Ridge(), MLPRegressor()):
        with pytest.raises(WeightsError, match=r"no weights yet: fit it, or call initialise\(…\)"):
            get_weights(estimator)


@pytest.mark.parametrize("classes", [None, [], "aa"])
def test_a_classifier_needs_at_least_two_classes(classes: Any) -> None:
    with pytest.raises(WeightsError, match="needs the class labels of all sites, at least two"):
        initialise(linear_model.Perceptron(), 3, classes)


def test_wrong_weights_change_nothing() -> None:
    model = made(linear_model.LogisticRegression())
    good = {"coef_": np.ones((3, 3)), "intercept_": np.ones(3)}
    wrong: dict[str, dict[str, Any]] = {
        "'intercept_' of the LogisticRegression is missing": {"coef_": np.ones((3, 3))},
        "'bias' is not part of the LogisticRegression": {**good, "bias": np.ones(3)},
        r"'coef_' has shape \[3\], but in the LogisticRegression it has \[3, 3\]": {
            **good,
            "coef_": np.ones(3),
        },
    }
    for text, weights in wrong.items():
        with pytest.raises(LayoutMismatchError, match=text):
            set_weights(model, weights)
    assert not model.coef_.any()


# --- federated training ------------------------------------------------------------------

Records = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def digits() -> tuple[Records, Records]:
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16.0, y, test_size=0.25, random_state=0)
    return (x_train, y_train), (x_test, y_test)


def by_label(records: Records, sites: int) -> dict[str, Records]:
    """Sites that have more of some digits than of others."""
    x, y = records
    order = np.lexsort((np.random.default_rng(0).permutation(len(y)), y // 5))
    parts = np.array_split(order, sites)
    return {f"site-{i}": (x[part], y[part]) for i, part in enumerate(parts)}


@pytest.mark.parametrize(
    "model",
    [
        linear_model.SGDClassifier(loss="log_loss", random_state=0),
        MLPClassifier((32,), learning_rate_init=5e-3, batch_size=32, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_federated_training_comes_close_to_pooled(model: Any) -> None:
    train, test = digits()
    assert federated(model, train, test, rounds=15) > pooled(model, train, test, rounds=15) - 0.05


def federated(model: Any, train: Records, test: Records, rounds: int) -> float:
    initialise(model, 64, range(10))

    def train_one(task: LocalTask) -> TrainResult:
        x, y = task.data
        set_weights(model, task.weights)
        model.partial_fit(x, y)
        return TrainResult(get_weights(model), len(y), {"accuracy": model.score(x, y)})

    done = run_local(train_one, by_label(train, 3), get_weights(model), rounds=rounds)
    set_weights(model, done.weights)
    return float(model.score(*test))


def pooled(model: Any, train: Records, test: Records, rounds: int) -> float:
    alone = initialise(clone(model), 64, range(10))
    for _ in range(rounds):
        alone.partial_fit(*train)
    return float(alone.score(*test))


def test_logistic_regression_goes_on_with_warm_start() -> None:
    train, test = digits()
    model = initialise(linear_model.LogisticRegression(warm_start=True, max_iter=5), 64, range(10))

    def train_one(task: LocalTask) -> TrainResult:
        x, y = task.data
        set_weights(model, task.weights)
        model.fit(x, y)
        return TrainResult(get_weights(model), len(y))

    x, y = train
    sites = {str(i): (x[i::3], y[i::3]) for i in range(3)}  # fit needs every class at every site
    done = run_local(train_one, sites, get_weights(model), rounds=10)
    set_weights(model, done.weights)
    everything = linear_model.LogisticRegression(max_iter=50).fit(x, y)
    assert model.score(*test) > everything.score(*test) - 0.02
