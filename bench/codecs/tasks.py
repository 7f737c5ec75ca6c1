"""What is trained with every codec: handwritten digits at ten sites, breast cancer at four hospitals."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.modes import Examples, fleet
from fl_main import TrainResult, run_local
from fl_main.local import LocalTask

Arrays = Mapping[str, NDArray[Any]]
Compression = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one training.

    Attributes:
        accuracy: On examples that no site has.
        loss: Log loss on them.
        bytes_up: Of a site in a round.
        bytes_down: To a site in a round.
    """

    accuracy: float
    loss: float
    bytes_up: float = 0.0
    bytes_down: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """One training.

    Attributes:
        words: What it is, for the page.
        federated: Trains over the sites with a seed and the section `compression`.
        pooled: Trains the same with all examples in one place.
    """

    words: str
    federated: Callable[[int, Compression], Outcome]
    pooled: Callable[[int], Outcome]


# --- digits ------------------------------------------------------------------------------

SITES, HIDDEN, DIGITS_ROUNDS = 10, 32, 60
EPOCHS, BATCH, RATE = 1, 16, np.float32(0.1)


def digits(seed: int, compression: Compression) -> Outcome:
    """Train a small network over sites that have a few of the ten digits each."""
    sites, test = fleet(seed, SITES)

    def train(task: LocalTask) -> TrainResult:
        weights = trained(task.weights, task.data, EPOCHS, task.seed)
        return TrainResult(weights, num_examples=len(task.data[1]))

    done = run_local(
        train,
        sites,
        network(seed),
        rounds=DIGITS_ROUNDS,
        seed=seed,
        settings={"compression": compression},
    )
    answers = SITES * DIGITS_ROUNDS
    return Outcome(*measured(done.weights, test), done.bytes_up / answers, done.bytes_down / answers)


def digits_pooled(seed: int) -> Outcome:
    """Train the same network, as often through all examples."""
    sites, test = fleet(seed, SITES)
    pixels, labels = zip(*sites.values(), strict=True)
    together = np.concatenate(pixels), np.concatenate(labels)
    return Outcome(*measured(trained(network(seed), together, EPOCHS * DIGITS_ROUNDS, seed), test))


def network(seed: int) -> dict[str, NDArray[np.float32]]:
    """Return 64 inputs, one hidden layer of rectified units, 10 outputs, in float32."""
    chance = np.random.default_rng(seed)
    return {
        "hidden.w": chance.normal(scale=(2 / 64) ** 0.5, size=(64, HIDDEN)).astype(np.float32),
        "hidden.b": np.zeros(HIDDEN, np.float32),
        "out.w": chance.normal(scale=HIDDEN**-0.5, size=(HIDDEN, 10)).astype(np.float32),
        "out.b": np.zeros(10, np.float32),
    }


def trained(weights: Arrays, data: Examples, epochs: int, seed: int) -> dict[str, NDArray[Any]]:
    """Take some epochs of stochastic gradient descent."""
    own = {name: array.copy() for name, array in weights.items()}
    pixels, labels = data[0].astype(np.float32), data[1]
    chance = np.random.default_rng(seed)
    for _ in range(epochs):
        parts = max(1, len(labels) // BATCH)
        for batch in np.array_split(chance.permutation(len(labels)), parts):
            for name, slope in slopes(own, pixels[batch], labels[batch]).items():
                own[name] -= RATE * slope
    return own


def forward(weights: Arrays, pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the hidden layer and the logarithms of the probabilities."""
    hidden = np.maximum(pixels @ weights["hidden.w"] + weights["hidden.b"], 0)
    scores = hidden @ weights["out.w"] + weights["out.b"]
    scores = scores - scores.max(axis=1, keepdims=True)
    return hidden, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def slopes(weights: Arrays, pixels: NDArray[Any], labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the gradient of the mean log loss."""
    hidden, logs = forward(weights, pixels)
    error = np.exp(logs)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    back = (error @ weights["out.w"].T) * (hidden > 0)
    return {
        "out.w": hidden.T @ error,
        "out.b": error.sum(axis=0),
        "hidden.w": pixels.T @ back,
        "hidden.b": back.sum(axis=0),
    }


def measured(weights: Arrays, test: Examples) -> tuple[float, float]:
    """Return accuracy and log loss."""
    pixels, labels = test
    _, logs = forward(weights, pixels.astype(np.float32))
    right = logs.argmax(axis=1) == labels
    return float(right.mean()), float(-logs[np.arange(len(labels)), labels].mean())


# --- breast cancer -----------------------------------------------------------------------

CANCER_ROUNDS = 12  # as `make demo`
EXAMPLE = Path(__file__).parents[2] / "examples" / "breast_cancer"


def example(name: str) -> Any:
    """Return a module of the example, whose files find each other by their bare names."""
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    return import_module(name)


def cancer(seed: int, compression: Compression) -> Outcome:
    """Train the model of examples/breast_cancer over its four hospitals."""
    data, model = example("data"), example("model")
    hospitals, test = data.split(seed)

    def train(task: LocalTask) -> TrainResult:
        records = task.data.train
        scale = model.scale_of(task.statistics)
        weights = model.train(task.weights, records, scale, task.config, task.seed)
        return TrainResult(weights, num_examples=len(records))

    sums = {name: model.sums(hospital.train) for name, hospital in hospitals.items()}
    done = run_local(
        train,
        hospitals,
        model.initial_weights(test.features.shape[1], seed),
        rounds=CANCER_ROUNDS,
        config=model.CONFIG,
        statistics=lambda hospital: model.sums(hospital.train),
        seed=seed,
        settings={"compression": compression},
    )
    found = model.measure(done.weights, test)
    answers = len(hospitals) * CANCER_ROUNDS
    of_sums = sum(array.nbytes for one in sums.values() for array in one.values())  # sent once, never encoded
    up = (done.bytes_up - of_sums) / answers
    return Outcome(found["accuracy"], found["loss"], up, done.bytes_down / answers)


def cancer_pooled(seed: int) -> Outcome:
    """Train the same model on all training records, as the example's comparison does."""
    data, model = example("data"), example("model")
    hospitals, test = data.split(seed)
    records = data.pooled(hospitals)
    config = {**model.CONFIG, "epochs": model.CONFIG["epochs"] * CANCER_ROUNDS}
    initial = model.initial_weights(test.features.shape[1], seed)
    scale = model.scale_of(model.sums(records))
    found = model.measure(model.train(initial, records, scale, config, seed), test)
    return Outcome(found["accuracy"], found["loss"])


TASKS = {
    "digits": Task(
        f"scikit-learn's digits, {SITES} sites with two or three of the ten digits each, a network of "
        f"{64 * HIDDEN + HIDDEN + HIDDEN * 10 + 10:,} float32 values, {DIGITS_ROUNDS} rounds",
        digits,
        digits_pooled,
    ),
    "breast cancer": Task(
        f"`examples/breast_cancer`, four hospitals, a logistic regression of 31 float64 values, "
        f"{CANCER_ROUNDS} rounds",
        cancer,
        cancer_pooled,
    ),
}
