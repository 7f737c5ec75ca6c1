"""The contract between a training program and the framework, the same everywhere.

A function `train(task) -> TrainResult` runs unchanged under `Agent.run`, under `fl agent`
and in `run_local`.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fl_main.errors import LocalProtocolError, WeightsError

if TYPE_CHECKING:
    from fl_main.weights import Array, Role

T = TypeVar("T")


class Kind(StrEnum):
    """What a task asks an agent to do."""

    INITIALISE = "initialise"  # hand in the weights that round 1 starts from
    STATISTICS = "statistics"  # hand in sums and counts of the local data, to be added up
    TRAIN = "train"
    EVALUATE = "evaluate"  # measure a global model on held-out data of one's own


class NamedArrays(dict[str, Any]):
    """Arrays by name that know their roles; a plain dict serves where all are parameters.

    Attributes:
        roles: Role by name; arrays that are not in it are parameters.
    """

    def __init__(self, arrays: Mapping[str, Any], roles: "Mapping[str, Role] | None" = None) -> None:
        super().__init__(arrays)
        self.roles: dict[str, Role] = dict(roles or getattr(arrays, "roles", {}))


class Asked(dict[str, Any]):
    """What a run's strategy asks of a training; it knows whether the program has looked at it.

    Attributes:
        was_read: Whether it has.
    """

    was_read = False

    def __getitem__(self, name: str) -> Any:
        self.was_read = True
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value by its name."""
        self.was_read = True
        return super().get(name, default)

    @property
    def warning(self) -> str:
        """What a program is to be told that has not looked; empty if it has, or nothing is asked."""
        if not self or self.was_read:
            return ""
        return (
            f"the run's strategy asks the training for {dict(self)}, and the program has not looked: make "
            "its correction_of(task), or a TorchCorrection, and add it to the gradients"
        )


@dataclass(slots=True)
class TrainResult:
    """What a training function gives back.

    Attributes:
        weights: The full local model after training; copied on submit. Private arrays stay here, and
            are part of the next task's weights once this update was counted.
        num_examples: Distinct local examples trained on (not times epochs), at least 1.
        metrics: Named numbers about the local model on the training data.
        num_steps: Optimizer steps taken; some strategies need it.
        channels: Extra arrays by channel, where the run's strategy wants them.
        state: Arrays to keep at this agent for its next task. They become current only when
            this update was counted in a global model.
    """

    weights: Mapping[str, Any]
    num_examples: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int | None = None
    channels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Evaluation:
    """What an evaluation function gives back.

    Attributes:
        metrics: Named numbers about the model on held-out data.
        num_examples: Held-out examples measured on, at least 1.
    """

    metrics: Mapping[str, Any]
    num_examples: int


class TrainingTask(Protocol):
    """What a training function is given.

    Attributes:
        run_id: Of the run; a run that is made anew under the same name has another one.
        round_id: The round in which the task was given; the first trained is 1.
        base_round: The round that made `weights`; 0 is the initial model.
        weights: The global model to start from, by array name, with this site's private arrays if it
            has some; read-only.
        trained: Names of the arrays that are trained together: float parameters that travel.
        config: The run's `config` section: learning rate, local epochs, …
        correction: What the run's strategy asks of the training; see `fl_main.corrections`.
        seed: Derived from run, round and agent: the same in every repetition.
        statistics: Sums over all sites, if the run has a statistics step; read-only.
        channels: Extra arrays that the run's strategy sends, by channel; read-only.
        state: What this agent kept with its last update that was counted.
    """

    @property
    def run_id(self) -> str: ...  # noqa: D102 - described above
    @property
    def round_id(self) -> int: ...  # noqa: D102
    @property
    def base_round(self) -> int: ...  # noqa: D102
    @property
    def weights(self) -> "Mapping[str, Array]": ...  # noqa: D102
    @property
    def trained(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def correction(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def statistics(self) -> "Mapping[str, Array]": ...  # noqa: D102
    @property
    def channels(self) -> "Mapping[str, Mapping[str, Array]]": ...  # noqa: D102
    @property
    def state(self) -> "Mapping[str, Array]": ...  # noqa: D102


def evaluation_of(evaluate: Callable[..., T], *args: Any, state: "Callable[[], Mapping[str, Array]]") -> T:
    """Call a site's `evaluate`; one that has a parameter `state` gets what the site kept, too.

    Args:
        evaluate: Of the site.
        args: What it is called with.
        state: Returns what the site kept with its last update that was counted.
    """
    try:
        takes_state = "state" in inspect.signature(evaluate).parameters
    except (TypeError, ValueError):  # of some built-in functions nobody knows
        takes_state = False
    return evaluate(*args, state=state()) if takes_state else evaluate(*args)


def as_evaluation(answer: object) -> Evaluation:
    """Return what a site's `evaluate` gave.

    Raises:
        LocalProtocolError: If it is no `Evaluation`.
    """
    if not isinstance(answer, Evaluation):
        wanted = "an Evaluation(metrics, num_examples)"
        raise LocalProtocolError(f"evaluate must return {wanted}, not {type(answer).__name__}")
    return answer


def as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as plain floats: Python, numpy and torch scalars are taken.

    Raises:
        WeightsError: If they have no names, a value is not one number, or they are too many or have too
            long names to be sent.
    """
    # Loads pydantic, for which whoever lists a database's rounds need not wait.
    from fl_main.messages import MAX_METRICS, MAX_NAME

    if not isinstance(values, Mapping):
        raise WeightsError(f"metrics are numbers by name, {{'loss': …}}, not {type(values).__name__}")
    if len(values) > MAX_METRICS:
        raise WeightsError(f"{len(values)} metrics; at most {MAX_METRICS} are taken")
    metrics: dict[str, float] = {}
    for name, value in values.items():
        if len(str(name)) > MAX_NAME:
            raise WeightsError(f"metric {str(name)[:40]!r}… has a name of more than {MAX_NAME} characters")
        try:
            scalar = value.item() if hasattr(value, "item") else value
            if not isinstance(scalar, numbers.Real):
                raise TypeError
            metrics[str(name)] = float(scalar)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # of numpy and torch: more than one
            raise WeightsError(f"metric {name!r} must be one number, not {type(value).__name__}") from None
    return metrics


def as_count(value: object, name: str) -> int:
    """Return a count as a plain whole number: Python, numpy and torch scalars are taken.

    Args:
        value: `num_examples` or `num_steps` of a result.
        name: What it is called.

    Raises:
        WeightsError: If it is no whole number.
    """
    try:
        scalar = value.item() if hasattr(value, "item") else value
        if isinstance(scalar, numbers.Integral) or (isinstance(scalar, float) and scalar.is_integer()):
            return int(scalar)
    except (ValueError, RuntimeError):  # of numpy and torch: more than one
        pass
    raise WeightsError(f"{name} must be a whole number, not {value!r:.40}")


def counts_of(result: TrainResult) -> tuple[int, int | None]:
    """Return the examples and the steps of a result as plain whole numbers.

    Raises:
        WeightsError: If they are none.
    """
    steps = None if result.num_steps is None else as_count(result.num_steps, "num_steps")
    return as_count(result.num_examples, "num_examples"), steps


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Whether every metric is a finite number."""
    return all(math.isfinite(value) for value in metrics.values())
