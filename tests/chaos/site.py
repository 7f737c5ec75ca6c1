"""A site as a program: `python -m tests.chaos.site URL RUN NAME STATE_FOLDER JOURNAL VALUES PAUSE_S`.

Its training follows from the task's weights and seed and from the state it kept, so that every
bit of every model tells whether anything was lost, doubled or mixed up.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fl_main.agent import Agent, Task, TrainResult
from fl_main.errors import FLError
from fl_main.training import Evaluation
from fl_main.weights import Array
from tests.chaos.journal import Journal, fingerprint


def initial_weights(values: int) -> dict[str, Array]:
    return {"w": np.linspace(-1, 1, values, dtype=np.float32), "b": np.zeros(3, np.float64)}


def number_of(name: str) -> int:
    return int(name.removeprefix("site"))


def train(task: Task, number: int) -> TrainResult:
    """Return weights that depend on all that a task has: also on how often this site was counted."""
    noise = np.random.default_rng(task.seed)
    counted = int(task.state["counted"][0]) if task.state else 0
    weights = {
        name: (array * 0.9 + number + 0.01 * counted + noise.standard_normal(array.shape)).astype(array.dtype)
        for name, array in task.weights.items()
    }
    state = {"counted": np.array([counted + 1])}
    return TrainResult(weights, 10 * number, {"loss": 1.0 / task.round_id}, state=state)


def evaluate(weights: Mapping[str, Array]) -> Evaluation:
    return Evaluation({"loss": float(np.abs(weights["w"]).mean())}, 10)


class Receipts(logging.Handler):
    """Notes the answers to updates of an earlier process, which the library only logs."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("update from an earlier time") and isinstance(record.args, tuple):
            verdict, task_id = record.args[:2]
            self._journal.note("answered", task_id=task_id, verdict=verdict)


def noted(task: Task, journal: Journal, work: Callable[[], TrainResult]) -> TrainResult:
    """Train between two notes: a task that was begun, and what came of it."""
    journal.note("training", task_id=task.task_id, round_id=task.round_id)
    result = work()
    journal.note("trained", task_id=task.task_id, fingerprint=fingerprint(dict(result.weights)))
    return result


def main(
    url: str, run: str, name: str, state_folder: str, journal_file: str, values: str, pause_s: str
) -> None:
    journal = Journal(Path(journal_file))
    journal.note("started")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("fl_main.agent").addHandler(Receipts(journal))
    weights = initial_weights(int(values))
    agent = Agent(
        url,
        run,
        name,
        initial_weights=weights,
        evaluate=evaluate,
        state_folder=state_folder,
        progress=False,
    )
    with agent:
        for task in agent.tasks():
            result = noted(task, journal, lambda task=task: _slowly(task, name, float(pause_s)))  # type: ignore[misc]
            receipt = task.submit(result.weights, result.num_examples, result.metrics, state=result.state)
            if receipt is not None:
                journal.note("answered", task_id=task.task_id, verdict=receipt.verdict)
    if agent.final is not None:
        journal.note("ended", status=agent.final.status, fingerprint=fingerprint(agent.final.weights))


def _slowly(task: Task, name: str, pause_s: float) -> TrainResult:
    """Train for a while, so that kills find a site at work."""
    time.sleep(pause_s * np.random.default_rng(task.seed).uniform(0, 2))
    return train(task, number_of(name))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FLError as error:  # a disk without room for its state folder: started again later
        sys.exit(f"error: {error}")
