"""Agents for tests: deterministic training, each in a thread of the test's process."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fl_main.agent import Agent, Final, Task, TrainResult
from fl_main.db import Run
from fl_main.training import TrainingTask
from fl_main.weights import Array
from tests.system.daemons import PATIENCE_S

SIZE = 1000


def initial() -> dict[str, Array]:
    return {"w": np.linspace(-1, 1, SIZE, dtype=np.float32), "b": np.zeros(3, np.float64)}


def first_weights(folder: Path, values: int) -> dict[str, str]:
    """The settings of first weights from a file: noise that takes a while to send and to fold."""
    file = folder / "initial.npz"
    np.savez(file, w=np.random.default_rng(0).standard_normal(values))
    return {"file": str(file)}


def doubled(task: TrainingTask) -> TrainResult:
    """Training for them."""
    return TrainResult({"w": task.weights["w"] * 2}, 1)


def site(number: int) -> Callable[[TrainingTask], TrainResult]:
    """A training function whose result follows from the weights and the seed of the task alone."""

    def train(task: TrainingTask) -> TrainResult:
        noise = np.random.default_rng(task.seed)
        weights = {
            name: (array * 0.9 + number + noise.standard_normal(array.shape)).astype(array.dtype)
            for name, array in task.weights.items()
        }
        return TrainResult(weights, 10 * number, {"loss": 1.0 / task.round_id})

    return train


def identity(folder: Path, agent_id: str) -> Path:
    """Make a state folder with a known identity: seeds and the order of updates follow from it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.json").write_text(json.dumps({"agent_id": agent_id}))
    return folder


class AgentThread:
    """An agent that trains in a thread until its run ends.

    Attributes:
        final: What the run came to.
        error: What it raised.
        trained: Rounds and tasks that it trained in, in order.
    """

    def __init__(
        self,
        url: str,
        name: str,
        state_folder: Path,
        train: Callable[[Task], TrainResult] | None = None,
        *,
        run: str = "r",
        agent_id: str = "",
        keep_going: bool = False,
        **options: Any,
    ) -> None:
        identity(state_folder, agent_id or name)
        self.final: Final | None = None
        self.error: BaseException | None = None
        self.trained: list[tuple[int, str]] = []
        self._train = train or site(1)
        self._keep_going = keep_going
        defaults: dict[str, Any] = {"initial_weights": initial, "progress": False}
        self.agent = Agent(url, run, name, state_folder=state_folder, **defaults | options)
        self.agent.start()
        self._thread = threading.Thread(target=self._run, name=f"agent {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.agent:
                self.final = self.agent.run(self._trained, keep_going=self._keep_going)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def _trained(self, task: Task) -> TrainResult:
        self.trained.append((task.round_id, task.task_id))
        return self._train(task)

    def join(self) -> Final:
        """Wait for the end of the run."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"{self.agent.state}"
        if self.error:
            raise self.error
        assert self.final
        return self.final

    def failed(self) -> BaseException:
        """Wait for the error that ends it."""
        self._thread.join(PATIENCE_S)
        assert self.error, f"no error; {self.agent.state} {self.final}"
        return self.error

    @property
    def line(self) -> str:
        """What the agent says that it does."""
        connection = self.agent._connection
        return connection.client.line if connection else ""

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self.agent.close()
        self._thread.join(PATIENCE_S)


def assert_equal(first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    """Check that two models are the same, bit for bit."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        assert array.tobytes() == second[name].tobytes(), name


def history(run: Run) -> list[tuple[int, str, int, str]]:
    """What counts in a run: the updates that were counted and the digests of the global models."""
    counted = [
        (update.round_id, update.agent_id, update.counted_in, update.digests["weights"])
        for update in run.updates()
        if update.counted_in is not None and update.kind == "train"
    ]
    models = [(model.round_id, "", model.round_id, model.digest) for model in run.models("global")]
    return sorted(counted) + models
