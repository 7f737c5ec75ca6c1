"""FedSGD is gradient descent on the pooled records, to rounding."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from fl_main import run_local
from fl_main.agent import TrainResult
from fl_main.errors import RunFailedError
from fl_main.strategies import Contribution, FedSGD

ROUNDS, RATE = 30, 0.5
SIZES = (11, 48, 170, 340)  # 569 records, dealt out unevenly, those of one label first

Numbers = NDArray[np.float64]


def records() -> tuple[Numbers, Numbers]:
    features, labels = load_breast_cancer(return_X_y=True)
    order = np.argsort(labels, kind="stable")
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    return np.column_stack([scaled, np.ones(len(labels))])[order], labels[order].astype(float)


def gradient(w: Numbers, features: Numbers, labels: Numbers) -> Numbers:
    """Return that of the mean logistic loss."""
    found: Numbers = features.T @ (1 / (1 + np.exp(-features @ w)) - labels) / len(labels)
    return found


def step(task: Any) -> TrainResult:
    w = task.weights["w"]
    moved = w - RATE * gradient(w, *task.data)
    return TrainResult({"w": moved}, len(task.data[1]), num_steps=task.config.get("steps", 1))


def test_rounds_are_steps_on_all_records() -> None:
    features, labels = records()
    cuts = np.cumsum(SIZES)[:-1]
    parts = zip(np.split(features, cuts), np.split(labels, cuts), strict=True)
    sites = {f"site-{number}": part for number, part in enumerate(parts)}
    made: list[Numbers] = []
    start = np.zeros(features.shape[1])
    run_local(
        step,
        sites,
        {"w": start},
        rounds=ROUNDS,
        strategy="fedsgd",
        on_round=lambda done: made.append(done.weights["w"].copy()),
    )
    pooled = start
    for found in made:
        pooled = pooled - RATE * gradient(pooled, features, labels)
        np.testing.assert_allclose(found, pooled, rtol=1e-12, atol=1e-14)
    assert len(made) == ROUNDS


def test_updates_of_several_steps_are_refused() -> None:
    features, labels = records()
    fault = FedSGD().fault(Contribution("site", 10, 2))
    assert fault == "num_steps is 2, but fedsgd is of one step on all data: mend the training, or take fedavg"
    with pytest.raises(RunFailedError, match=fault):
        run_local(
            step,
            {"site": (features, labels)},
            {"w": np.zeros(features.shape[1])},
            strategy="fedsgd",
            config={"steps": 2},
        )
