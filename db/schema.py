"""The tables of the model database.

Wall times end in `_at` (Unix seconds, UTC), run times in `_s` (seconds that the run was under
way). Columns that hold lists and mappings hold canonical JSON. Rows refer to each other by keys
that are checked at the end of a transaction, so that a commit may give them in any order.

A change here needs a migration. Columns that came with one are the last of their table, and those
that may not be empty have a default, as SQLite adds columns so.
"""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement
from sqlalchemy.types import TypeEngine

from fl_main.store import ModelKind, Phase, RunStatus, TaskStatus, Verdict
from fl_main.training import Kind

metadata = MetaData()


def _one_of(column: str, words: type[StrEnum], *, optional: bool = False) -> CheckConstraint:
    values = ", ".join(f"'{word.value}'" for word in words)
    rule = f"{column} IN ({values})"
    return CheckConstraint(f"{column} IS NULL OR {rule}" if optional else rule)


def _not_negative(*columns: str) -> CheckConstraint:
    return CheckConstraint(" AND ".join(f"{column} >= 0" for column in columns))


def _later(name: str, kind: type[TypeEngine[Any]], default: str) -> Column[Any]:
    """A column that came after version 1; rows of before have the default."""
    return Column(name, kind, nullable=False, server_default=text(default))


def _refers(target: str) -> ForeignKey:
    return ForeignKey(target, deferrable=True, initially="DEFERRED")


def _run() -> Column[str]:
    return Column("run_id", Text, _refers("runs.run_id"), nullable=False)


meta = Table(
    "meta",  # schema_version, digest_algorithm, made_by, created_at
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

migrations = Table(
    "migrations",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("applied_at", Float, nullable=False),
    Column("applied_by", Text, nullable=False),  # version of this project
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("settings", Text, nullable=False),  # JSON
    Column("settings_digest", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("round_id", Integer, nullable=False),
    Column("kind", Text),  # of the current step
    Column("model_id", Text, _refers("models.model_id")),  # the last global (or initial) model
    Column("statistics_id", Text, _refers("models.model_id")),
    Column("state_ids", Text, nullable=False),  # JSON: the strategy's arrays by name
    Column("best_model_id", Text, _refers("models.model_id")),
    Column("best_value", Float),
    Column("best_round", Integer, nullable=False),
    Column("rounds_done", Integer, nullable=False),
    Column("failed_rounds", Integer, nullable=False),
    Column("run_time_s", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("frozen", Text, "'{}'"),  # JSON: of the arrays that the run does not train
    _later("rollbacks", Integer, "0"),
    Column("rounds_wanted", Integer),  # where an operator said other than the settings
    _one_of("status", RunStatus),
    _one_of("phase", Phase),
    _one_of("kind", Kind, optional=True),
    _not_negative("round_id", "best_round", "rounds_done", "failed_rounds", "run_time_s"),
)

rounds = Table(
    "rounds",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("base_model_id", Text, _refers("models.model_id")),
    Column("model_id", Text, _refers("models.model_id")),
    Column("started_s", Float, nullable=False),
    Column("ended_s", Float),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("busy_s", Float, "0"),  # agents' seconds: that went into accepted updates,
    _later("wasted_s", Float, "0"),  # that came to nothing,
    _later("idle_s", Float, "0"),  # and without a task
    UniqueConstraint("run_id", "round_id"),
    CheckConstraint("status IN ('open', 'done', 'failed')"),
    _not_negative("round_id", "started_s"),
    CheckConstraint("ended_s >= started_s"),
    Index("rounds_by_model", "model_id"),
    Index("rounds_by_base", "base_model_id"),
)

steps = Table(
    "steps",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("eligible", Text, nullable=False),  # JSON: agents that could have been asked
    Column("invited", Text, nullable=False),  # JSON: agents that were
    Column("rule", Text, nullable=False),
    Column("started_s", Float, nullable=False),
    Column("deadline_s", Float, nullable=False),
    Column("extended", Integer, nullable=False),
    Column("quorum_s", Float),
    Column("frozen", Text, nullable=False),  # JSON: tasks whose updates are aggregated, in order
    Column("ended_s", Float),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("enough", Integer, "0"),  # updates that end it early
    Column("usual_s", Float),  # what its cohort usually takes
    UniqueConstraint("run_id", "round_id", "kind", "attempt"),
    _one_of("kind", Kind),
    _not_negative("round_id", "attempt", "started_s"),
    CheckConstraint("extended IN (0, 1)"),
)

agents = Table(
    "agents",  # memberships: an agent in a run
    metadata,
    _run(),
    Column("agent_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("attributes", Text, nullable=False),  # JSON
    Column("kinds", Text, nullable=False),  # JSON: what it can do
    Column("software", Text, nullable=False),
    Column("is_present", Integer, nullable=False),
    Column("joined_at", Float, nullable=False),  # for the first time
    Column("left_at", Float),  # for the last time; empty while it is there
    Column("seen_at", Float, nullable=False),  # when it last came or left
    Column("poll_s", Float),  # between two of its visits, if it does not stay connected
    _later("outlying", Integer, "0"),  # rounds in a row in which its updates were outliers
    _later("quarantined", Text, "''"),  # why it gets no tasks; '': it does
    UniqueConstraint("run_id", "agent_id"),
    CheckConstraint("is_present IN (0, 1)"),
    CheckConstraint("is_present = (left_at IS NULL)"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", Text, primary_key=True),
    _run(),
    Column("round_id", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model_id", Text, _refers("models.model_id")),  # what to start from
    Column("model_round", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("assigned_s", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("config", Text, "'{}'"),  # JSON: what differs for this agent
    _one_of("kind", Kind),
    _one_of("status", TaskStatus),
    _not_negative("round_id", "version", "assigned_s"),
    Index("tasks_by_round", "run_id", "round_id"),
    Index("tasks_by_model", "model_id"),  # who inserts a model looks for rows that wait for it
    Index("tasks_unanswered", "run_id", sqlite_where=Column("status").in_(["open", "late"])),
)

updates = Table(
    "updates",  # an answer to a task; a second, different one is a further row
    metadata,
    Column("update_id", Integer, primary_key=True),  # 1, 2, 3, … in the order in which they came
    Column("task_id", Text, nullable=False),  # may name no task: such an update is rejected
    _run(),
    Column("round_id", Integer, nullable=False),  # -1: there never was such a task
    Column("kind", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("num_examples", Integer, nullable=False),
    Column("num_steps", Integer),
    Column("metrics", Text, nullable=False),  # JSON
    Column("digests", Text, nullable=False),  # JSON: of its payloads, by channel
    Column("model_id", Text, _refers("models.model_id")),
    Column("version", Integer, nullable=False),
    Column("counted_in", Integer),  # round
    Column("staleness", Integer),
    Column("share", Float),
    Column("size", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("received_s", Float, "0"),  # 0: of before it was kept
    _later("plain_size", Integer, "0"),  # bytes without a codec; 0: as `size`
    _later("saved_bytes", Integer, "0"),  # of size, by packing chunks on their way
    _later("notes", Text, "'{}'"),  # JSON: what was measured of it
    # What tells a repeat, or a later verdict on the same update, from another update.
    UniqueConstraint("task_id", "agent_id", "digests"),
    _one_of("kind", Kind),
    _one_of("verdict", Verdict),
    CheckConstraint("round_id >= -1"),
    CheckConstraint("verdict <> 'accepted' OR kind <> 'train' OR num_examples > 0"),
    CheckConstraint("counted_in IS NULL OR verdict = 'accepted'"),
    CheckConstraint("staleness >= 0"),
    Index("updates_by_round", "run_id", "round_id"),
    Index("updates_by_model", "model_id"),
)
Index(
    "updates_accepted_once",
    updates.c.task_id,
    unique=True,
    sqlite_where=updates.c.verdict == Verdict.ACCEPTED.value,
)
Index(
    "updates_uncounted",
    updates.c.run_id,
    sqlite_where=(updates.c.verdict == Verdict.ACCEPTED.value) & updates.c.counted_in.is_(None),
)

layouts = Table(
    "layouts",  # names, types, shapes and roles of a model's arrays
    metadata,
    Column("digest", Text, primary_key=True),
    Column("arrays", Text, nullable=False),  # JSON rows
)

files = Table(
    "files",  # one row per file that is or was on disk; identical models share one
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size", Integer, nullable=False),  # bytes of the data part
    Column("layout_digest", Text, _refers("layouts.digest"), nullable=False),
    Column("is_stored", Integer, nullable=False),
    _not_negative("size"),
    CheckConstraint("is_stored IN (0, 1)"),
)

models = Table(
    "models",
    metadata,
    Column("model_id", Text, primary_key=True),
    _run(),
    Column("round_id", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("agent_id", Text),  # whose it is, if it is a local model
    Column("channel", Text, nullable=False),
    Column("form", Text, nullable=False),  # full, or delta: to be added to the first parent
    Column("digest", Text, _refers("files.digest"), nullable=False),
    Column("size", Integer, nullable=False),  # bytes of the data part
    Column("layout_digest", Text, _refers("layouts.digest"), nullable=False),
    Column("is_stored", Integer, nullable=False),
    Column("not_stored_reason", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    _later("codec", Text, "''"),  # what decodes the file, in words; '': nothing is to be decoded
    _one_of("kind", ModelKind),
    _not_negative("size"),
    CheckConstraint("form IN ('full', 'delta')"),
    CheckConstraint("is_stored IN (0, 1)"),
    CheckConstraint("is_stored = (not_stored_reason = '')"),
    Index("models_by_round", "run_id", "round_id"),
    Index("models_by_digest", "digest"),
    Index("models_by_layout", "layout_digest"),
    Index(
        "models_passing",  # those that retention may let go
        "run_id",
        "round_id",
        sqlite_where=text("is_stored = 1 AND kind IN ('local', 'channel', 'download')"),
    ),
)

parents = Table(
    "parents",
    metadata,
    Column("model_id", Text, _refers("models.model_id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("parent_id", Text, _refers("models.model_id"), nullable=False, index=True),
    Column("share", Float),  # from 0 to 1; empty: not a weighted mean
    UniqueConstraint("model_id", "position"),
)

tags = Table(
    "tags",
    metadata,
    _run(),
    Column("tag", Text, nullable=False),
    Column("model_id", Text, _refers("models.model_id"), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    UniqueConstraint("run_id", "tag"),
)

metrics = Table(
    "metrics",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False),
    Column("model_id", Text, _refers("models.model_id"), nullable=False, index=True),
    Column("agent_id", Text, nullable=False),  # '': the mean over agents
    Column("source", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Float),  # empty: not a number
    Column("num_examples", Integer, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    UniqueConstraint("run_id", "round_id", "model_id", "source", "agent_id", "name"),
    CheckConstraint("source IN ('train', 'evaluate')"),
)

events = Table(
    "events",  # the chain: everything ever committed, each row bound to the one before it
    metadata,
    Column("event_id", Integer, primary_key=True),  # 1, 2, 3, … in the order of commits
    # '' for what belongs to no run. Not a foreign key: the chain outlives whatever is done to rows.
    Column("run_id", Text, nullable=False),
    Column("seq", Integer, nullable=False),  # 1, 2, 3, … within its run
    Column("at", Float, nullable=False),
    Column("record", Text, nullable=False),  # what kind of record: run, round, …, event
    Column("key", Text, nullable=False),  # which row of that record's table
    Column("facts", Text, nullable=False),  # JSON: the record
    Column("hash", Text, nullable=False),
    UniqueConstraint("run_id", "seq"),
    CheckConstraint("seq >= 1"),
    Index("events_only", "run_id", "seq", sqlite_where=Column("record") == "event"),
    sqlite_autoincrement=True,  # SQLite keeps the last number: a row taken from the end is missed
)

ORDER = (
    meta,
    migrations,
    runs,
    rounds,
    steps,
    agents,
    tasks,
    updates,
    layouts,
    files,
    models,
    parents,
    tags,
    metrics,
    events,
)


def among(column: Column[Any], values: Iterable[str | int]) -> ColumnElement[bool]:
    """Return whether a column has one of some values, as one statement for however many there are.

    SQLite keeps what it prepared, and a list of a thousand parameters takes 180 KB; with one more or
    less it is another statement.
    """
    listed = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(listed.c.value))


def rowid(table: Table) -> ColumnElement[int]:
    """Return the number that SQLite gave a row: they grow in the order of insertion."""
    return literal_column(f"{table.name}.rowid")


def statements() -> list[DDLElement]:
    """Return what makes a new database, in order."""
    found: list[DDLElement] = []
    for table in ORDER:
        found.append(CreateTable(table))
        found.extend(CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name)))
    return found
