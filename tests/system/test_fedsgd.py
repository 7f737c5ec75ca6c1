"""FedSGD through the whole system is gradient descent on the pooled records.

With one full-batch step per agent and round, and updates weighted by their examples, the mean of
the local models is w − η Σ (n_k / n) ∇F_k(w) = w − η ∇F(w): what one step on all records gives
(McMahan et al. 2017, section 2). Here it goes through a daemon, agent processes, and the database.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from fl_main.db import ModelDB

ROOT = Path(__file__).resolve().parent.parent.parent
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
ROUNDS, RATE, L2 = 20, 0.5, 0.01
SIZES = (11, 48, 170, 340)  # 569 records, dealt out unevenly

Array = NDArray[np.float64]


def test_twenty_rounds_equal_pooled_gradient_descent(tmp_path: Path) -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    prepare(tmp_path, features, labels.astype(np.float64))
    run_processes(tmp_path)
    with ModelDB(tmp_path / "models") as db:
        found = [model.weights() for model in db.run("fedsgd").models(kind="global")]
    assert len(found) == ROUNDS
    for weights, (w, b) in zip(found, pooled_descent(features, labels), strict=True):
        np.testing.assert_allclose(weights["w"], w, rtol=1e-6)
        np.testing.assert_allclose(weights["b"], b, rtol=1e-6)


def pooled_descent(features: Array, labels: Array) -> list[tuple[Array, Array]]:
    """Return the model after each step on all records, in the features' own units."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    scaled = (features - mean) / std
    w, b, found = np.zeros(features.shape[1]), 0.0, []
    for _ in range(ROUNDS):
        error = 1 / (1 + np.exp(-(scaled @ w + b))) - labels
        w, b = w - RATE * (scaled.T @ error / len(labels) + L2 * w), b - RATE * error.mean()
        found.append((w / std, np.asarray(b - (w / std) @ mean)))
    return found


def prepare(folder: Path, features: Array, labels: Array) -> None:
    order = np.argsort(labels)  # by label: two sites have malignant records only
    for number, rows in enumerate(np.split(order, np.cumsum(SIZES)[:-1])):
        np.savez(
            folder / f"site-{number}.npz",
            features=features[rows],
            labels=labels[rows],
            held_out_features=features[:5],
            held_out_labels=labels[:5],
        )
    np.savez(folder / "initial.npz", w=np.zeros(features.shape[1]), b=np.array(0.0))
    run = {
        "name": "fedsgd",
        "statistics": True,
        "initial": {"file": "initial.npz"},
        "round": {"min_agents": len(SIZES), "min_updates": len(SIZES)},
        "end": {"rounds": ROUNDS},
        "config": {"epochs": 1, "batch_size": len(labels), "learning_rate": RATE, "l2": L2},
    }
    daemon = {
        "listen": {"port": 0},
        "database": {"folder": str(folder / "models")},
        "runs": ["run.yaml"],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    (folder / "aggregator.yaml").write_text(yaml.safe_dump(daemon))


def run_processes(folder: Path) -> None:
    daemon_args = ["-m", "fl_main.aggregator", "--settings", str(folder / "aggregator.yaml")]
    with subprocess.Popen(
        [sys.executable, *daemon_args], env=ENV, stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stderr
        url = next(found[1] for line in daemon.stderr if (found := re.search(r"listening url=(\S+)", line)))
        program = [sys.executable, str(ROOT / "examples" / "breast_cancer" / "hospital.py")]
        agents = [
            subprocess.Popen(
                [*program, "--url", url, "--run", "fedsgd", "--data", str(folder / f"site-{number}.npz")],
                env=ENV | {"FL_STATE_HOME": str(folder)},
                stdout=subprocess.DEVNULL,
            )
            for number in range(len(SIZES))
        ]
        try:
            assert [agent.wait() for agent in agents] == [0] * len(SIZES)
        finally:
            for agent in agents:
                agent.kill()
            daemon.terminate()
        daemon.communicate()
    assert daemon.returncode == 0
