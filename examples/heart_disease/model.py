"""Logistic regression in NumPy, and training that works under any of the strategies."""

from collections.abc import Iterator, Mapping

import numpy as np
from data import Records

from fl_main import TrainingTask, TrainResult
from fl_main.corrections import correction_of

Weights = Mapping[str, np.ndarray]
BATCH = 4


def first(seed: int, features: int = 13) -> dict[str, np.ndarray]:
    """Return a model drawn as PyTorch draws a linear layer: uniform within ±1/√features."""
    noise, bound = np.random.default_rng(seed), features**-0.5
    return {"w": noise.uniform(-bound, bound, features), "b": noise.uniform(-bound, bound, 1)}


def probabilities(weights: Weights, features: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(features @ weights["w"] + weights["b"])))


def accuracy(weights: Weights, records: Records) -> float:
    return float(((probabilities(weights, records.features) > 0.5) == records.labels).mean())


def gradients(weights: Weights, records: Records) -> dict[str, np.ndarray]:
    """Return the gradient of the mean log loss."""
    error = probabilities(weights, records.features) - records.labels
    return {"w": records.features.T @ error / len(error), "b": error.mean(keepdims=True)}


def batches(records: Records, seed: int, begin: int) -> Iterator[Records]:
    """Yield batches without end, from the one at place `begin` on; every pass is shuffled anew."""
    per_pass = -(-len(records.labels) // BATCH)
    while True:
        number, place = divmod(begin, per_pass)
        order = np.random.default_rng((seed, number)).permutation(len(records.labels))
        for start in range(place * BATCH, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield Records(records.features[chosen], records.labels[chosen])
            begin += 1


def train(task: TrainingTask, records: Records) -> TrainResult:
    """Go on where the last round stopped in this hospital's batches, for so many steps."""
    steps, rate, seed = task.config["steps"], task.config["learning_rate"], task.config["seed"]
    weights = {name: array.copy() for name, array in task.weights.items()}
    correction = correction_of(task)
    for _, batch in zip(range(steps), batches(records, seed, (task.round_id - 1) * steps), strict=False):
        found = gradients(weights, batch)
        correction.add_to(found, weights)
        for name, gradient in found.items():
            weights[name] -= rate * gradient
    answer = correction.answer(weights, num_steps=steps, learning_rate=rate)
    return TrainResult(weights, num_examples=len(records.labels), **answer)


def train_pooled(records: Records, seed: int, epochs: int = 50, rate: float = 0.001) -> dict[str, np.ndarray]:
    """Train on records in one place, by Adam (Kingma and Ba 2015) as the benchmark does."""
    weights = first(seed)
    m, v = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    steps = epochs * -(-len(records.labels) // BATCH)
    for step, batch in zip(range(1, steps + 1), batches(records, seed, 0), strict=False):
        for name, gradient in gradients(weights, batch).items():
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            corrected = np.sqrt(v[name] / (1 - 0.999**step)) + 1e-8
            weights[name] = weights[name] - rate * m[name] / (1 - 0.9**step) / corrected
    return weights
