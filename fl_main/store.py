"""What a model database must offer to the daemon: records in, files beside them.

A record is a plain fact that the round machine decided; `Store.commit` takes any number of
them as one transaction. The SQLite store is `fl_main.db.store`; another one (PostgreSQL and an
object store, or one in memory) need only keep this interface.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fl_main.digests import DigestAlgorithm
from fl_main.training import Kind

if TYPE_CHECKING:  # numpy takes longer to load than it takes to list a database's rounds
    from fl_main.settings import RunSettings
    from fl_main.weights import Array, Layout


class RunStatus(StrEnum):
    """What a run is doing, as operators see it."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether the run makes no more rounds."""
        return self in (RunStatus.FINISHED, RunStatus.STOPPED, RunStatus.FAILED)


class Phase(StrEnum):
    """Where a run is within its current step."""

    WAITING = "waiting"  # for agents, or for a model to start from
    COLLECTING = "collecting"  # tasks are out
    AGGREGATING = "aggregating"  # the list of updates is frozen and is being folded
    ENDED = "ended"


class TaskStatus(StrEnum):
    """What became of a task."""

    OPEN = "open"
    LATE = "late"  # its round is over; the answer may count in the next one
    ANSWERED = "answered"
    DECLINED = "declined"
    FAILED = "failed"  # the agent's program raised
    CANCELLED = "cancelled"

    @property
    def is_given_up(self) -> bool:
        """Whether it was closed without an answer."""
        return self in (TaskStatus.DECLINED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class Verdict(StrEnum):
    """What became of an update."""

    ACCEPTED = "accepted"  # stored; `counted_in` says in which round it counted
    REJECTED = "rejected"  # its own fault
    DISCARDED = "discarded"  # too late, too many, or its round failed


class ModelKind(StrEnum):
    """What a stored model is."""

    INITIAL = "initial"
    GLOBAL = "global"
    LOCAL = "local"
    STATISTICS = "statistics"  # sums over the sites
    STATE = "state"  # a strategy's own arrays: momenta, control variates
    CHANNEL = "channel"  # extra arrays that came with an update
    DOWNLOAD = "download"  # a global model as it travels: encoded


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """One set of arrays in the store, or staged to be moved there by the record that names it.

    Attributes:
        digest: Tagged digest of the whole file.
        size: Bytes of the data part.
        staged: Name of the staging file, if it is not in its place yet.
    """

    channel: str
    digest: str
    size: int
    layout: "Layout"
    staged: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands; saved whole each time it changes.

    Attributes:
        settings: As given, in JSON's types.
        model_id: The last global (or initial) model.
        statistics_id: The model that holds the sums of the statistics step.
        state_ids: The strategy's stored arrays, by name.
        rounds_done: Global models made.
        failed_rounds: Failed rounds in a row.
        run_time_s: Seconds that the run was under way, without pauses and stops of the daemon.
        best_value: Of the `best` metric, and the round it was measured for.
        frozen: What is known of the arrays that the run does not train, as `messages.Frozen` says
            it; empty if it trains all, or no agent has come yet.
        rollbacks: How often it was rolled back to an earlier round: `rounds_done`, `best_round` and
            what else counts global models leaves out those that were undone, `round_id` does not.
        rounds_wanted: Global models to make in all, where an operator said other than `end.rounds`.
    """

    run_id: str
    name: str
    settings: Mapping[str, Any]
    settings_digest: str
    status: RunStatus
    phase: Phase
    round_id: int = 0
    kind: Kind | None = None
    model_id: str | None = None
    statistics_id: str | None = None
    state_ids: Mapping[str, str] = field(default_factory=dict)
    best_model_id: str | None = None
    best_value: float | None = None
    best_round: int = 0
    rounds_done: int = 0
    failed_rounds: int = 0
    run_time_s: float = 0.0
    reason: str = ""
    frozen: Mapping[str, Any] = field(default_factory=dict)
    rollbacks: int = 0
    rounds_wanted: int | None = None

    @classmethod
    def begun(cls, run_id: str, settings: "RunSettings") -> "RunRecord":
        """Return a run of which nothing but its settings is known; its status is `running`."""
        stated = settings.model_dump(mode="json")
        return cls(run_id, settings.name, stated, settings.digest, RunStatus.RUNNING, Phase.WAITING)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """The making of one global version.

    Attributes:
        status: `open`, `done` or `failed`.
        base_model_id: What the agents started from.
        busy_s: Seconds that agents spent, together, on updates that were accepted meanwhile.
        wasted_s: Seconds that they spent on work that came to nothing.
        idle_s: Seconds that agents were here, and had no task.
    """

    run_id: str
    round_id: int
    status: str
    base_model_id: str | None = None
    model_id: str | None = None
    started_s: float = 0.0
    ended_s: float | None = None
    reason: str = ""
    busy_s: float = 0.0
    wasted_s: float = 0.0
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a round: the same kind of task for a cohort of agents.

    Attributes:
        attempt: Counts failed tries of the same step.
        eligible: Agents that could have been asked; `invited`: those that were.
        rule: How the invited were chosen, in words.
        frozen: Tasks whose updates are aggregated, in their order, once that is decided.
        enough: Updates that end it early.
        usual_s: What its cohort usually takes, where the deadline follows from that.
        started_s: This and the other times are seconds of run time.
    """

    run_id: str
    round_id: int
    kind: Kind
    attempt: int
    status: str
    eligible: tuple[str, ...]
    invited: tuple[str, ...]
    rule: str
    started_s: float
    deadline_s: float
    extended: bool = False
    quorum_s: float | None = None
    frozen: tuple[str, ...] = ()
    ended_s: float | None = None
    reason: str = ""
    enough: int = 0
    usual_s: float | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What one agent was asked to do.

    Attributes:
        model_id: The base model.
        version: How many global models the run had made when the task was given.
        config: What differs for this agent from the run's `config`.
    """

    task_id: str
    run_id: str
    round_id: int
    kind: Kind
    agent_id: str
    status: TaskStatus
    model_id: str | None
    model_round: int
    version: int
    seed: int
    assigned_s: float
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """An answer to a task and what became of it.

    Attributes:
        round_id: The round of its task, -1 if there never was such a task.
        digests: Of its payloads, by channel: what tells a repeat from another update.
        model_id: Where its weights are stored, if they are.
        counted_in: The round whose global model it is part of.
        staleness: Global versions between its base and that round's, at least 0.
        share: Its part of that model, from 0 to 1, where the strategy says so.
        seconds: That the agent's work took.
        received_s: Run time at which it was judged.
        plain_size: Bytes that its payloads would have had without a codec; 0: those of `size`.
        saved_bytes: Of `size`, what packing saved on the way, as far as this is known: a daemon that
            was started meanwhile counts from then on.
        notes: What the strategy measured of it when it was counted (distance, score, kept, …), and
            whether it is an outlier.
    """

    task_id: str
    run_id: str
    round_id: int
    kind: Kind
    agent_id: str
    verdict: Verdict
    reason: str = ""
    num_examples: int = 0
    num_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    model_id: str | None = None
    version: int = 0
    counted_in: int | None = None
    staleness: int | None = None
    share: float | None = None
    size: int = 0
    seconds: float = 0.0
    received_s: float = 0.0
    plain_size: int = 0
    saved_bytes: int = 0
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A stored set of arrays.

    Attributes:
        payload: Its file; a staged one is moved into its place by the commit of this record.
        parents: Models it was made from, each with its share (None: not a weighted mean).
        form: `full`, or `delta`: what its float parameters add to those of its first parent.
        codec: What decodes its file to arrays of the run's model, in words; empty: they are as they are.
    """

    model_id: str
    run_id: str
    round_id: int
    kind: ModelKind
    payload: StoredPayload
    agent_id: str | None = None
    parents: tuple[tuple[str, float | None], ...] = ()
    form: str = "full"
    codec: str = ""


@dataclass(frozen=True, slots=True)
class TagRecord:
    """A name for a model within its run, e.g. `best`; moved if it exists."""

    run_id: str
    tag: str
    model_id: str


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """One metric of one model.

    Attributes:
        agent_id: Whose data it was measured on; None for the mean over agents.
        source: `train` or `evaluate`.
        num_examples: Examples behind the value.
        agents: How many agents reported it.
    """

    run_id: str
    round_id: int
    model_id: str
    agent_id: str | None
    source: str
    name: str
    value: float
    num_examples: int
    agents: int = 1


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent's membership in a run.

    Attributes:
        poll_s: Seconds between two of its visits, if it does not stay connected.
        outlying: Rounds in a row, up to the last that counted an update of it, in which it was an outlier.
        quarantined: Why it gets no tasks any more, if it does not; see `fl_main.quarantine`.
    """

    run_id: str
    agent_id: str
    name: str
    attributes: Mapping[str, Any]
    kinds: tuple[str, ...]
    software: str
    is_present: bool
    poll_s: float | None = None
    outlying: int = 0
    quarantined: str = ""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened, for those who ask why.

    Attributes:
        actor: Who did it, where a person or agent did.
    """

    run_id: str | None
    kind: str
    round_id: int | None = None
    agent_id: str | None = None
    actor: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PastEvent:
    """An event as it lies in the store.

    Attributes:
        at: When it was stored (Unix seconds, UTC).
    """

    at: float
    event: EventRecord


Record: TypeAlias = (
    RunRecord
    | RoundRecord
    | StepRecord
    | TaskRecord
    | UpdateRecord
    | ModelRecord
    | TagRecord
    | MetricRecord
    | AgentRecord
    | EventRecord
)


@dataclass(frozen=True, slots=True)
class AgentPast:
    """What an agent did in a run so far.

    Attributes:
        tasks: Training tasks that it was given.
        asked_s: Run time at which it was given the last one.
        took_s: Seconds from a training task to its update, in time or late, of the last `PAST` ones.
    """

    tasks: int = 0
    asked_s: float | None = None
    took_s: tuple[float, ...] = ()


PAST = 5  # updates from which an agent's usual time follows


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """Everything the round machine needs to go on with a run after a restart; of a new one, the run is all.

    Attributes:
        step: The current step, if one is under way.
        tasks: Those of the current step, and older ones that are open or late.
        updates: Those of the current step, and accepted ones that no round has counted yet; of
            several answers to one task the first stands first.
        models: By id: the run's base and what is sent of it, statistics and state, those of `tasks`
            and `updates`, and the bases of the latter.
        agents: Everyone who ever joined.
        past: What they did, by agent; of a run that is finished nothing.
    """

    run: RunRecord
    round: RoundRecord | None = None
    step: StepRecord | None = None
    tasks: tuple[TaskRecord, ...] = ()
    updates: tuple[UpdateRecord, ...] = ()
    models: Mapping[str, ModelRecord] = field(default_factory=dict)
    agents: tuple[AgentRecord, ...] = ()
    past: Mapping[str, AgentPast] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Milestone:
    """A run as it stood when a round was over, and nothing of the next one had been done.

    Attributes:
        round_id: The round; 0 is the model that the run began with.
        model_id: Its global (or initial) model; this and the following as in `RunRecord`.
        models: By id: the model and the state, as far as their files are there.
        past: What agents did in the whole run, by agent: of a finished one that is not read at a start.
    """

    round_id: int
    model_id: str
    state_ids: Mapping[str, str]
    rounds_done: int
    best_model_id: str | None
    best_value: float | None
    best_round: int
    models: Mapping[str, ModelRecord]
    past: Mapping[str, AgentPast]


class StagingFile(Protocol):
    """A payload on its way into the store; used by one thread at a time."""

    @property
    def name(self) -> str:
        """What `StoredPayload.staged` calls it."""

    @property
    def size(self) -> int:
        """Bytes of data that are safely there."""

    @property
    def layout(self) -> "Layout":
        """Where each array lies."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on, also of a finished file.

        Raises:
            StoreError: If it ends before, or cannot be read.
        """

    def write(self, data: bytes | memoryview) -> None:
        """Append data and take it into the digest.

        Raises:
            StoreFullError: If there is no room.
        """

    def restart(self) -> None:
        """Throw away what is there."""

    def finish(self) -> str:
        """Close the complete file and return its tagged digest."""

    def close(self) -> None:
        """Close an incomplete file; it stays, so that the transfer can go on later."""

    def discard(self) -> None:
        """Close and delete it."""


class DataFile(Protocol):
    """A stored payload, read in any order; used by one thread at a time."""

    @property
    def layout(self) -> "Layout":
        """Where each array lies."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on.

        Raises:
            StoreDamagedError: If the file ends before.
        """

    def close(self) -> None:
        """Close it; may be called twice."""


class Store(Protocol):
    """The model database as the daemon uses it. Every method may block: call it in a thread."""

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Of the digests that name its model files, for as long as it exists."""

    def commit(self, records: Sequence[Record], at: float) -> None:
        """Store records in one transaction; staged files that they name are moved into place.

        Args:
            records: In the order in which they were decided.
            at: Wall time, Unix seconds.

        Raises:
            StoreError: If nothing was stored.
        """

    def snapshots(self) -> list[RunSnapshot]:
        """Return all runs as they stand, the oldest first."""

    def find_task(self, task_id: str) -> tuple[TaskRecord, UpdateRecord | None] | None:
        """Return a task of any round, and its first recorded answer."""

    def tasks_beginning(self, beginning: str, most: int) -> list[tuple[TaskRecord, UpdateRecord | None]]:
        """Return tasks of any run whose ids begin so, and their first recorded answers."""

    def events(self, run_id: str | None, most: int) -> list[PastEvent]:
        """Return the latest events of a run, or of none, the oldest first.

        As many again are of no agent: what agents did must not hide what the run did.
        """

    def last_commit_at(self) -> float | None:
        """Return the wall time of the last commit, if there ever was one."""

    def find_model(self, model_id: str) -> ModelRecord | None:
        """Return a model by its id."""

    def named_model(self, reference: str) -> ModelRecord:
        """Return a model by what people call it: its id, the beginning of one, a place in a run.

        Raises:
            StoreError: If it names no model, or several, or its file is not there.
        """

    def settings_of(self, run_id: str) -> Mapping[str, Any]:
        """Return what a run was created with; empty if there is no such run."""

    def whole(self, model_id: str) -> "tuple[dict[str, Array], Layout]":
        """Return a model's arrays by name, and their layout: decoded, of a difference the sum with its base.

        Raises:
            StoreError: If they, or the base's, are not there.
        """

    def milestone(self, run_id: str, round_id: int) -> Milestone | None:
        """Return how a run stood when a round was over; None if that round made no model."""

    def stage(self, name: str, layout: "Layout", *, resume: bool = False) -> StagingFile:
        """Open a staging file; with `resume`, one that is there goes on where it stopped.

        A file that is there for another layout is started anew.
        """

    def unstage(self, task_ids: Sequence[str]) -> None:
        """Delete what is staged of answers to these tasks; there may be nothing."""

    def is_staged(self, name: str) -> bool:
        """Whether a staging file of that name is there; the one call that never blocks for long."""

    def read(self, digest: str, layout: "Layout | None" = None) -> DataFile:
        """Open a stored payload; who knows its layout saves looking for it.

        Raises:
            StoreDamagedError: If its file is missing.
        """

    def prune(self) -> int:
        """Delete files that the retention settings let go; return how many bytes that freed."""

    def free_bytes(self) -> int:
        """Return the room left on the disk."""

    def close(self) -> None:
        """Flush and close; may be called twice."""
