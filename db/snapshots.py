"""Reading records back: what the daemon asks for while it runs and after a restart."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, func, literal_column, select

from fl_main.plan import download_id_of
from fl_main.store import (
    PAST,
    AgentPast,
    EventRecord,
    ModelKind,
    ModelRecord,
    PastEvent,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StepRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.training import Kind
from fl_main.weights import Layout

from . import queries, rows
from .engine import plain
from .schema import (
    agents,
    among,
    events,
    models,
    rounds,
    rowid,
    runs,
    steps,
    tasks,
    updates,
)

UNDER_WAY = ("open", "frozen")  # what a step can be before its result is stored

_LAST = "\U0010ffff"  # no text comes after it
LayoutOf = Callable[[str], Layout]

# As literals: only then SQLite sees that its index of open tasks serves.
UNANSWERED: ColumnElement[bool] = tasks.c.status.in_(
    [literal_column(f"'{status}'") for status in (TaskStatus.OPEN, TaskStatus.LATE)]
)

# Accepted and not part of any model yet; only training updates ever are.
UNCOUNTED: ColumnElement[bool] = and_(
    updates.c.verdict == Verdict.ACCEPTED.value,
    updates.c.counted_in.is_(None),
    updates.c.kind == Kind.TRAIN.value,
)


def read_all(connection: Connection, layout_of: LayoutOf) -> list[RunSnapshot]:
    """Return all runs as they stand, the oldest first."""
    query = select(runs).order_by(rowid(runs))
    found = [rows.RUN.read(row) for row in connection.execute(query).mappings().all()]
    return [_snapshot(connection, run, layout_of) for run in found]


def _snapshot(connection: Connection, run: RunRecord, layout_of: LayoutOf) -> RunSnapshot:
    round_query = select(rounds).where(rounds.c.run_id == run.run_id, rounds.c.round_id == run.round_id)
    step = _step(connection, run)
    found_tasks = _tasks(connection, run, step)
    found_updates = _updates(connection, run, step, found_tasks)
    return RunSnapshot(
        run,
        next(iter(_records(connection, rows.ROUND, round_query)), None),
        step,
        found_tasks,
        found_updates,
        _models(connection, run, found_tasks, found_updates, layout_of),
        _records(connection, rows.AGENT, _of(run, agents)),
        # Of a finished run it is read if that is rolled back; one that failed or was stopped may be resumed.
        {} if run.status is RunStatus.FINISHED else past_of(connection, run.run_id),
    )


def _step(connection: Connection, run: RunRecord) -> StepRecord | None:
    """Return the step that is under way: by what its row says, for a clock may have gone back."""
    query = (
        select(steps)
        .where(steps.c.run_id == run.run_id, steps.c.round_id == run.round_id, steps.c.status.in_(UNDER_WAY))
        .order_by(steps.c.started_s.desc(), rowid(steps).desc())
    )
    return next(iter(_records(connection, rows.STEP, query.limit(1))), None)


def _tasks(connection: Connection, run: RunRecord, step: StepRecord | None) -> tuple[TaskRecord, ...]:
    number = rowid(tasks).label("number")
    query = select(tasks, number).where(tasks.c.run_id == run.run_id)
    parts = [query.where(UNANSWERED)]
    if step is not None:
        current = query.where(tasks.c.round_id == step.round_id, tasks.c.kind == step.kind.value)
        # Not those of an earlier try of the same step.
        parts.append(current.where(tasks.c.assigned_s >= step.started_s))
    found = {row["number"]: row for part in parts for row in connection.execute(part).mappings()}
    return tuple(rows.TASK.read(found[number]) for number in sorted(found))


def _updates(
    connection: Connection, run: RunRecord, step: StepRecord | None, current: tuple[TaskRecord, ...]
) -> tuple[UpdateRecord, ...]:
    """Return what answers the current tasks, and what still waits to be counted."""
    query = select(updates).where(updates.c.run_id == run.run_id)
    found = {
        row["update_id"]: rows.UPDATE.read(row)
        for row in connection.execute(query.where(UNCOUNTED)).mappings()
    }
    if step is not None:
        asked = {task.task_id for task in current}
        of_round = query.where(updates.c.round_id == step.round_id, updates.c.kind == step.kind.value)
        for row in connection.execute(of_round).mappings():
            if row["task_id"] in asked:
                found[row["update_id"]] = rows.UPDATE.read(row)
    return tuple(found[update_id] for update_id in sorted(found))


def _models(
    connection: Connection,
    run: RunRecord,
    current: tuple[TaskRecord, ...],
    answers: tuple[UpdateRecord, ...],
    layout_of: LayoutOf,
) -> dict[str, ModelRecord]:
    wanted = {
        run.model_id,
        run.statistics_id,
        run.best_model_id,
        *run.state_ids.values(),
    }
    wanted.update(task.model_id for task in current)
    wanted.update(answer.model_id for answer in answers)
    wanted.update(_channels(connection, run, answers))
    found = models_by_id(connection, [model_id for model_id in wanted if model_id], layout_of)
    # Of a run that was rolled back it may be gone: then the model is sent as it is.
    sent = [model_id] if (model_id := download_id_of(run.model_id)) else []
    found |= models_by_id(connection, sent, layout_of, only_stored=True)
    local = [found[answer.model_id] for answer in answers if answer.model_id in found]
    bases = {model.parents[0][0] for model in local if model.parents}
    return found | models_by_id(connection, bases - found.keys(), layout_of)


def _channels(connection: Connection, run: RunRecord, answers: tuple[UpdateRecord, ...]) -> list[str]:
    """Return the models that hold the extra arrays of updates."""
    senders = {(answer.round_id, answer.agent_id) for answer in answers if len(answer.digests) > 1}
    if not senders:
        return []
    query = select(models.c.model_id, models.c.round_id, models.c.agent_id).where(
        models.c.run_id == run.run_id,
        models.c.kind == ModelKind.CHANNEL.value,
        among(models.c.round_id, {round_id for round_id, _ in senders}),
    )
    return [row.model_id for row in connection.execute(query) if (row.round_id, row.agent_id) in senders]


def past_of(connection: Connection, run_id: str) -> dict[str, AgentPast]:
    """Return what each agent did so far: one look at the run's tasks, and one at its updates."""
    given = select(tasks.c.agent_id, func.count(), func.max(tasks.c.assigned_s))
    given = given.where(tasks.c.run_id == run_id, tasks.c.kind == Kind.TRAIN.value)
    took = _took(connection, run_id)
    return {
        agent_id: AgentPast(number, asked_s, tuple(took[agent_id]))
        for agent_id, number, asked_s in connection.execute(given.group_by(tasks.c.agent_id))
    }


def _took(connection: Connection, run_id: str) -> dict[str, list[float]]:
    """Return by agent how long its last updates took; of some it was not kept."""
    order = func.row_number().over(partition_by=updates.c.agent_id, order_by=updates.c.update_id.desc())
    judged = select(updates.c.update_id, order.label("place")).where(
        updates.c.run_id == run_id,
        updates.c.verdict.in_([Verdict.ACCEPTED.value, Verdict.DISCARDED.value]),
        updates.c.kind == Kind.TRAIN.value,
        updates.c.received_s > 0,
    )
    ranked = judged.subquery()
    last = select(ranked.c.update_id).where(ranked.c.place <= PAST)
    query = (
        select(updates.c.agent_id, updates.c.received_s - tasks.c.assigned_s)
        .join(tasks, tasks.c.task_id == updates.c.task_id)
        .where(updates.c.update_id.in_(last))
    )
    found: dict[str, list[float]] = defaultdict(list)
    for agent_id, took_s in connection.execute(query.order_by(updates.c.update_id)):
        found[agent_id].append(took_s)
    return found


def models_by_id(
    connection: Connection, model_ids: Iterable[str], layout_of: LayoutOf, *, only_stored: bool = False
) -> dict[str, ModelRecord]:
    """Return models by their ids; an id that is not there, or on request its file, is left out."""
    ids = sorted(set(model_ids))
    of = queries.parents_of(plain(connection), ids)
    return {
        row["model_id"]: rows.model_record(row, layout_of(row["layout_digest"]), of[row["model_id"]])
        for row in connection.execute(select(models).where(among(models.c.model_id, ids))).mappings()
        if row["is_stored"] or not only_stored
    }


def find_task(connection: Connection, task_id: str) -> tuple[TaskRecord, UpdateRecord | None] | None:
    """Return a task and its first recorded answer: its agent's, if there is one."""
    row = connection.execute(select(tasks).where(tasks.c.task_id == task_id)).mappings().one_or_none()
    return None if row is None else _with_answer(connection, row)


def _with_answer(connection: Connection, row: rows.Row) -> tuple[TaskRecord, UpdateRecord | None]:
    query = select(updates).where(updates.c.task_id == row["task_id"])
    query = query.order_by((updates.c.agent_id == row["agent_id"]).desc(), updates.c.update_id).limit(1)
    return rows.TASK.read(row), next(iter(_records(connection, rows.UPDATE, query)), None)


def tasks_beginning(
    connection: Connection, beginning: str, most: int
) -> list[tuple[TaskRecord, UpdateRecord | None]]:
    """Return tasks whose ids begin so, each with its first recorded answer."""
    end = beginning + _LAST  # a range can be looked up in an index, a pattern cannot
    query = select(tasks).where(tasks.c.task_id >= beginning, tasks.c.task_id < end)
    found = connection.execute(query.order_by(tasks.c.task_id).limit(most)).mappings().all()
    return [_with_answer(connection, row) for row in found]


def latest_events(connection: Connection, run_id: str, most: int) -> list[PastEvent]:
    """Return the latest events of a run ('' for those of none), the oldest first.

    As many again are of the run itself, which its agents' events may have left far behind.
    """
    query = (
        select(events.c.seq, events.c.at, events.c.facts)
        .where(events.c.run_id == run_id, events.c.record == literal_column(f"'{rows.EVENT}'"))
        .order_by(events.c.seq.desc())
        .limit(most)
    )
    of_the_run = query.where(func.json_extract(events.c.facts, "$.agent_id").is_(None))
    found = {row.seq: row for part in (query, of_the_run) for row in connection.execute(part)}
    return [PastEvent(found[seq].at, _event(run_id, json.loads(found[seq].facts))) for seq in sorted(found)]


def _event(run_id: str, facts: rows.Facts) -> EventRecord:
    return EventRecord(run_id or None, **facts)


def last_commit_at(connection: Connection) -> float | None:
    """Return when the chain last grew; None for a database without rows."""
    last = select(func.max(events.c.event_id)).scalar_subquery()
    at = select(events.c.at).where(events.c.event_id == last)
    found: float | None = connection.execute(at).scalar_one_or_none()
    return found


def read_layout(connection: Connection, digest: str) -> Layout | None:
    """Return a stored layout by its digest."""
    text = queries.layout_of(plain(connection), digest)
    return None if text is None else Layout.from_wire(json.loads(text))


def _records(connection: Connection, form: rows.Form, query: Select[Any]) -> tuple[Any, ...]:
    return tuple(form.read(row) for row in connection.execute(query).mappings())


def _of(run: RunRecord, table: Table) -> Select[Any]:
    """Select the rows of a run, in the order in which they were first stored."""
    return select(table).where(table.c.run_id == run.run_id).order_by(rowid(table))
