"""Questions about runs and rounds, each answered by few queries however many rows there are."""

import json
from collections import defaultdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from fl_main.store import Verdict
from fl_main.training import Kind

from . import rows, schema
from .records import Agent, Effort, Event, Mean, Metric, Round, RunFacts, Update


def runs(connection: Connection) -> list[RunFacts]:
    """Return all runs, the oldest first."""
    table, members = schema.runs, schema.agents
    count = select(func.count()).where(members.c.run_id == table.c.run_id).scalar_subquery()
    query = select(table, count.label("agents")).order_by(schema.rowid(table))
    return [_run(row) for row in connection.execute(query).mappings()]


def _run(row: rows.Row) -> RunFacts:
    run = rows.RUN.read(row)
    return RunFacts(
        run.run_id,
        run.name,
        run.status,
        run.phase,
        run.round_id,
        run.rounds_done,
        run.failed_rounds,
        run.model_id,
        run.best_model_id,
        run.best_value,
        run.best_round,
        run.run_time_s,
        run.reason,
        row["agents"],
        run.settings,
        run.settings_digest,
        row["created_at"],
        row["changed_at"],
    )


def rounds(connection: Connection, run_id: str) -> list[Round]:
    """Return the rounds of a run in order."""
    table = schema.rounds
    steps, counts, means = _steps(connection, run_id), _counts(connection, run_id), _means(connection, run_id)
    counted = _counted(connection, run_id)
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.round_id)
    return [
        _round(
            row,
            steps.get(row["round_id"], {}),
            counts[row["round_id"]],
            means[row["round_id"]],
            Effort(*counted[row["round_id"]], row["busy_s"], row["wasted_s"], row["idle_s"]),
        )
        for row in connection.execute(query).mappings()
    ]


def _round(
    row: rows.Row,
    step: dict[str, Any],
    counts: list[dict[str, Any]],
    means: dict[str, dict[str, Mean]],
    effort: Effort,
) -> Round:
    main = [count for count in counts if count["kind"] == step.get("kind")]

    def number(verdict: Verdict) -> int:
        return sum(count["number"] for count in main if count["verdict"] == verdict.value)

    return Round(
        row["run_id"],
        row["round_id"],
        row["status"],
        row["reason"],
        Kind(step["kind"]) if step else None,
        row["base_model_id"],
        row["model_id"],
        step.get("eligible", 0),
        step.get("invited", 0),
        number(Verdict.ACCEPTED),
        sum(count["late"] for count in main),
        number(Verdict.REJECTED),
        number(Verdict.DISCARDED),
        means["train"],
        means["evaluate"],
        sum(count["size"] for count in counts),
        None if row["ended_s"] is None else row["ended_s"] - row["started_s"],
        effort,
        row["created_at"],
        row["changed_at"],
    )


def _steps(connection: Connection, run_id: str) -> dict[int, dict[str, Any]]:
    """Return the main step of each round: the last that is no evaluation."""
    table = schema.steps
    query = select(
        table.c.round_id,
        table.c.kind,
        func.json_array_length(table.c.eligible).label("eligible"),
        func.json_array_length(table.c.invited).label("invited"),
    ).where(table.c.run_id == run_id, table.c.kind != Kind.EVALUATE.value)
    found = connection.execute(query.order_by(table.c.started_s, schema.rowid(table))).mappings()
    return {row["round_id"]: dict(row) for row in found}


def _counts(connection: Connection, run_id: str) -> dict[int, list[dict[str, Any]]]:
    table = schema.updates
    late = func.sum(case((table.c.reason.startswith("late"), 1), else_=0))
    query = (
        select(
            table.c.round_id,
            table.c.kind,
            table.c.verdict,
            func.count().label("number"),
            late.label("late"),
            func.sum(table.c.size).label("size"),
        )
        .where(table.c.run_id == run_id)
        .group_by(table.c.round_id, table.c.kind, table.c.verdict)
    )
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in connection.execute(query).mappings():
        found[row["round_id"]].append(dict(row))
    return found


def _staleness() -> tuple[ColumnElement[Any], ...]:
    stale = schema.updates.c.staleness
    return func.count(), func.avg(stale), func.max(stale)


def _counted(connection: Connection, run_id: str) -> dict[int, tuple[int, float | None, int | None]]:
    """Return by round how many updates count in its model, and their mean and largest staleness."""
    table = schema.updates
    query = select(table.c.counted_in, *_staleness()).where(table.c.run_id == run_id)
    found = connection.execute(query.where(table.c.counted_in.is_not(None)).group_by(table.c.counted_in))
    return defaultdict(lambda: (0, None, None), {row[0]: (row[1], row[2], row[3]) for row in found})


def effort(connection: Connection, run_id: str) -> Effort:
    """Return what became of the agents' time in a whole run."""
    table, rounds = schema.updates, schema.rounds
    counted = select(*_staleness()).where(table.c.run_id == run_id, table.c.counted_in.is_not(None))
    times = (func.total(column) for column in (rounds.c.busy_s, rounds.c.wasted_s, rounds.c.idle_s))
    spent = select(*times).where(rounds.c.run_id == run_id)
    return Effort(*connection.execute(counted).one(), *connection.execute(spent).one())


def _means(connection: Connection, run_id: str) -> dict[int, dict[str, dict[str, Mean]]]:
    found: dict[int, dict[str, dict[str, Mean]]] = defaultdict(lambda: {"train": {}, "evaluate": {}})
    for metric in metrics(connection, run_id=run_id, agent_id=""):
        found[metric.round_id][metric.source][metric.name] = Mean(
            metric.value, metric.num_examples, metric.agents
        )
    return found


def updates(
    connection: Connection, run_id: str, round_id: int | None = None, agent_id: str | None = None
) -> list[Update]:
    """Return the updates of a run in the order in which they came."""
    table = schema.updates
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.update_id)
    if round_id is not None:
        query = query.where(table.c.round_id == round_id)
    if agent_id is not None:
        query = query.where(table.c.agent_id == agent_id)
    return [_update(row) for row in connection.execute(query).mappings()]


def _update(row: rows.Row) -> Update:
    update = rows.UPDATE.read(row)
    return Update(
        row["update_id"],
        update.task_id,
        update.run_id,
        update.round_id,
        update.kind,
        update.agent_id,
        update.verdict,
        update.reason,
        update.num_examples,
        update.num_steps,
        update.metrics,
        update.digests,
        update.model_id,
        update.counted_in,
        update.staleness,
        update.share,
        update.size,
        update.seconds,
        update.received_s,
        row["received_at"],
    )


def agents(connection: Connection, run_id: str) -> list[Agent]:
    """Return a run's agents in the order in which they first joined."""
    table, answers = schema.agents, schema.updates
    accepted = func.sum(case((answers.c.verdict == Verdict.ACCEPTED.value, 1), else_=0))
    counted = select(answers.c.agent_id, accepted, func.count()).where(answers.c.run_id == run_id)
    counts = {
        row[0]: (row[1], row[2] - row[1]) for row in connection.execute(counted.group_by(answers.c.agent_id))
    }
    query = select(table).where(table.c.run_id == run_id).order_by(schema.rowid(table))
    return [_agent(row, *counts.get(row["agent_id"], (0, 0))) for row in connection.execute(query).mappings()]


def _agent(row: rows.Row, accepted: int, refused: int) -> Agent:
    agent = rows.AGENT.read(row)
    return Agent(
        agent.run_id,
        agent.agent_id,
        agent.name,
        agent.attributes,
        agent.kinds,
        agent.software,
        agent.is_present,
        row["joined_at"],
        row["left_at"],
        row["seen_at"],
        accepted,
        refused,
        agent.poll_s,
    )


def metrics(connection: Connection, **wanted: str | None) -> list[Metric]:
    """Return metrics by round; the arguments are columns and the values that they must have."""
    table = schema.metrics
    query = select(table).order_by(table.c.round_id, schema.rowid(table))
    for column, value in wanted.items():
        if value is not None:
            query = query.where(table.c[column] == value)
    return [_metric(row) for row in connection.execute(query).mappings()]


def _metric(row: rows.Row) -> Metric:
    metric = rows.METRIC.read(row)
    return Metric(
        metric.run_id,
        metric.round_id,
        metric.model_id,
        metric.agent_id,
        metric.source,
        metric.name,
        metric.value,
        metric.num_examples,
        metric.agents,
    )


def events(connection: Connection, run_id: str, kind: str | None = None) -> list[Event]:
    """Return what happened in a run, in order."""
    table = schema.events
    query = select(table).where(table.c.run_id == run_id, table.c.record == rows.EVENT)
    found = [_event(row) for row in connection.execute(query.order_by(table.c.seq)).mappings()]
    return [event for event in found if kind is None or event.kind == kind]


def _event(row: rows.Row) -> Event:
    facts = json.loads(row["facts"])
    return Event(
        row["run_id"] or None,
        row["seq"],
        row["at"],
        facts["kind"],
        facts["round_id"],
        facts["agent_id"],
        facts["actor"],
        facts["details"],
    )


def tags(connection: Connection, run_id: str) -> dict[str, str]:
    """Return model ids by tag."""
    table = schema.tags
    query = select(table.c.tag, table.c.model_id).where(table.c.run_id == run_id)
    return {row.tag: row.model_id for row in connection.execute(query.order_by(table.c.tag))}
