"""The weights of a scikit-learn estimator as named arrays, and back.

An estimator has no weights before it has seen data, so a federated one begins with `initialise`:

    model = initialise(SGDClassifier(loss="log_loss"), num_features=30, classes=[0, 1])
    with Agent(url, run, initial_weights=get_weights(model)) as agent:
        for task in agent.tasks():
            set_weights(model, task.weights)
            model.partial_fit(x, y)
            task.submit(get_weights(model), len(y))

Training must go on from the weights that were set: `partial_fit`, or `fit` with
`warm_start=True`. Where a site may lack a class, use `partial_fit`: `fit` of a linear classifier
forgets the classes that its data do not have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fl_main.errors import MissingExtraError, WeightsError
from fl_main.training import NamedArrays
from fl_main.weights import Array, as_arrays

from .fitting import require_fit

try:
    from sklearn import linear_model, svm
    from sklearn.base import BaseEstimator, clone, is_classifier
    from sklearn.neural_network import MLPClassifier, MLPRegressor
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise MissingExtraError("scikit-learn is not installed: pip install 'fl_main[sklearn]'") from None

__all__ = ["get_weights", "initialise", "set_weights"]

_NETWORKS = (MLPClassifier, MLPRegressor)
_LINEAR = (
    linear_model.ElasticNet,
    linear_model.GammaRegressor,
    linear_model.HuberRegressor,
    linear_model.Lasso,
    linear_model.LinearRegression,
    linear_model.LogisticRegression,
    linear_model.Perceptron,
    linear_model.PoissonRegressor,
    linear_model.Ridge,
    linear_model.RidgeClassifier,
    linear_model.SGDClassifier,
    linear_model.SGDRegressor,
    linear_model.TweedieRegressor,
    svm.LinearSVC,
    svm.LinearSVR,
)

# A step that changes no weight, however large its gradient, and that scikit-learn accepts.
_NO_STEP = 1e-300

# What an estimator is told while it sees made-up data: nothing that needs real ones.
_FOR_MADE_UP_DATA = {"class_weight": None, "early_stopping": False, "verbose": 0}


def initialise(
    estimator: BaseEstimator, num_features: int, classes: Iterable[Any] | None = None, seed: int = 0
) -> BaseEstimator:
    """Make an estimator ready to be given weights, to predict, and to go on training.

    Linear models begin at zero, networks at scikit-learn's own random weights with a fresh
    optimizer. The same arguments give the same weights at every site.

    Args:
        estimator: A linear model or MLP with one target; changed in place, its parameters stay.
        num_features: Columns of the data.
        classes: All class labels of all sites, for a classifier.
        seed: Of a network's first weights.

    Returns:
        The estimator.

    Raises:
        WeightsError: If the estimator is of another kind, or the classes are missing.
    """
    _require_supported(estimator)
    x, y = _made_up(estimator, num_features, classes)
    # A copy learns the shapes from made-up data, so that whatever this version of scikit-learn
    # keeps in an estimator is there; then the values are replaced.
    model = clone(estimator)
    model.set_params(**{k: v for k, v in _FOR_MADE_UP_DATA.items() if k in model.get_params(deep=False)})
    if isinstance(estimator, _NETWORKS):
        _initialise_network(model, x, y, seed)
    else:
        _initialise_linear(model, x, y)
    parameters = estimator.get_params(deep=False)
    vars(estimator).update({k: v for k, v in vars(model).items() if k not in parameters})
    if isinstance(estimator, _NETWORKS):
        _forget_progress(estimator)
    return estimator


def get_weights(estimator: BaseEstimator) -> NamedArrays:
    """Return a copy of an estimator's weights.

    Args:
        estimator: Fitted, or made ready by `initialise`.

    Returns:
        `coef_` and `intercept_` of a linear model (without the latter if it fits none), `coefs_.0`,
        `intercepts_.0`, … of an MLP. Always float64, which holds float32 exactly: in which of
        them scikit-learn computes depends on a site's data.

    Raises:
        WeightsError: If the estimator is of another kind, or has no weights yet.
    """
    return NamedArrays({name: np.array(array, np.float64) for name, array in _arrays(estimator).items()})


def set_weights(estimator: BaseEstimator, weights: Mapping[str, Any]) -> None:
    """Replace an estimator's weights by a copy of others.

    What else training keeps (learning-rate schedule, moments of Adam) goes on from where it was;
    early stopping begins anew, for its best weights are those of another model.

    Args:
        estimator: Fitted, or made ready by `initialise`; not changed if an error is raised.
        weights: Of the names and shapes of `get_weights`; only read.

    Raises:
        LayoutMismatchError: If a name or shape is not the estimator's.
        WeightsError: If the estimator is of another kind, or has no weights yet.
    """
    own, given = _arrays(estimator), as_arrays(weights)
    require_fit(
        {name: array.shape for name, array in given.items()},
        {name: np.shape(array) for name, array in own.items()},
        f"the {type(estimator).__name__}",
    )
    # Of an array of no dimension, [()] gives the scalar that scikit-learn has there.
    new = {name: np.array(given[name], np.asarray(array).dtype)[()] for name, array in own.items()}
    if isinstance(estimator, _NETWORKS):
        for part in ("coefs_", "intercepts_"):
            setattr(estimator, part, [new[f"{part}.{i}"] for i in range(len(getattr(estimator, part)))])
        _forget_progress(estimator)
    else:
        vars(estimator).update(new)


def _arrays(estimator: BaseEstimator) -> dict[str, Array]:
    """Return the estimator's own arrays by name."""
    _require_supported(estimator)
    try:
        if isinstance(estimator, _NETWORKS):
            parts = {"coefs_": estimator.coefs_, "intercepts_": estimator.intercepts_}
            return {f"{part}.{i}": array for part, arrays in parts.items() for i, array in enumerate(arrays)}
        names = ["coef_", "intercept_"] if estimator.fit_intercept else ["coef_"]
        return {name: getattr(estimator, name) for name in names}
    except AttributeError:
        name = type(estimator).__name__
        raise WeightsError(f"this {name} has no weights yet: fit it, or call initialise(…)") from None


def _require_supported(estimator: BaseEstimator) -> None:
    name = type(estimator).__name__
    is_cv = name.endswith("CV")  # LogisticRegressionCV is a LogisticRegression, but chooses among many
    if is_cv or not isinstance(estimator, _NETWORKS + _LINEAR):
        raise WeightsError(f"{name} is not supported: only linear models and MLPs have weights to average")
    if getattr(estimator, "average", False):
        raise WeightsError(f"{name}(average=…) trains two models at once; set average=False")


def _made_up(
    estimator: BaseEstimator, num_features: int, classes: Iterable[Any] | None
) -> tuple[Array, Array]:
    """Return the smallest data that show an estimator the shapes: each class once."""
    if not is_classifier(estimator):
        targets: Array = np.array([1.0, 2.0])  # positive: a Poisson or gamma model needs that
    else:
        targets = np.unique([] if classes is None else list(classes))
        if len(targets) < 2:
            raise WeightsError(
                f"{type(estimator).__name__} needs the class labels of all sites, at least two"
            )
    return np.zeros((len(targets), num_features)), targets


def _initialise_linear(model: BaseEstimator, x: Array, y: Array) -> None:
    model.fit(x, y)
    if hasattr(model, "t_"):
        model.t_ = 1.0  # the learning rate of SGD falls with the examples seen, and these were none
    for name, array in _arrays(model).items():
        setattr(model, name, np.zeros_like(array)[()])


def _initialise_network(model: BaseEstimator, x: Array, y: Array, seed: int) -> None:
    solver = "adam" if model.solver == "lbfgs" else model.solver  # lbfgs has no single step
    model.set_params(solver=solver, learning_rate_init=_NO_STEP, random_state=seed, batch_size="auto")
    model.partial_fit(x, y, **({"classes": y} if is_classifier(model) else {}))
    del model._optimizer  # the next training makes one, with the learning rate of the estimator
    model.t_ = model.n_iter_ = 0
    model.loss_curve_ = []


def _forget_progress(network: BaseEstimator) -> None:
    """Let early stopping begin anew: it would put the best weights so far in place of others."""
    is_early = network.early_stopping
    network._no_improvement_count = 0
    network.best_loss_ = None if is_early else np.inf
    network.best_validation_score_ = -np.inf if is_early else None
    network.validation_scores_ = [] if is_early else None
