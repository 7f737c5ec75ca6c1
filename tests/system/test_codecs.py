"""Runs whose models travel encoded: what comes out is what the same functions give in one process."""

from typing import Any

import numpy as np
import pytest

from fl_main.training import TrainingTask, TrainResult
from tests.system.agents import assert_equal
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import run_of

SITES = {f"site{number}": number for number in (1, 2, 3)}
ROUNDS = 4


def first() -> dict[str, Any]:
    noise = np.random.default_rng(7)
    return {"w": noise.standard_normal((40, 30)).astype(np.float32), "b": np.zeros(5), "n": np.arange(3)}


def train(task: TrainingTask) -> TrainResult:
    noise = np.random.default_rng(task.seed)
    weights = {
        name: (array + 0.1 * noise.standard_normal(array.shape)).astype(array.dtype)
        for name, array in task.weights.items()
    }
    return TrainResult(weights, num_examples=task.seed % 5 + 1)


COMPRESSIONS: dict[str, dict[str, Any]] = {
    "delta": {"form": "delta"},
    "float16": {"codec": "float16"},
    "float16-delta": {"codec": "float16", "form": "delta"},
    "bfloat16": {"codec": "bfloat16", "download": "bfloat16"},
    "download": {"download": "float16"},
    "int8": {"codec": "int8", "download": "int8"},
    "int8-feedback": {"codec": "int8", "block": 16, "error_feedback": True},
    "qsgd": {"codec": "qsgd", "levels": 7, "download": "float16"},
    "top-k": {"codec": "top-k", "fraction": 0.1, "download": "int8"},
    "random-k": {"codec": "random-k", "fraction": 0.1},
}


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
def test_run_with_codecs_comes_to_its_end(
    compression: dict[str, Any], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(end={"rounds": ROUNDS}, round={"min_agents": 3}, compression=compression))
    agents = [start_agent(daemon.url, number, train, initial_weights=first) for number in SITES.values()]
    finals = [agent.join().weights for agent in agents]
    with daemon.db() as db:
        assert db.run("r").final is not None
        for final in finals:
            assert_equal(final, db.model("r:final").weights())
