"""Logistic regression in NumPy: the model, how to train it, how to measure it.

A model works on records as they are: `w` and `b` are in the features' own units, so that whoever
has the file can use it. Training needs features of one scale, though: it goes over to
standardised features, and back. Means of models are the same in both, since every hospital
goes over with the same means and standard deviations.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from data import Records
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]  # "w": one value for each feature; "b": a single one

# Chosen on splits (seeds 100 to 111) that no table of this example shows.
CONFIG = {"epochs": 4, "learning_rate": 0.1, "batch_size": 16, "l2": 0.001}


class Scale(NamedTuple):
    """What a feature is shifted by and divided by."""

    mean: Array
    std: Array


def sums(records: Records) -> dict[str, Array]:
    """Return all that a hospital tells about its features: added up over sites, it gives a `Scale`."""
    features = records.features
    return {
        "count": np.array(float(len(records))),
        "sum": features.sum(axis=0),
        "square_sum": (features**2).sum(axis=0),
    }


def scale_of(total: Mapping[str, Array]) -> Scale:
    """Return the mean and standard deviation of each feature from such sums."""
    mean = total["sum"] / total["count"]
    return Scale(mean, np.sqrt(total["square_sum"] / total["count"] - mean**2))


def initial_weights(num_features: int, seed: int) -> dict[str, Array]:
    """Return a model to start from: close to zero, since features reach into the thousands."""
    return {"w": np.random.default_rng(seed).normal(scale=1e-4, size=num_features), "b": np.array(0.0)}


def train(weights: Weights, records: Records, scale: Scale, config: Mapping[str, Any], seed: int) -> Weights:
    """Return the model after some epochs of gradient descent in small batches."""
    features = (records.features - scale.mean) / scale.std
    w = weights["w"] * scale.std
    b = weights["b"] + weights["w"] @ scale.mean
    rng = np.random.default_rng(seed)
    for _ in range(config["epochs"]):
        order = rng.permutation(len(records))
        for start in range(0, len(records), config["batch_size"]):
            batch = order[start : start + config["batch_size"]]
            error = _sigmoid(features[batch] @ w + b) - records.labels[batch]  # d loss / d logit
            w = w - config["learning_rate"] * (features[batch].T @ error / len(batch) + config["l2"] * w)
            b = b - config["learning_rate"] * error.mean()
    w = w / scale.std
    return {"w": w, "b": np.asarray(b - w @ scale.mean)}


def measure(weights: Weights, records: Records) -> dict[str, float]:
    """Return the log loss and the accuracy of a model on some records."""
    logits = records.features @ weights["w"] + weights["b"]
    signs = 2 * records.labels - 1
    return {
        "loss": float(np.logaddexp(0, -signs * logits).mean()),
        "accuracy": float(((logits > 0) == (records.labels > 0)).mean()),
    }


def _sigmoid(logits: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * logits))  # does not overflow
