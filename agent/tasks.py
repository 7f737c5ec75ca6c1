"""What a training task says, the same for blocking and asyncio programs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fl_main.errors import LocalProtocolError
from fl_main.training import Asked, TrainResult
from fl_main.weights import Array, Layout

from .exchange import Work


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a training task says; `Task` and `AsyncTask` add how to answer it.

    Attributes:
        run_id: Of the run; a run that is made anew under the same name has another one.
        task_id: Its id in the log, in `fl status` and in the database.
        round_id: The round it was given in; the first trained is 1.
        base_round: The round that made `weights`; 0 is the initial model.
        weights: The global model to start from, with this agent's private arrays if it has some;
            read-only, valid until the next task.
        trained: Names of the arrays that are trained together: float parameters that travel.
        config: The run's `config` section: learning rate, local epochs, …
        correction: What the run's strategy asks of the training; see `fl_main.corrections`.
        seed: Derived from run, round and agent: the same in every repetition.
        deadline_s: Seconds that the round waited at most when the task was given.
        statistics: Sums over all sites, if the run has a statistics step.
        channels: Extra arrays that the run's strategy sends, by channel.
        state: Arrays that this agent kept with its last update that was counted.
    """

    run_id: str
    task_id: str
    round_id: int
    base_round: int
    weights: Mapping[str, Array]
    trained: tuple[str, ...]
    config: Mapping[str, Any]
    correction: Mapping[str, Any]
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
        asked: What the run's strategy asks of the training.

    Attributes:
        is_answered: Whether it was handed in or declined.
    """

    def __init__(self, work: Work, clock: Callable[[], float], asked: Asked) -> None:
        self.work = work
        self._asked = asked
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
    def warning(self) -> str:
        """What the program is to be told if it has not looked at what is asked for; else empty."""
        return self._asked.warning

    @property
    def seconds(self) -> float:
        """Since the program got the task."""
        return self._clock() - self._started


def facts_of(
    work: Work,
    private: Mapping[str, Array],
    state: Mapping[str, Array],
    run_id: str,
    layout: Layout | None,
) -> dict[str, Any]:
    """Return the fields of `TaskFacts` for a piece of work.

    Args:
        work: It.
        private: The agent's private arrays.
        state: What its program kept.
        run_id: Of the run.
        layout: Of the run's model.
    """
    assign, arrays = work.assign, dict(work.arrays)
    weights, statistics = arrays.pop("weights", {}), arrays.pop("statistics", {})
    return {
        "run_id": run_id,
        "task_id": assign.task_id,
        "round_id": assign.round_id,
        "base_round": assign.model_round,
        "weights": {**weights, **private},
        "trained": layout.trained if layout else (),
        "config": assign.config,
        "correction": Asked(assign.correction),
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
