"""What can happen to a run, and what it can ask for: the vocabulary of the round machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fl_main.messages import Frozen
from fl_main.store import Milestone, StoredPayload, TaskRecord, UpdateRecord, Verdict
from fl_main.training import Kind
from fl_main.weights import Layout

# --- what happened -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentJoined:
    """An agent is connected; `refusal` was asked first.

    Attributes:
        held: Tasks it still works on or has a finished update of.
        poll_s: Seconds between two of its visits, if it does not stay connected.
        frozen: What it says of the arrays that the run does not train.
    """

    agent_id: str
    name: str
    kinds: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    held: tuple[str, ...] = ()
    software: str = ""
    poll_s: float | None = None
    frozen: Frozen | None = None


@dataclass(frozen=True, slots=True)
class AgentLeft:
    """An agent's connection ended.

    Attributes:
        for_good: It said that it goes; nobody needs to wait for it.
    """

    agent_id: str
    reason: str = ""
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class AgentRefused:
    """An agent that knows the join token was not let in."""

    agent_id: str
    name: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offered:
    """The facts of an update, before any of its bytes.

    Attributes:
        payloads: Its arrays by channel, with the layouts that the agent states.
        saved_bytes: What packing its chunks saved on their way, as far as they came.
    """

    task_id: str
    agent_id: str
    num_examples: int
    num_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    payloads: Mapping[str, StoredPayload] = field(default_factory=dict)
    seconds: float = 0.0
    saved_bytes: int = 0

    @property
    def digests(self) -> dict[str, str]:
        """What tells a repeat from another update."""
        return {channel: payload.digest for channel, payload in self.payloads.items()}


@dataclass(frozen=True, slots=True)
class UpdateOffered:
    """An agent has the answer to a task.

    Attributes:
        earlier: What the database knows of the task, where the machine no longer does.
    """

    offer: Offered
    earlier: tuple[TaskRecord, UpdateRecord | None] | None = None


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """All of an offered update's bytes are staged and checked; `offer` names the staged files."""

    offer: Offered


@dataclass(frozen=True, slots=True)
class UpdateSpoiled:
    """An offered update's bytes are not what they should be."""

    offer: Offered
    reason: str


@dataclass(frozen=True, slots=True)
class TaskDeclined:
    """An agent will not answer a task.

    Attributes:
        code: `policy`, `skipped`, `error`, `unsupported` or `lost`.
    """

    task_id: str
    agent_id: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepFolded:
    """The frozen updates were combined.

    Attributes:
        fold: What was asked for: a run that was stopped meanwhile wants it no more.
        model: The new model (or sums), staged.
        state: The strategy's arrays, staged, by name.
        shares: Each update's part of the model, in the frozen order.
        notes: What the strategy measured of each.
        download: The model as it is to travel, staged, if it is encoded for that.
    """

    fold: "Fold"
    model: StoredPayload
    state: Mapping[str, StoredPayload] = field(default_factory=dict)
    shares: tuple[float | None, ...] = ()
    notes: tuple[Mapping[str, float], ...] = ()
    download: StoredPayload | None = None


@dataclass(frozen=True, slots=True)
class FoldFailed:
    """The frozen updates cannot be combined."""

    fold: "Fold"
    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Look at the deadlines."""


@dataclass(frozen=True, slots=True)
class Steered:
    """An operator's order: `pause`, `resume` or `stop`."""

    order: str
    actor: str


@dataclass(frozen=True, slots=True)
class AgentSteered:
    """An operator's order about one agent: `quarantine` or `release`."""

    order: str
    agent_id: str
    actor: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    """An operator's order to go on from an earlier round; `objection_to_rollback` was asked first.

    Attributes:
        to: The run as it stood when that round was over.
        reason: The operator's, in a sentence; may be empty.
        rounds: How many global models are to be made from there; None: as many as the settings say in all.
        fresh_state: Whether the strategy begins with no state, as in round 1.
    """

    to: Milestone
    actor: str
    reason: str = ""
    rounds: int | None = None
    fresh_state: bool = False


Event: TypeAlias = (
    AgentJoined
    | AgentLeft
    | AgentRefused
    | UpdateOffered
    | UpdateReceived
    | UpdateSpoiled
    | TaskDeclined
    | StepFolded
    | FoldFailed
    | TimePassed
    | Steered
    | AgentSteered
    | RolledBack
)


# --- what is to be done ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """Give a task to its agent."""

    task: TaskRecord
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Receive:
    """Take the bytes of an offered update."""

    offer: Offered


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell an agent what became of its update."""

    agent_id: str
    task_id: str
    verdict: Verdict
    reason: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class TellCounted:
    """Tell an agent that its update is part of a global model."""

    agent_id: str
    task_id: str
    round_id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell an agent that a task is no longer waited for."""

    agent_id: str
    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expel:
    """End an agent's session: it cannot take part in this run."""

    agent_id: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Combine the frozen updates of a step.

    Attributes:
        attempt: Tells the step from earlier tries of it, whose folds may still be under way.
    """

    round_id: int
    kind: Kind
    attempt: int
    updates: tuple[UpdateRecord, ...]


@dataclass(frozen=True, slots=True)
class EndRun:
    """Tell an agent, or every agent, that the run is over."""

    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prune:
    """A round is done: models that the retention settings let go may go."""


Effect: TypeAlias = Assign | Receive | Answer | TellCounted | Cancel | Expel | Fold | EndRun | Prune
