"""The database of the documentation: four hospitals train one small model, by additions and multiplications.

Nothing in it is chance or time, and no sum in it depends on the machine: it is the same each time.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fl_main.db import ModelStore
from fl_main.local import LocalTask
from fl_main.local.sites import Program
from fl_main.settings.files import parse_run
from fl_main.store import AgentRecord, Record
from fl_main.training import Evaluation, TrainResult
from fl_main.weights import Array
from tests.db.recording import Recorder

STARTED_AT = 1793610000.0  # 2026-11-02 09:00 UTC
HOSPITALS = {"st-mary": 120, "charite": 90, "karolinska": 60, "st-luke": 60}  # records
ODD = "karolinska"  # a third of its diagnoses are wrong
SLOW, SLOW_ROUND = "st-luke", 3
TRUTH = (0.9, -0.6, 0.5, 0.0, 1.2)

SETTINGS = {
    "name": "hearts",
    "purpose": "find heart disease from five measurements",
    "strategy": "fedavg",
    "round": {"deadline_s": 60.0, "min_agents": 4, "min_updates": 3},
    "evaluate": {"every": 1},
    "best": {"metric": "accuracy", "source": "evaluate", "direction": "max"},
    "end": {"rounds": 5},
    "config": {"learning_rate": 0.02},
}

Records = list[list[float]]  # five measurements and a diagnosis, 1 or -1


def records(name: str, number: int, wrong: float = 0.0) -> Records:
    """Made-up patients."""
    chance, found = random.Random(name), []
    for _ in range(number):
        values = [round(chance.uniform(-1, 1), 3) for _ in TRUTH]
        is_ill = sum(a * b for a, b in zip(TRUTH, values, strict=True)) + chance.uniform(-0.2, 0.2) > 0.1
        found.append([*values, 1.0 if is_ill != (chance.random() < wrong) else -1.0])
    return found


def margin(weights: Mapping[str, Array], record: Sequence[float]) -> float:
    """How surely a model calls somebody ill."""
    total = float(weights["layer.bias"][0])
    for weight, value in zip(weights["layer.weight"][0].tolist(), record, strict=False):
        total += weight * value
    return total


def measured(weights: Mapping[str, Array], data: Records) -> dict[str, float]:
    """Hinge loss and accuracy."""
    margins = [margin(weights, record) * record[-1] for record in data]
    loss = sum(max(0.0, 1.0 - found) for found in margins) / len(margins)
    return {"accuracy": sum(found > 0 for found in margins) / len(margins), "loss": loss}


def train(task: LocalTask) -> TrainResult:
    """One pass of a perceptron with a margin."""
    data: Records = task.data[0]
    found = {name: array.copy() for name, array in task.weights.items()}
    step = np.float32(task.config["learning_rate"])
    for record in data:
        if margin(found, record) * record[-1] < 1:
            found["layer.weight"] += step * np.array([record[:-1]], np.float32) * np.float32(record[-1])
            found["layer.bias"] += step * np.float32(record[-1])
    return TrainResult(found, len(data), metrics={"loss": measured(found, data)["loss"]})


def evaluate(weights: Mapping[str, Array], data: tuple[Records, Records]) -> Evaluation:
    """What a model is worth on records that were not trained with."""
    return Evaluation(measured(weights, data[1]), len(data[1]))


def seconds(site: str, number: int) -> float:
    """Some are slower, and one is late once."""
    if site == SLOW and number == 2:
        return 95.0
    return {"st-mary": 21.0, "charite": 18.0, "karolinska": 25.0, "st-luke": 29.0}[site]


class _Recorder(Recorder):
    """Records agents as those of the first release are."""

    def _stored_as(self, record: Record) -> Record:
        found = super()._stored_as(record)
        return replace(found, software="fl_main 0.1.0") if isinstance(found, AgentRecord) else found


class _Later(ModelStore):
    """A store whose history begins on a day of our choice."""

    def commit(self, records: Sequence[Record], at: float) -> None:
        """Store records at a time counted from then."""
        super().commit(records, at - 100.0 + STARTED_AT)


def make(folder: Path) -> None:
    """Make the database."""
    sites = {
        name: (records(name, number, 0.35 if name == ODD else 0.0), records(f"{name} held out", 20))
        for name, number in HOSPITALS.items()
    }
    first = {"layer.weight": np.zeros((1, 5), np.float32), "layer.bias": np.zeros(1, np.float32)}
    checked = parse_run(SETTINGS, "the documentation")
    with _Later(folder, clock=lambda: STARTED_AT) as store:
        program = Program(train, evaluate)
        _Recorder(store, "run-hearts", {}, checked, program, sites, first, seconds).run()


PROGRAM = '''\
"""hearts.py: how good a model is on records of our own."""

import csv

with open("held-out.csv") as file:
    RECORDS = [list(map(float, row)) for row in csv.reader(file)]


def accuracy(weights):
    """The part of them that a model judges rightly."""
    weight, bias = weights["layer.weight"][0], weights["layer.bias"][0]
    sums = (sum(w * x for w, x in zip(weight, record)) + bias for record in RECORDS)
    return sum((found > 0) == (record[-1] > 0) for found, record in zip(sums, RECORDS)) / len(RECORDS)
'''


def write_program(folder: Path) -> None:
    """Write what measures a model, and the records that it does so with."""
    (folder / "hearts.py").write_text(PROGRAM)
    with (folder / "held-out.csv").open("w", newline="") as file:
        csv.writer(file).writerows(records("held out", 200))


def main() -> None:
    """Make the database in the folder `models`, to try things with."""
    make(Path("models"))
    write_program(Path())
