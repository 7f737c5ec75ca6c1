"""What one reads from a model database: plain records.

Times in `*_at` are Unix seconds (UTC), in `*_s` seconds of run time: those during which the run
was under way. Sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_main.store import Phase, RunStatus, Verdict
from fl_main.training import Kind


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as it stood when it was read.

    Attributes:
        settings: As given, in JSON's types.
        frozen: Of the arrays that the run does not train: `digest`, `arrays` (how many) and `size`
            in bytes; empty if it trains all, or no agent has come yet.
        round_id: The current or last round.
        model_id: The last global (or initial) model.
        best_value: Of the run's chosen metric, measured for the model of round `best_round`.
        rounds_done: Global models made, less those that were undone; `failed_rounds`: failed rounds in a row.
        agents: How many ever joined.
        rollbacks: How often an operator rolled it back to an earlier round.
        rounds_wanted: How many rounds it is to make in all.
    """

    run_id: str
    name: str
    status: RunStatus
    phase: Phase
    round_id: int
    rounds_done: int
    failed_rounds: int
    model_id: str | None
    best_model_id: str | None
    best_value: float | None
    best_round: int
    run_time_s: float
    reason: str
    agents: int
    settings: Mapping[str, Any]
    settings_digest: str
    frozen: Mapping[str, Any]
    created_at: float
    changed_at: float
    rollbacks: int = 0
    rounds_wanted: int | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric's mean over agents, each counted by its examples.

    Attributes:
        num_examples: Behind the value; `agents`: how many reported.
    """

    value: float
    num_examples: int
    agents: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What became of the agents' time in a round or a whole run; seconds of all agents together.

    Attributes:
        counted: Updates that became part of its global model, or models.
        staleness: Global models between their bases and that one, on average; `max_staleness`: at
            most. None if nothing counted.
        busy_s: Spent on updates that were accepted; `wasted_s`: on work that came to nothing;
            `idle_s`: without a task.
    """

    counted: int
    staleness: float | None
    max_staleness: int | None
    busy_s: float
    wasted_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """A round and what came of it.

    Attributes:
        status: `open`, `done` or `failed`; the reason says why.
        kind: Of its main step (train, statistics, …), if it has one yet.
        eligible: Agents that could have been asked; `invited`: those that were.
        accepted: Updates of the main step that were accepted; `late`, `rejected`, `discarded`:
            updates that came too late, were wrong, or could not be used (late ones among them).
        train: Means over the agents' training data, by metric; `evaluate`: of the round's model
            on held-out data.
        size: Bytes of all updates of the round, as they came.
        plain_size: What they would have been without a codec.
        form: What the run's updates are, `full` models or a `delta`; empty while there are none.
        codec: How they are encoded, with options; empty: not at all.
        saved_bytes: What packing saved of them on their way, as far as that is known.
        seconds: Run time that it took, None while it is open.
        effort: How stale its updates were, and what became of the agents' time.
        outliers: Of the updates that count in its model, those that lay far from what came of all.
        dropped: Of them, those that a robust strategy left out.
        is_undone: Whether the run was rolled back to an earlier round, and its model is none of those
            that the run's last one came of.
    """

    run_id: str
    round_id: int
    status: str
    reason: str
    kind: Kind | None
    base_model_id: str | None
    model_id: str | None
    eligible: int
    invited: int
    accepted: int
    late: int
    rejected: int
    discarded: int
    train: Mapping[str, Mean]
    evaluate: Mapping[str, Mean]
    size: int
    plain_size: int
    saved_bytes: int
    form: str
    codec: str
    seconds: float | None
    effort: Effort
    outliers: int
    dropped: int
    created_at: float
    changed_at: float
    is_undone: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """An answer to a task and what became of it.

    Attributes:
        round_id: Of its task; -1 if there never was such a task.
        counted_in: The round whose global model it is part of, with `share` from 0 to 1.
        staleness: Global models between its base and that one.
        seconds: That the agent's work took.
        received_s: Run time at which it was judged; 0 if that was not kept yet.
        saved_bytes: What packing saved of `size` on its way, as far as that is known.
        notes: What the strategy measured of it: `distance` to what came of all, `score`, `kept` (1 or
            0), `cosine` to the mean of all, …; and `outlier` (1 or 0).
    """

    update_id: int
    task_id: str
    run_id: str
    round_id: int
    kind: Kind
    agent_id: str
    verdict: Verdict
    reason: str
    num_examples: int
    num_steps: int | None
    metrics: Mapping[str, float]
    digests: Mapping[str, str]
    model_id: str | None
    counted_in: int | None
    staleness: int | None
    share: float | None
    size: int
    seconds: float
    received_s: float
    saved_bytes: int
    notes: Mapping[str, float]
    received_at: float


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent's membership in a run.

    Attributes:
        is_present: Whether it was connected when the database was last written.
        joined_at: For the first time; `left_at`: for the last time, None while it is there.
        seen_at: When it last came or left.
        accepted: Its accepted updates; `refused`: its rejected and discarded ones.
        poll_s: Seconds between two of its visits, if it does not stay connected.
        outlying: Rounds in a row, up to the last that counted an update of it, in which it was an outlier.
        quarantined: Why it gets no tasks any more; empty if it does.
    """

    run_id: str
    agent_id: str
    name: str
    attributes: Mapping[str, Any]
    kinds: tuple[str, ...]
    software: str
    is_present: bool
    joined_at: float
    left_at: float | None
    seen_at: float
    accepted: int
    refused: int
    poll_s: float | None
    outlying: int
    quarantined: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one model.

    Attributes:
        agent_id: Whose data it was measured on; None for the mean over agents.
        source: `train` or `evaluate`.
        agents: How many reported it.
    """

    run_id: str
    round_id: int
    model_id: str
    agent_id: str | None
    source: str
    name: str
    value: float
    num_examples: int
    agents: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run.

    Attributes:
        seq: Its place in the run's chain.
        actor: Who did it, where a person or agent did.
    """

    run_id: str | None
    seq: int
    at: float
    kind: str
    round_id: int | None
    agent_id: str | None
    actor: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that another one was made from; `share` is None unless it is a weighted mean."""

    model_id: str
    share: float | None


@dataclass(frozen=True, slots=True)
class ArrayFacts:
    """One array of a model, in numbers; those of an empty array are None.

    Attributes:
        norm: L2 norm; like `least`, `mean` and `largest` of the finite values only.
        not_finite: How many values are NaN or infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    least: float | None
    mean: float | None
    largest: float | None
    norm: float | None
    not_finite: int
