"""The tables of the model database.

Wall times end in `_at` (Unix seconds, UTC), run times in `_s` (seconds that the run was under
way). Columns that hold lists and mappings hold canonical JSON. Rows refer to each other by keys
that are checked at the end of a transaction, so that a commit may give them in any order. Each table
and column says in a `comment` what it is: docs/database.md is made from them.

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


def _later(name: str, kind: type[TypeEngine[Any]], default: str, comment: str) -> Column[Any]:
    """A column that came after version 1; rows of before have the default."""
    return Column(name, kind, nullable=False, server_default=text(default), comment=comment)


def _refers(target: str) -> ForeignKey:
    return ForeignKey(target, deferrable=True, initially="DEFERRED")


def _run() -> Column[str]:
    return Column("run_id", Text, _refers("runs.run_id"), nullable=False, comment="of which run")


meta = Table(
    "meta",
    metadata,
    Column(
        "key",
        Text,
        primary_key=True,
        comment="`schema_version`, `digest_algorithm`, `made_by` or `created_at`",
    ),
    Column("value", Text, nullable=False, comment="what it is"),
    comment="what the database says of itself",
)

migrations = Table(
    "migrations",
    metadata,
    Column("version", Integer, primary_key=True, comment="1, 2, 3, …"),
    Column("name", Text, nullable=False, comment="what changed with it"),
    Column("applied_at", Float, nullable=False, comment="when"),
    Column("applied_by", Text, nullable=False, comment="version of fl_main that did it"),
    comment="the versions of the schema that it went through",
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True, comment="its id"),
    Column(
        "name",
        Text,
        nullable=False,
        index=True,
        comment="how people name it; a name may come again, the newest run has it then",
    ),
    Column("settings", Text, nullable=False, comment="JSON: its settings as given"),
    Column(
        "settings_digest",
        Text,
        nullable=False,
        comment="of its settings with all defaults: equal for runs of equal settings",
    ),
    Column("status", Text, nullable=False, comment="running, paused, finished, stopped or failed"),
    Column("phase", Text, nullable=False, comment="where it is within its step"),
    Column("round_id", Integer, nullable=False, comment="the current or last round"),
    Column("kind", Text, comment="of the current step: initialise, statistics, train or evaluate"),
    Column("model_id", Text, _refers("models.model_id"), comment="the last global (or initial) model"),
    Column("statistics_id", Text, _refers("models.model_id"), comment="what the agents' statistics came to"),
    Column(
        "state_ids", Text, nullable=False, comment="JSON: the models that hold the strategy's arrays, by name"
    ),
    Column(
        "best_model_id", Text, _refers("models.model_id"), comment="the best model by the run's chosen metric"
    ),
    Column("best_value", Float, comment="of that metric"),
    Column(
        "best_round",
        Integer,
        nullable=False,
        comment="rounds that were done with its model; 0: none was measured yet",
    ),
    Column("rounds_done", Integer, nullable=False, comment="global models made"),
    Column("failed_rounds", Integer, nullable=False, comment="in a row, up to now"),
    Column("run_time_s", Float, nullable=False, comment="seconds that it was under way"),
    Column("reason", Text, nullable=False, comment="why it has its status, where there is one"),
    Column("created_at", Float, nullable=False, comment="when it was made"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later(
        "frozen",
        Text,
        "'{}'",
        comment="JSON: digest, number and size of the arrays that it does not train; `{}`: it trains all",
    ),
    _later("rollbacks", Integer, "0", "how often it was rolled back"),
    Column("rounds_wanted", Integer, comment="global models to make in all, where an operator said so"),
    _one_of("status", RunStatus),
    _one_of("phase", Phase),
    _one_of("kind", Kind, optional=True),
    _not_negative("round_id", "best_round", "rounds_done", "failed_rounds", "run_time_s"),
    comment="a run as it stands: one training of one model",
)

rounds = Table(
    "rounds",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False, comment="0, 1, 2, …"),
    Column("status", Text, nullable=False, comment="open, done or failed"),
    Column("base_model_id", Text, _refers("models.model_id"), comment="what it began from"),
    Column("model_id", Text, _refers("models.model_id"), comment="the model that it made"),
    Column("started_s", Float, nullable=False, comment="when it began, in run time"),
    Column("ended_s", Float, comment="when it ended"),
    Column("reason", Text, nullable=False, comment="why it failed"),
    Column("created_at", Float, nullable=False, comment="when it began"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later(
        "busy_s",
        Float,
        "0",
        comment="seconds that agents spent, together, on accepted updates, since the round before ended",
    ),
    _later(
        "wasted_s",
        Float,
        "0",
        comment="seconds that they spent meanwhile on work that came to nothing: refused, too late, given up",
    ),
    _later("idle_s", Float, "0", comment="seconds that agents were here meanwhile and had no task"),
    UniqueConstraint("run_id", "round_id"),
    CheckConstraint("status IN ('open', 'done', 'failed')"),
    _not_negative("round_id", "started_s"),
    CheckConstraint("ended_s >= started_s"),
    Index("rounds_by_model", "model_id"),
    Index("rounds_by_base", "base_model_id"),
    comment="one pass over the agents; 0 is the initial model",
)

steps = Table(
    "steps",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False, comment="of the round that it belongs to"),
    Column("kind", Text, nullable=False, comment="initialise, statistics, train or evaluate"),
    Column("attempt", Integer, nullable=False, comment="0, 1, …: a step that failed may be tried again"),
    Column("status", Text, nullable=False, comment="open, done or failed"),
    Column("eligible", Text, nullable=False, comment="JSON: the agents that could have been asked"),
    Column("invited", Text, nullable=False, comment="JSON: those that were"),
    Column("rule", Text, nullable=False, comment="of the cohort"),
    Column("started_s", Float, nullable=False, comment="when it began, in run time"),
    Column("deadline_s", Float, nullable=False, comment="seconds until it ends anyway"),
    Column("extended", Integer, nullable=False, comment="1: its deadline was put off once"),
    Column("quorum_s", Float, comment="when the quorum was reached"),
    Column("frozen", Text, nullable=False, comment="JSON: the tasks whose updates are aggregated, in order"),
    Column("ended_s", Float, comment="when it ended"),
    Column("reason", Text, nullable=False, comment="why it failed"),
    Column("created_at", Float, nullable=False, comment="when it began"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later("enough", Integer, "0", comment="updates that end it early"),
    Column("usual_s", Float, comment="what its cohort usually takes, where the deadline follows from that"),
    UniqueConstraint("run_id", "round_id", "kind", "attempt"),
    _one_of("kind", Kind),
    _not_negative("round_id", "attempt", "started_s"),
    CheckConstraint("extended IN (0, 1)"),
    comment="what was asked in a round: to train, to evaluate, …",
)

agents = Table(
    "agents",
    metadata,
    _run(),
    Column("agent_id", Text, nullable=False, comment="its id, the same in every run"),
    Column("name", Text, nullable=False, comment="how people name it"),
    Column("attributes", Text, nullable=False, comment="JSON: what it says of itself"),
    Column("kinds", Text, nullable=False, comment="JSON: what it can do"),
    Column("software", Text, nullable=False, comment="the program and version that it runs"),
    Column(
        "is_present",
        Integer,
        nullable=False,
        comment="1: it was connected when the database was last written",
    ),
    Column("joined_at", Float, nullable=False, comment="when it came for the first time"),
    Column("left_at", Float, comment="when it left for the last time; empty while it is there"),
    Column("seen_at", Float, nullable=False, comment="when it last came or left"),
    Column("poll_s", Float, comment="seconds between two of its visits, if it does not stay connected"),
    _later(
        "outlying",
        Integer,
        "0",
        comment="rounds in a row, up to the last that counted an update of it, in which it was an outlier",
    ),
    _later("quarantined", Text, "''", comment="why it gets no tasks; empty: it does"),
    UniqueConstraint("run_id", "agent_id"),
    CheckConstraint("is_present IN (0, 1)"),
    CheckConstraint("is_present = (left_at IS NULL)"),
    comment="the memberships: an agent in a run",
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", Text, primary_key=True, comment="its id"),
    _run(),
    Column("round_id", Integer, nullable=False, comment="of the round that it belongs to"),
    Column("kind", Text, nullable=False, comment="initialise, statistics, train or evaluate"),
    Column("agent_id", Text, nullable=False, comment="who was asked"),
    Column("status", Text, nullable=False, comment="open, late, answered, declined, failed or cancelled"),
    Column("model_id", Text, _refers("models.model_id"), comment="what to start from"),
    Column("model_round", Integer, nullable=False, comment="the round of that model"),
    Column(
        "version", Integer, nullable=False, comment="how many global models there were when it was given out"
    ),
    Column("seed", Integer, nullable=False, comment="for the agent's random numbers"),
    Column("assigned_s", Float, nullable=False, comment="when it was given out, in run time"),
    Column("reason", Text, nullable=False, comment="why it was declined, failed or was cancelled"),
    Column("created_at", Float, nullable=False, comment="when it was given out"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later("config", Text, "'{}'", comment="JSON: what differs for this agent from the run's `config`"),
    _one_of("kind", Kind),
    _one_of("status", TaskStatus),
    _not_negative("round_id", "version", "assigned_s"),
    Index("tasks_by_round", "run_id", "round_id"),
    Index("tasks_by_model", "model_id"),  # who inserts a model looks for rows that wait for it
    Index("tasks_unanswered", "run_id", sqlite_where=Column("status").in_(["open", "late"])),
    comment="what one agent was asked to do",
)

updates = Table(
    "updates",
    metadata,
    Column("update_id", Integer, primary_key=True, comment="1, 2, 3, … in the order in which they came"),
    Column(
        "task_id", Text, nullable=False, comment="what it answers; it may name no task: then it is rejected"
    ),
    _run(),
    Column("round_id", Integer, nullable=False, comment="of the task; -1: there never was such a task"),
    Column("kind", Text, nullable=False, comment="initialise, statistics, train or evaluate"),
    Column("agent_id", Text, nullable=False, comment="whose it is"),
    Column(
        "verdict",
        Text,
        nullable=False,
        comment="accepted, rejected (its fault) or discarded (too late, too many)",
    ),
    Column("reason", Text, nullable=False, comment="of the verdict"),
    Column("num_examples", Integer, nullable=False, comment="training examples behind it"),
    Column("num_steps", Integer, comment="steps of the optimizer, if the agent said how many"),
    Column("metrics", Text, nullable=False, comment="JSON: what the agent measured, by name"),
    Column("digests", Text, nullable=False, comment="JSON: of its payloads, by channel"),
    Column("model_id", Text, _refers("models.model_id"), comment="the model that it brought"),
    Column(
        "version",
        Integer,
        nullable=False,
        comment="how many global models there were when its task was given out",
    ),
    Column("counted_in", Integer, comment="the round whose model it is part of"),
    Column("staleness", Integer, comment="global models that were made between its base and that model"),
    Column("share", Float, comment="its part of that model, from 0 to 1"),
    Column("size", Integer, nullable=False, comment="bytes of its payloads as they came"),
    Column("seconds", Float, nullable=False, comment="that the agent computed, by its own clock"),
    Column("received_at", Float, nullable=False, comment="when it was stored"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later(
        "received_s",
        Float,
        "0",
        comment="when it was judged, in run time; less `tasks.assigned_s`: what the agent took; 0: not kept",
    ),
    _later(
        "plain_size",
        Integer,
        "0",
        comment="bytes that it would have had without a codec; 0: as many as `size`",
    ),
    _later("saved_bytes", Integer, "0", comment="of `size`, what packing saved of them on their way"),
    _later(
        "notes",
        Text,
        "'{}'",
        comment="JSON: what a strategy measured of it: `distance`, `cosine`, `score`, `kept`, `outlier`, …",
    ),
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
    comment="the answers to tasks; a second, different one to the same task is a row of its own",
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
    "layouts",
    metadata,
    Column("digest", Text, primary_key=True, comment="of the layout"),
    Column("arrays", Text, nullable=False, comment="JSON: a row for each array"),
    comment="names, types, shapes and roles of models' arrays",
)

files = Table(
    "files",
    metadata,
    Column("digest", Text, primary_key=True, comment="of the file, which is its name"),
    Column("size", Integer, nullable=False, comment="bytes of its arrays"),
    Column("layout_digest", Text, _refers("layouts.digest"), nullable=False, comment="which arrays it has"),
    Column("is_stored", Integer, nullable=False, comment="1: it is there"),
    _not_negative("size"),
    CheckConstraint("is_stored IN (0, 1)"),
    comment="the model files that are or were on disk; identical models share one",
)

models = Table(
    "models",
    metadata,
    Column("model_id", Text, primary_key=True, comment="its id"),
    _run(),
    Column("round_id", Integer, nullable=False, comment="of the round that it came in"),
    Column(
        "kind", Text, nullable=False, comment="initial, global, local, statistics, state, channel or download"
    ),
    Column("agent_id", Text, comment="whose it is, if it is a local model"),
    Column("channel", Text, nullable=False, comment="what the payload was called"),
    Column(
        "form",
        Text,
        nullable=False,
        comment="full, or delta: to be added to the model that it began from, its first parent",
    ),
    Column("digest", Text, _refers("files.digest"), nullable=False, comment="of its file"),
    Column("size", Integer, nullable=False, comment="bytes of its arrays"),
    Column("layout_digest", Text, _refers("layouts.digest"), nullable=False, comment="which arrays it has"),
    Column("is_stored", Integer, nullable=False, comment="1: its file is there"),
    Column("not_stored_reason", Text, nullable=False, comment="why it is not"),
    Column("created_at", Float, nullable=False, comment="when it was stored"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    _later("codec", Text, "''", comment="what decodes its file, in words; empty: nothing is to be decoded"),
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
    comment="a set of arrays: initial, global, local, …",
)

parents = Table(
    "parents",
    metadata,
    Column("model_id", Text, _refers("models.model_id"), nullable=False, comment="the model"),
    Column("position", Integer, nullable=False, comment="0, 1, 2, …"),
    Column(
        "parent_id",
        Text,
        _refers("models.model_id"),
        nullable=False,
        index=True,
        comment="one of the models that it was made from",
    ),
    Column("share", Float, comment="that one's part of it, from 0 to 1; empty: it is no weighted mean"),
    UniqueConstraint("model_id", "position"),
    comment="what a model was made from",
)

tags = Table(
    "tags",
    metadata,
    _run(),
    Column("tag", Text, nullable=False, comment="the name, e.g. final"),
    Column(
        "model_id",
        Text,
        _refers("models.model_id"),
        nullable=False,
        index=True,
        comment="the model that has it",
    ),
    Column("created_at", Float, nullable=False, comment="when the name was first given"),
    Column("changed_at", Float, nullable=False, comment="when it was last given"),
    UniqueConstraint("run_id", "tag"),
    comment="names for models of a run",
)

metrics = Table(
    "metrics",
    metadata,
    _run(),
    Column("round_id", Integer, nullable=False, comment="of the model"),
    Column("model_id", Text, _refers("models.model_id"), nullable=False, index=True, comment="which model"),
    Column(
        "agent_id", Text, nullable=False, comment="whose data it was measured on; empty: the mean over agents"
    ),
    Column("source", Text, nullable=False, comment="train or evaluate"),
    Column("name", Text, nullable=False, comment="of the metric"),
    Column("value", Float, comment="empty: not a number"),
    Column("num_examples", Integer, nullable=False, comment="behind the value"),
    Column("agents", Integer, nullable=False, comment="how many agents reported it"),
    Column("created_at", Float, nullable=False, comment="when it was stored"),
    Column("changed_at", Float, nullable=False, comment="when this row last changed"),
    UniqueConstraint("run_id", "round_id", "model_id", "source", "agent_id", "name"),
    CheckConstraint("source IN ('train', 'evaluate')"),
    comment="what was measured of models, by agent and on average",
)

events = Table(
    "events",
    metadata,
    Column("event_id", Integer, primary_key=True, comment="1, 2, 3, … in the order of commits"),
    # '' for what belongs to no run. Not a foreign key: the chain outlives whatever is done to rows.
    Column("run_id", Text, nullable=False, comment="empty: it belongs to no run"),
    Column("seq", Integer, nullable=False, comment="1, 2, 3, … within its run"),
    Column("at", Float, nullable=False, comment="when it was committed"),
    Column("record", Text, nullable=False, comment="what kind of record: run, round, step, …, or event"),
    Column("key", Text, nullable=False, comment="which row of that record's table"),
    Column("facts", Text, nullable=False, comment="JSON: the record"),
    Column(
        "hash", Text, nullable=False, comment="SHA-256 over the hash before it and all that this row says"
    ),
    UniqueConstraint("run_id", "seq"),
    CheckConstraint("seq >= 1"),
    Index("events_only", "run_id", "seq", sqlite_where=Column("record") == "event"),
    sqlite_autoincrement=True,  # SQLite keeps the last number: a row taken from the end is missed
    comment="the chain: everything ever committed, each row bound to the one before it",
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
