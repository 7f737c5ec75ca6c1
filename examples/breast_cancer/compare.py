"""Is it worth it? The federated model beside what each hospital, and one with all records, can do."""

from collections.abc import Mapping
from typing import Any

import data
import model
import numpy as np

from fl_main import TrainingTask, TrainResult, run_local

FEDERATED, POOLED = "federated", "pooled"


def compare(
    federated: model.Weights,
    hospitals: Mapping[str, data.Hospital],
    test: data.Records,
    rounds: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return rows by model: training records, accuracy and log loss on the same test records.

    All start from the same model and go as often through their records as the agents did.
    """
    training = {name: hospital.train for name, hospital in hospitals.items()}
    pooled = data.pooled(hospitals)
    found = {FEDERATED: {"records": len(pooled), **model.measure(federated, test)}}
    for name, records in {**training, POOLED: pooled}.items():
        found[name] = {"records": len(records), **model.measure(_alone(records, rounds, seed), test)}
    return found


def _alone(records: data.Records, rounds: int, seed: int) -> model.Weights:
    """Train without any federation."""
    config = {**model.CONFIG, "epochs": model.CONFIG["epochs"] * rounds}
    initial = model.initial_weights(records.features.shape[1], seed)
    return model.train(initial, records, model.scale_of(model.sums(records)), config, seed)


def federate_locally(hospitals: Mapping[str, data.Hospital], rounds: int, seed: int) -> model.Weights:
    """Return the federated model without any process: `run_local` with the agents' own functions."""

    def train(task: TrainingTask) -> TrainResult:
        records = task.data.train
        weights = model.train(task.weights, records, model.scale_of(task.statistics), task.config, task.seed)
        return TrainResult(weights, num_examples=len(records))

    return run_local(
        train,
        hospitals,
        model.initial_weights(next(iter(hospitals.values())).train.features.shape[1], seed),
        rounds=rounds,
        config=model.CONFIG,
        statistics=lambda hospital: model.sums(hospital.train),
        seed=seed,
    ).weights


def over_seeds(rounds: int, seeds: int) -> str:
    """Print a comparison for each of several splits; return what fell short, or an empty text."""
    print(
        f"{seeds} splits of the records, {rounds} rounds each, in this one process (run_local; no network)\n"
    )
    print("           accuracy                        log loss")
    print("seed  federated  hospitals  pooled   federated  hospitals  pooled")
    rows = []
    for seed in range(seeds):
        hospitals, test = data.split(seed)
        found = compare(federate_locally(hospitals, rounds, seed), hospitals, test, rounds, seed)
        rows.append([_three(found, hospitals, metric) for metric in ("accuracy", "loss")])
        _print_row(str(seed), rows[-1])
    mean = np.mean(rows, axis=0)
    _print_row("mean", mean)
    federated, own, pooled = mean[0]
    print(f"\n(hospitals: mean of the {len(hospitals)} hospitals' own models)")
    if federated < pooled - 0.01:
        return f"the federated accuracy {federated:.4f} is more than a point below the pooled {pooled:.4f}"
    if federated <= own:
        return f"the federated accuracy {federated:.4f} is not above the hospitals' own {own:.4f}"
    print(
        "The federated model is within one percentage point of the pooled one, and above the hospitals' own."
    )
    return ""


def _three(found: Mapping[str, Any], hospitals: Mapping[str, Any], metric: str) -> tuple[float, float, float]:
    own = float(np.mean([found[name][metric] for name in hospitals]))
    return found[FEDERATED][metric], own, found[POOLED][metric]


def _print_row(first: str, row: Any) -> None:
    (a, b, c), (d, e, f) = row
    print(f"{first:>4}  {a:9.4f}  {b:9.4f}  {c:6.4f}   {d:9.4f}  {e:9.4f}  {f:6.4f}", flush=True)
