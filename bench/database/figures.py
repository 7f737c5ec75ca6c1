"""What the benchmark of the database finds out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Groups:
    """A round of many small updates, on its way into the database.

    Attributes:
        agents: Whose updates came as fast as they could.
        round_s: From the end of one round to the end of the next.
        transactions: Of a round.
        records: Of a round: updates, tasks, models, metrics, events and what else was decided.
        largest: Records of the largest transaction.
        commit_s: That a round's transactions took together.
    """

    agents: int
    round_s: float
    transactions: int
    records: int
    largest: int
    commit_s: float


@dataclass(frozen=True, slots=True)
class Readers:
    """Processes that read while updates are written, each in a transaction of its own.

    Attributes:
        readers: Processes that asked one question after the other.
        updates_per_s: That were written meanwhile.
        reads: Questions that were answered.
        errors: Questions that were not.
        longest_commit_s: The longest that a transaction took; `longest_commit_alone_s`: without readers.
        longest_read_s: The longest that an answer took; `longest_read_alone_s`: while nobody wrote.
    """

    readers: int
    updates_per_s: float
    reads: int
    errors: int
    longest_commit_s: float
    longest_commit_alone_s: float
    longest_read_s: float
    longest_read_alone_s: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Processes that read, prune and export while updates are written.

    Attributes:
        readers: Processes that asked a question ten times a second.
        updates_per_s: That were written meanwhile, each in a transaction of its own.
        reads: Questions that were answered.
        pruned: Files that were deleted.
        exports: Models that were written to files.
        errors: Whatever failed, in any process.
        longest_commit_s: The longest that a transaction of the daemon's store took, its wait included.
        longest_lock_s: The longest that pruning kept others from writing.
        longest_read_s: The longest that an answer took.
    """

    readers: int
    updates_per_s: float
    reads: int
    pruned: int
    exports: int
    errors: int
    longest_commit_s: float
    longest_lock_s: float
    longest_read_s: float


@dataclass(slots=True)
class Database:
    """All of it.

    Attributes:
        holds: How many runs, rounds, updates, models, and records in the chain.
        megabytes: Of `fl.db`.
        made_s: Seconds that it took to make.
        commands: Median seconds of whole processes, by command.
        verify_s: Of `fl db verify`.
        start_s: From the start of a daemon's process until it listens.
        pages: Median seconds of whole answers of `fl db serve`, by path.
    """

    holds: dict[str, int]
    megabytes: float
    made_s: float
    commands: dict[str, float] = field(default_factory=dict)
    verify_s: float = 0.0
    start_s: float = 0.0
    groups: Groups | None = None
    readers: Readers | None = None
    pages: dict[str, float] = field(default_factory=dict)
    crowd: Crowd | None = None


def database_of(found: Mapping[str, Any]) -> Database:
    """Return what was written as JSON."""
    parts = {"groups": Groups, "readers": Readers, "crowd": Crowd}
    given = {name: kind(**found[name]) if found.get(name) else None for name, kind in parts.items()}
    return Database(**{**found, **given})
