"""What a training task says, the same for blocking and asyncio programs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fl_main.errors import LocalProtocolError
from fl_main.training import TrainResult
from fl_main.weights import Array

from .exchange import Work


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a training task says; `Task` and `AsyncTask` add how to answer it.

    Attributes:
        task_id: Its id in the log, in `fl status` and in the database.
        round_id: The round it was given in; the first trained is 1.
        weights: The global model to start from; read-only, valid until the next task.
        config: The run's `config` section: learning rate, local epochs, …
        seed: Derived from run, round and agent: the same in every repetition.
        deadline_s: Seconds that the round waited at most when the task was given.
        statistics: Sums over all sites, if the run has a statistics step.
        channels: Extra arrays that the run's strategy sends, by channel.
        state: Arrays that this agent kept with its last update that was counted.
    """

    task_id: str
    round_id: int
    weights: Mapping[str, Array]
    config: Mapping[str, Any]
    seed: int
    deadline_s: float | None
    statistics: Mapping[str, Array]
    channels: Mapping[str, Mapping[str, Array]]
    state: Mapping[str, Array]


class Answering:
    """How far the answer to a task is.

    Args:
        work: The task.
        clock: Seconds that never go back.

    Attributes:
        is_answered: Whether it was handed in or declined.
    """

    def __init__(self, work: Work, clock: Callable[[], float]) -> None:
        self.work = work
        self.is_answered = False
        self._clock = clock
        self._started = clock()

    def result(
        self,
        weights: Mapping[str, Any],
        num_examples: int,
        metrics: Mapping[str, Any] | None,
        num_steps: int | None,
        channels: Mapping[str, Mapping[str, Any]] | None,
        state: Mapping[str, Any] | None,
    ) -> TrainResult:
        """Return the parts of an answer as one.

        Raises:
            LocalProtocolError: If the task was answered before.
        """
        if self.is_answered:
            raise LocalProtocolError("this task is answered already: one update answers one task")
        return TrainResult(weights, num_examples, metrics or {}, num_steps, channels or {}, state)

    @property
    def seconds(self) -> float:
        """Since the program got the task."""
        return self._clock() - self._started


def facts_of(work: Work, state: Mapping[str, Array]) -> dict[str, Any]:
    """Return the fields of `TaskFacts` for a piece of work."""
    assign, arrays = work.assign, dict(work.arrays)
    weights, statistics = arrays.pop("weights", {}), arrays.pop("statistics", {})
    return {
        "task_id": assign.task_id,
        "round_id": assign.round_id,
        "weights": weights,
        "config": assign.config,
        "seed": assign.seed,
        "deadline_s": assign.deadline_s,
        "statistics": statistics,
        "channels": arrays,
        "state": state,
    }


def submission(result: object) -> dict[str, Any]:
    """Return the arguments of `submit` for what a training function returned.

    Raises:
        LocalProtocolError: If it is no `TrainResult`.
    """
    if not isinstance(result, TrainResult):
        raise LocalProtocolError(f"train must return a TrainResult, not {type(result).__name__}")
    return {field.name: getattr(result, field.name) for field in fields(result)}
