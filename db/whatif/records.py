"""What comes of questions of the kind "what if": plain records."""

from collections.abc import Mapping
from dataclasses import dataclass

from .planning import Bases


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """A round and what came of it in a replay.

    Attributes:
        stored_id: The round's stored model.
        model_id: The replayed one; None if the updates that are left make none, `reason` says why.
        agents: Whose updates were combined, by name, in order; `left_out`: whose were not.
        is_same: Whether both models are the same, bit for bit.
        measured: What `evaluate` says of the replayed model; `stored`: of the stored one.
    """

    round_id: int
    stored_id: str
    model_id: str | None
    agents: tuple[str, ...]
    left_out: tuple[str, ...]
    is_same: bool
    reason: str
    measured: Mapping[str, float]
    stored: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Replay:
    """A run that was made from the stored updates of another.

    Attributes:
        name: Its name; `of` that of the run whose updates it is made from.
        strategy: In words.
        remarks: What is to be known of it, a sentence each: what is exact, and what is not.
    """

    run_id: str
    name: str
    of: str
    strategy: str
    without: tuple[str, ...]
    bases: Bases
    rounds: tuple[ReplayedRound, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What an agent contributed.

    Attributes:
        value: In units of the metric; the sum over rounds.
        rounds: In which it took part.
    """

    agent: str
    value: float
    rounds: int


@dataclass(frozen=True, slots=True)
class RoundContributions:
    """What each agent contributed to the model of a round.

    Attributes:
        nobody: The metric of the model before it; `everybody`: of the one that all updates make.
        values: By the agents' names, in the order in which their updates were folded.
    """

    round_id: int
    nobody: float
    everybody: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Contributions:
    """Who contributed what to a run, or a round of it.

    Attributes:
        method: `leave-one-out` or `shapley`.
        agents: The largest first.
        remarks: What is to be known of the numbers, a sentence each.
    """

    run: str
    metric: str
    method: str
    agents: tuple[Contribution, ...]
    rounds: tuple[RoundContributions, ...]
    remarks: tuple[str, ...]
