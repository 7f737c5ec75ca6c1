"""What programs see of a local run: the tasks of its sites, its rounds, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl_main.weights import Array


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task of `run_local`; see `fl_main.training.TrainingTask`.

    Attributes:
        site: The name of the site whose turn it is.
        data: What was given for that site.
    """

    site: str
    data: Any
    run_id: str
    round_id: int
    base_round: int
    weights: Mapping[str, Array]
    trained: tuple[str, ...]
    config: Mapping[str, Any]
    correction: Mapping[str, Any]
    seed: int
    statistics: Mapping[str, Array]
    channels: Mapping[str, Mapping[str, Array]]
    state: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class LocalRound:
    """What came of a round.

    Attributes:
        time_s: Virtual seconds since the beginning.
        weights: The new global model.
        staleness: Of the updates that are part of it, in the order in which they were combined.
        busy_s: Seconds that sites spent on updates that were accepted; since the round before.
        wasted_s: Seconds that they spent on what came to nothing.
        idle_s: Seconds that they had nothing to do.
        bytes_up: What sites sent, as it would travel; since the round before.
        bytes_down: What they were sent: a model goes once to each site.
    """

    round_id: int
    time_s: float
    weights: Mapping[str, Array]
    staleness: Sequence[int]
    busy_s: float
    wasted_s: float
    idle_s: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What came of a run.

    Attributes:
        weights: The final model.
        metrics: One row per round: its means over the sites, `train_…` and `evaluate_…`.
        rounds: Global models made.
        time_s: Virtual seconds that it took, where sites were told how long they take.
        bytes_up: What sites sent in all, as it would travel: encoded, if the settings say so.
        bytes_down: What they were sent in all: a model goes once to each site.
    """

    weights: Mapping[str, Array]
    metrics: Sequence[Mapping[str, float]]
    rounds: int
    time_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
