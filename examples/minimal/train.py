"""A training program for `fl agent`: which iris is it? Softmax regression in NumPy.

    fl agent --settings setting/agent.yaml --name site-1 examples/minimal/train.py:train

`fl agent` calls `train` for each round; it finds the other functions here by their names.
"""

import csv
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fl_main import Evaluation, TrainingTask, TrainResult

SPECIES = ["setosa", "versicolor", "virginica"]
PARTS = 3  # the flowers are dealt out to three sites


class Records(NamedTuple):
    features: np.ndarray  # one row for each flower: four lengths in cm
    labels: np.ndarray  # one row for each flower: 1 for its species, 0 for the others


def records_of(site: str) -> tuple[Records, Records]:
    """Return the flowers of a site, to train on and to measure with: site-1 has the first part."""
    with open(Path(__file__).with_name("iris.csv"), newline="") as file:
        rows = list(csv.reader(file))[1:]
    number = re.search(r"\d+$", site)
    rows = rows[(int(number[0]) - 1) % PARTS if number else 0 :: PARTS]
    features = np.array([row[:4] for row in rows], dtype=np.float64)
    labels = np.array([[row[4] == name for name in SPECIES] for row in rows], dtype=np.float64)
    is_held_out = np.arange(len(rows)) % 5 == 0
    return (
        Records(features[~is_held_out], labels[~is_held_out]),
        Records(features[is_held_out], labels[is_held_out]),
    )


# --- the model: no federation in it -----------------------------------------------------------


def initial_weights() -> dict[str, np.ndarray]:
    return {"w": np.zeros((4, 3)), "b": np.zeros(3)}


def descend(weights, records: Records, steps: int, learning_rate: float) -> dict[str, np.ndarray]:
    w, b = weights["w"], weights["b"]
    for _ in range(steps):
        error = predict({"w": w, "b": b}, records.features) - records.labels
        w = w - learning_rate * records.features.T @ error / len(error)
        b = b - learning_rate * error.mean(axis=0)
    return {"w": w, "b": b}


def predict(weights, features: np.ndarray) -> np.ndarray:
    logits = features @ weights["w"] + weights["b"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def measure(weights, records: Records) -> dict[str, float]:
    chances = predict(weights, records.features)
    return {
        "loss": -np.log((chances * records.labels).sum(axis=1)).mean(),
        "accuracy": (chances.argmax(axis=1) == records.labels.argmax(axis=1)).mean(),
    }


# --- what the agent calls ---------------------------------------------------------------------

TRAINING, HELD_OUT = records_of(os.environ.get("FL_AGENT_NAME", ""))  # `fl agent` sets it to its --name


def train(task: TrainingTask) -> TrainResult:
    """Take part in a round; the run's settings may change the numbers (`config:` in run.yaml)."""
    time.sleep(task.config.get("pause_s", 1.0))  # so few flowers take no time: so that you can watch
    return fit(task, TRAINING)


def fit(task: TrainingTask, records: Records) -> TrainResult:
    config = task.config
    weights = descend(task.weights, records, config.get("steps", 20), config.get("learning_rate", 0.1))
    return TrainResult(weights, num_examples=len(records.features), metrics=measure(weights, records))


def evaluate(weights) -> Evaluation:
    """Measure a global model on this site's held-out flowers."""
    return Evaluation(measure(weights, HELD_OUT), num_examples=len(HELD_OUT.features))
