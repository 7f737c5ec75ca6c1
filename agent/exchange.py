"""What an agent's program and its conversation with the aggregator hand each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fl_main.messages import Assign
from fl_main.training import Kind
from fl_main.weights import Array


class AgentState(StrEnum):
    """What an agent is doing."""

    CONNECTING = "connecting"
    WAITING = "waiting for a task"
    FETCHING = "fetching a model"
    WORKING = "working on a task"
    SENDING = "sending an update"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an agent is asked to take part in: the aggregator's answer to its join.

    Attributes:
        purpose: One sentence of those who run it.
        settings_digest: Of the run's settings: what a custodian agreed to.
        kinds: Kinds of tasks that may come.
        stores_local_models: Whether and how long the aggregator keeps updates, in words.
        form: What updates are: `full` models, or a `delta`: what they add to the global one.
        codec: How updates are encoded, with its options (`top-k fraction=0.01`); empty: not at all.
        feeds_back: Whether this site keeps what it could not send, and adds it to its next update.
        download: How global models are encoded; empty: not at all.
    """

    run: str
    purpose: str
    settings_digest: str
    kinds: tuple[str, ...]
    stores_local_models: str
    form: str = "full"
    codec: str = ""
    feeds_back: bool = False
    download: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """A task that is ready to be worked on.

    Attributes:
        arrays: Fetched payloads by channel, read-only.
    """

    assign: Assign
    arrays: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run ended for this agent."""

    status: str
    reason: str
    round_id: int
    weights: Mapping[str, Array]
    statistics: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Profile:
    """Who the agent is and what it can do.

    Attributes:
        kinds: Kinds of tasks that it can do.
        instance_id: Of this process.
        start_number: How often the agent was started before.
        poll_s: Seconds between two visits at most; None: it stays connected.
    """

    run: str
    name: str
    instance_id: str
    start_number: int
    token: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = (Kind.TRAIN,)
    poll_s: float | None = None


Policy = Callable[[Invitation | Assign], "bool | str | None"]
