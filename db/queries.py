"""Questions about runs and rounds, each answered by few queries however many rows there are.

None looks through a table that grows with the updates: `tests/db/test_plans.py` holds each
statement to an index.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from sqlite3 import Connection, Row
from typing import Any

from fl_main.store import Verdict
from fl_main.training import Kind

from . import rows
from .records import Agent, Effort, Event, Mean, Metric, Round, RunFacts, Update

ALL = -1  # as a LIMIT: all rows


def runs(connection: Connection) -> list[RunFacts]:
    """Return all runs, the oldest first."""
    return [_run(row) for row in connection.execute(f"{_RUNS} ORDER BY rowid")]


_RUNS = """
    SELECT *, (SELECT count(*) FROM agents WHERE agents.run_id = runs.run_id) AS agents,
        (SELECT models.round_id FROM models WHERE models.model_id = runs.best_model_id) AS best_made_in
    FROM runs
"""


def run(connection: Connection, name: str) -> RunFacts | None:
    """Return a run by its id or name, of several with one name the newest; None if there is none."""
    query = f"{_RUNS} WHERE name = ? OR run_id = ? ORDER BY run_id = ? DESC, rowid DESC LIMIT 1"
    row = connection.execute(query, (name, name, name)).fetchone()
    return None if row is None else _run(row)


def run_names(connection: Connection) -> list[str]:
    """Return the names of all runs, the oldest first; a name may come again."""
    return [row["name"] for row in connection.execute("SELECT name FROM runs ORDER BY rowid")]


def heads(connection: Connection) -> dict[str, int]:
    """Return by the id of each run how far its chain is."""
    query = """
        SELECT run_id, (SELECT max(seq) FROM events WHERE events.run_id = runs.run_id) FROM runs
    """
    return {run_id: seq or 0 for run_id, seq in connection.execute(query)}


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
        row["best_made_in"] or 0,
        run.run_time_s,
        run.reason,
        row["agents"],
        run.settings,
        run.settings_digest,
        run.frozen,
        row["created_at"],
        row["changed_at"],
        run.rollbacks,
        run.settings.get("end", {}).get("rounds") if run.rounds_wanted is None else run.rounds_wanted,
    )


def rounds(connection: Connection, run_id: str) -> list[Round]:
    """Return the rounds of a run in order."""
    steps, counts, means = _steps(connection, run_id), _counts(connection, run_id), _means(connection, run_id)
    counted = _counted(count for group in counts.values() for count in group)
    came, judged = way(connection, run_id), _judged(connection, run_id)
    query = "SELECT * FROM rounds WHERE run_id = ? ORDER BY round_id"
    undone = undone_rounds(connection, run_id)
    return [
        _round(
            row,
            steps.get(row["round_id"], {}),
            counts[row["round_id"]],
            means[row["round_id"]],
            Effort(*counted[row["round_id"]], row["busy_s"], row["wasted_s"], row["idle_s"]),
            came,
            judged.get(row["round_id"], (0, 0)),
            row["round_id"] in undone,
        )
        for row in connection.execute(query, (run_id,))
    ]


def _round(
    row: rows.Row,
    step: dict[str, Any],
    counts: list[Row],
    means: dict[str, dict[str, Mean]],
    effort: Effort,
    came: tuple[str, str],
    judged: tuple[int, int],
    is_undone: bool,
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
        sum(count["plain_size"] for count in counts),
        sum(count["saved"] for count in counts),
        *came,
        None if row["ended_s"] is None else row["ended_s"] - row["started_s"],
        effort,
        *judged,
        row["created_at"],
        row["changed_at"],
        is_undone,
    )


def undone_rounds(connection: Connection, run_id: str) -> set[int]:
    """Return the rounds whose models the run's last one does not come of: it was rolled back."""
    query = "SELECT model_id, rollbacks FROM runs WHERE run_id = ?"
    run = connection.execute(query, (run_id,)).fetchone()
    if run is None or not run["rollbacks"]:
        return set()
    query = "SELECT round_id, model_id, base_model_id FROM rounds WHERE run_id = ? AND status = 'done'"
    made = {row["model_id"]: row for row in connection.execute(query, (run_id,))}
    rounds, model_id = {row["round_id"] for row in made.values()}, run["model_id"]
    while (row := made.pop(model_id, None)) is not None:
        rounds.discard(row["round_id"])
        model_id = row["base_model_id"]
    return rounds


def way(connection: Connection, run_id: str) -> tuple[str, str]:
    """Return the form and the codec in which a run's updates come; empty while there are none."""
    query = """
        SELECT form, codec FROM models WHERE run_id = ? AND kind = 'local' AND round_id > 0
        ORDER BY round_id DESC, rowid DESC LIMIT 1
    """  # by way of the index of rounds
    found = connection.execute(query, (run_id,)).fetchone()
    return (found["form"], found["codec"]) if found else ("", "")


def traffic(connection: Connection, run_id: str) -> tuple[int, int]:
    """Return the bytes of all updates of a run as they came, and without a codec."""
    query = f"SELECT total(size), total({_PLAIN_SIZE}) FROM updates WHERE run_id = ?"  # noqa: S608
    size, plain_size = connection.execute(query, (run_id,)).fetchone()
    return int(size), int(plain_size)


def _steps(connection: Connection, run_id: str) -> dict[int, dict[str, Any]]:
    """Return the main step of each round: the last that is no evaluation."""
    query = """
        SELECT round_id, kind, json_array_length(eligible) AS eligible, json_array_length(invited) AS invited
        FROM steps WHERE run_id = ? AND kind <> 'evaluate' ORDER BY started_s, rowid
    """
    return {row["round_id"]: dict(row) for row in connection.execute(query, (run_id,))}


_PLAIN_SIZE = "CASE WHEN plain_size > 0 THEN plain_size ELSE size END"


def _counts(connection: Connection, run_id: str) -> dict[int, list[Row]]:
    """Return by round how many updates came, in groups: one look at all of a run's updates."""
    query = f"""
        SELECT round_id, kind, verdict, counted_in,
            count(*) AS number, sum(reason LIKE 'late%') AS late,
            sum(size) AS size, sum({_PLAIN_SIZE}) AS plain_size, sum(saved_bytes) AS saved,
            count(staleness) AS known, total(staleness) AS staleness, max(staleness) AS stalest
        FROM updates WHERE run_id = ? GROUP BY round_id, kind, verdict, counted_in
    """  # noqa: S608
    found: dict[int, list[Row]] = defaultdict(list)
    for row in connection.execute(query, (run_id,)):
        found[row["round_id"]].append(row)
    return found


def _counted(counts: Iterable[Row]) -> dict[int, tuple[int, float | None, int | None]]:
    """Return by round how many updates count in its model, and their mean and largest staleness."""
    found: dict[int, list[Row]] = defaultdict(list)
    for count in counts:
        if count["counted_in"] is not None:
            found[count["counted_in"]].append(count)
    return defaultdict(lambda: (0, None, None), {number: _stale(group) for number, group in found.items()})


def _judged(connection: Connection, run_id: str) -> dict[int, tuple[int, int]]:
    """Return by round how many of its updates are outliers, and how many its strategy left out."""
    query = """
        SELECT counted_in,
            total(json_extract(notes, '$.outlier') = 1), total(json_extract(notes, '$.kept') = 0)
        FROM updates WHERE run_id = ? AND notes <> '{}' GROUP BY counted_in
    """
    return {
        number: (int(outliers), int(dropped))
        for number, outliers, dropped in connection.execute(query, (run_id,))
    }


def _stale(counts: list[Row]) -> tuple[int, float | None, int | None]:
    known = sum(count["known"] for count in counts)
    mean = sum(count["staleness"] for count in counts) / known if known else None
    most = max((count["stalest"] for count in counts if count["known"]), default=None)
    return sum(count["number"] for count in counts), mean, most


def effort(connection: Connection, run_id: str) -> Effort:
    """Return what became of the agents' time in a whole run."""
    query = """
        SELECT count(*), avg(staleness), max(staleness)
        FROM updates WHERE run_id = ? AND counted_in IS NOT NULL
    """
    counted = connection.execute(query, (run_id,)).fetchone()
    query = "SELECT total(busy_s), total(wasted_s), total(idle_s) FROM rounds WHERE run_id = ?"
    return Effort(*counted, *connection.execute(query, (run_id,)).fetchone())


def _means(connection: Connection, run_id: str) -> dict[int, dict[str, dict[str, Mean]]]:
    found: dict[int, dict[str, dict[str, Mean]]] = defaultdict(lambda: {"train": {}, "evaluate": {}})
    for metric in metrics(connection, run_id=run_id, agent_id=""):
        found[metric.round_id][metric.source][metric.name] = Mean(
            metric.value, metric.num_examples, metric.agents
        )
    return found


def updates(
    connection: Connection,
    run_id: str,
    round_id: int | None = None,
    agent_id: str | None = None,
    after: int = 0,
    limit: int = ALL,
    *,
    kind: str | None = None,
    verdict: str | None = None,
    since: float | None = None,
    are_outliers: bool = False,
    last: int | None = None,
) -> list[Update]:
    """Return the updates of a run in the order in which they came, at most `limit` after one of them.

    The other arguments select some of them, `last` that many of the latest rounds.
    """
    where, values = _where(run_id=run_id, round_id=round_id, agent_id=agent_id, kind=kind, verdict=verdict)
    where, values = f"{where} AND update_id > ?", [*values, after]
    if since is not None:
        where, values = f"{where} AND received_at >= ?", [*values, since]
    if are_outliers:
        where += " AND json_extract(notes, '$.outlier') = 1"
    # The latest go along the index of rounds from its end: what comes before them is not looked at.
    order = "update_id" if last is None else "round_id DESC, update_id DESC"
    query = f"SELECT * FROM updates WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    found = connection.execute(query, [*values, limit if last is None else last]).fetchall()
    return [_update(row) for row in sorted(found, key=lambda row: int(row["update_id"]))]


def _where(**wanted: object) -> tuple[str, list[object]]:
    """Return a condition on columns, and its values; None stands for any."""
    given = {column: value for column, value in wanted.items() if value is not None}
    return " AND ".join(f"{column} = ?" for column in given), list(given.values())


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
        update.saved_bytes,
        update.notes,
        row["received_at"],
    )


def agents(connection: Connection, run_id: str) -> list[Agent]:
    """Return a run's agents in the order in which they first joined."""
    query = """
        SELECT agent_id, sum(verdict = 'accepted'), count(*) FROM updates WHERE run_id = ? GROUP BY agent_id
    """
    counts = {
        agent_id: (accepted, number - accepted)
        for agent_id, accepted, number in connection.execute(query, (run_id,))
    }
    query = "SELECT * FROM agents WHERE run_id = ? ORDER BY rowid"
    found = connection.execute(query, (run_id,))
    return [_agent(row, *counts.get(row["agent_id"], (0, 0))) for row in found]


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
        agent.outlying,
        agent.quarantined,
    )


def agent_names(connection: Connection, run_id: str) -> dict[str, str]:
    """Return the names of a run's agents by their ids, in the order in which they first joined.

    Where several have one name, the id tells them apart.
    """
    query = "SELECT agent_id, name FROM agents WHERE run_id = ? ORDER BY rowid"
    found = dict(connection.execute(query, (run_id,)).fetchall())
    often = Counter(found.values())
    return {
        agent_id: name if often[name] == 1 else f"{name} ({agent_id})" for agent_id, name in found.items()
    }


def metrics(connection: Connection, **wanted: str | None) -> list[Metric]:
    """Return metrics by round; the arguments are columns and the values that they must have."""
    where, values = _where(**wanted)
    query = f"SELECT * FROM metrics WHERE {where} ORDER BY round_id, rowid"  # noqa: S608
    return [_metric(row) for row in connection.execute(query, values)]


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


def events(
    connection: Connection,
    run_id: str,
    kind: str | None = None,
    round_id: int | None = None,
    agent_id: str | None = None,
    since: float | None = None,
    last: int | None = None,
    after: int = 0,
    limit: int = ALL,
) -> list[Event]:
    """Return what happened in a run, in order; the arguments select some, `last` the latest of those.

    Args:
        run_id: '' for what belongs to none.
        since: Wall time, Unix seconds.
        after: The number of the event after which to begin, with at most `limit` events.
    """
    where = "run_id = ? AND record = 'event' AND seq > ?"
    values: list[object] = [run_id, after]
    facts = {"kind": kind, "round_id": round_id, "agent_id": agent_id}
    for name, value in facts.items():
        if value is not None:
            where += f" AND json_extract(facts, '$.{name}') = ?"
            values.append(value)
    if since is not None:
        where += " AND at >= ?"
        values.append(since)
    order, most = ("seq", limit) if last is None else ("seq DESC", last)
    query = f"SELECT * FROM events WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    found = connection.execute(query, [*values, most]).fetchall()
    return [_event(row) for row in sorted(found, key=lambda row: row["seq"])]


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
    query = "SELECT tag, model_id FROM tags WHERE run_id = ? ORDER BY tag"
    return dict(connection.execute(query, (run_id,)).fetchall())


def tags_of(connection: Connection, model_id: str) -> tuple[str, ...]:
    """Return the tags of a model."""
    query = "SELECT DISTINCT tag FROM tags WHERE model_id = ? ORDER BY tag"
    return tuple(row["tag"] for row in connection.execute(query, (model_id,)))


_MODELS = """
    SELECT *, (
        SELECT parent_id FROM parents
        WHERE parents.model_id = models.model_id AND position = 0 AND models.form = 'delta'
    ) AS base_id
    FROM models
"""


def models(
    connection: Connection,
    run_id: str,
    kind: str | None = None,
    round_id: int | None = None,
    agent_id: str | None = None,
    last: int | None = None,
    after: str | None = None,
    limit: int = ALL,
    *,
    tag: str | None = None,
    is_stored: bool | None = None,
    since: float | None = None,
) -> list[Row]:
    """Return the rows of a run's models, the oldest first, each with its base as `base_id`.

    With `last`, so many of the latest rounds' models; else at most `limit` after one of them.
    """
    where, values = _where(
        run_id=run_id, kind=kind, round_id=round_id, agent_id=agent_id, is_stored=is_stored
    )
    if tag is not None:
        where += " AND model_id IN (SELECT model_id FROM tags WHERE run_id = ? AND tag = ?)"
        values += [run_id, tag]
    if since is not None:
        where, values = f"{where} AND created_at >= ?", [*values, since]
    if last is None:
        where += " AND rowid > coalesce((SELECT rowid FROM models AS of_before WHERE model_id = ?), 0)"
        query = f"{_MODELS} WHERE {where} ORDER BY rowid LIMIT ?"
        return connection.execute(query, [*values, after, limit]).fetchall()
    query = f"{_MODELS} WHERE {where} ORDER BY round_id DESC, rowid DESC LIMIT ?"
    return connection.execute(query, [*values, last]).fetchall()[::-1]


def model(connection: Connection, model_id: str) -> Row | None:
    """Return the row of a model, with its base as `base_id`; None if there is none."""
    found: Row | None = connection.execute(f"{_MODELS} WHERE model_id = ?", (model_id,)).fetchone()
    return found


def models_by_id(connection: Connection, model_ids: Iterable[str]) -> list[Row]:
    """Return the rows of models, each with its base as `base_id`; those that there are not are left out."""
    query = f"{_MODELS} WHERE model_id IN (SELECT value FROM json_each(?))"  # noqa: S608
    return connection.execute(query, (json.dumps(list(model_ids)),)).fetchall()


def parents_of(connection: Connection, model_ids: Iterable[str]) -> dict[str, list[tuple[str, float | None]]]:
    """Return the parents of models, each with its share, in order."""
    found: dict[str, list[tuple[str, float | None]]] = defaultdict(list)
    query = """
        SELECT model_id, parent_id, share FROM parents
        WHERE model_id IN (SELECT value FROM json_each(?)) ORDER BY model_id, position
    """  # one statement for however many there are, see `schema.among`
    for model_id, parent_id, share in connection.execute(query, (json.dumps(list(model_ids)),)):
        found[model_id].append((parent_id, share))
    return found


def layout_of(connection: Connection, digest: str) -> str | None:
    """Return what `Layout.from_wire` makes a stored layout of, as JSON; None if there is none."""
    row = connection.execute("SELECT arrays FROM layouts WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else str(row[0])
