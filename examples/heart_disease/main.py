"""Four hospitals learn to tell heart disease, under six strategies; beside the published benchmark.

    python examples/heart_disease/main.py                # downloads 40 kB of records from the UCI archive
    python examples/heart_disease/main.py --data FOLDER  # where they are at hand
    python examples/heart_disease/main.py --fetch        # downloads them, and does no more

Splits, model, rounds and settings are those of Fed-Heart-Disease (FLamby, NeurIPS 2022). The exit
code is 0 only if each mean over the seeds is within the published standard deviation of the
published mean; 3 if the archive cannot be reached, 2 if the records are not those that are meant.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data
import model
import numpy as np
import published

from fl_main import TrainingTask, TrainResult, run_local

ROUNDS, STEPS = 15, 100
FIRST_SEED = published.SEEDS[0]

# The strategy, its options, and the hospitals' learning rate: as the benchmark chose them.
ADAPTIVE = {"beta1": 0.9, "tau": 1e-8, "initial_v": 0.0}
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "FedAvg": ("fedavg", {}, 0.001),
    "FedProx": ("fedprox", {"mu": 0.01}, 0.001),
    "SCAFFOLD": ("scaffold", {"weighting": "examples"}, 0.001),
    "FedAdagrad": ("fedadagrad", {"eta": 0.316228, **ADAPTIVE}, 0.003162),
    "FedAdam": ("fedadam", {"eta": 0.01, "beta2": 0.999, **ADAPTIVE}, 0.01),
    "FedYogi": ("fedyogi", {"eta": 0.01, "beta2": 0.999, **ADAPTIVE}, 0.003162),
}


def federated(method: str, hospitals: Mapping[str, data.Hospital], seed: int) -> model.Weights:
    """Train one model over the hospitals, none of which shows its records."""
    strategy, options, rate = METHODS[method]

    def train(task: TrainingTask) -> TrainResult:
        return model.train(task, task.data)

    run = run_local(
        train,
        {name: hospital.train for name, hospital in hospitals.items()},
        model.first(seed),
        rounds=ROUNDS,
        strategy=strategy,
        strategy_options=options,
        config={"learning_rate": rate, "steps": STEPS, "seed": seed},
    )
    return run.weights


def accuracies(
    weights: model.Weights, hospitals: Mapping[str, data.Hospital], together: data.Hospital
) -> list[float]:
    """Measure a model on each hospital's test records, and on all of them standardised together."""
    tests = [*(hospital.test for hospital in hospitals.values()), together.test]
    return [model.accuracy(weights, records) for records in tests]


def compare(folder: Path, seeds: range) -> bool:
    """Print the table; return whether all means are as published."""
    hospitals, together = data.hospitals(folder), data.pooled(folder)
    print(f"Means ± standard deviations over {len(seeds)} seeds; {ROUNDS} rounds of {STEPS} steps.\n")
    print(f"{'accuracy':10}{'mean of four hospitals':^34}{'all test records together':^34}")
    print(f"{'':10}" + f"{'here':>14}{'published':>17}{'':3}" * 2)
    are_close = True
    for method in ("pooled", *METHODS):
        rows = []
        for seed in seeds:
            if method == "pooled":
                weights: model.Weights = model.train_pooled(together.train, seed)
            else:
                weights = federated(method, hospitals, seed)
            rows.append(accuracies(weights, hospitals, together))
        cells, is_close = beside(np.array(rows), published.accuracies(method))
        are_close &= is_close
        print(f"{method:10}{cells}".rstrip())
    return are_close


def beside(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, bool]:
    """Return the cells of a method, and whether its means are within the published deviations."""
    cells, are_close = "", True
    for here, there in ((ours[:, :4].mean(axis=1), theirs[:, :4].mean(axis=1)), (ours[:, 4], theirs[:, 4])):
        is_close = abs(here.mean() - there.mean()) <= there.std(ddof=1)
        spread = f"±{here.std(ddof=1):.4f}" if len(here) > 1 else ""
        cells += f"{here.mean():8.4f} {spread:7}{there.mean():8.4f} ±{there.std(ddof=1):.4f}"
        cells += "   " if is_close else " ! "
        are_close &= bool(is_close)
    return cells, are_close


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the records; default: they are downloaded")
    parser.add_argument("--seeds", type=int, default=len(published.SEEDS), help="how many, from 42 on")
    parser.add_argument("--fetch", action="store_true", help="only download the records, and check them")
    given = parser.parse_args()
    folder = given.data or data.default_folder()
    try:
        data.fetch(folder)
    except (data.DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, data.UnreachableError) else 2
    if given.fetch:
        print(f"{folder} has the records of {', '.join(data.FILES)}")
        return 0
    if compare(folder, range(FIRST_SEED, FIRST_SEED + given.seeds)):
        print("\nEach mean is within the published standard deviation of the published one.")
        return 0
    print("\nA mean marked ! is further from the published one than its standard deviation.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
