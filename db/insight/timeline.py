"""When things happened in a run: its rounds, and in each who was asked, and when which answer came."""

from dataclasses import dataclass
from sqlite3 import Connection, Row

from .. import queries


@dataclass(frozen=True, slots=True)
class Span:
    """A round in time.

    Attributes:
        status: `open`, `done` or `failed`.
        started_s: This and the other times are seconds of run time.
        ended_s: None while it is open.
        deadline_s: Of its main step; None if it has none yet.
        reason: Why it failed.
        is_undone: Whether the run was rolled back to an earlier round.
    """

    round_id: int
    status: str
    started_s: float
    ended_s: float | None
    deadline_s: float | None
    reason: str
    is_undone: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """A task, and the answer to it; a task that was answered twice is two of them.

    Attributes:
        agent: Its name.
        kind: Of the task: `train`, `evaluate`, ….
        status: Of the task: `open`, `late` (its round is over), `answered`, `declined`, `failed` or
            `cancelled`.
        assigned_s: When the agent was asked; seconds of run time.
        received_s: When the answer was judged; None while there is none, or where that was not kept.
        verdict: On the answer; None while there is none.
        counted_in: The round whose model it is part of.
        is_late: Whether its round was over when it came, or is over while it is waited for.
        reason: Why it was refused, or the task given up.
        model_id: What came, if it is in the database.
    """

    round_id: int
    agent: str
    kind: str
    status: str
    task_id: str
    assigned_s: float
    received_s: float | None
    verdict: str | None
    counted_in: int | None
    is_late: bool
    reason: str
    model_id: str | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Some rounds of a run, and what was asked and answered in them.

    Attributes:
        updates: Tasks in the order in which they were given, answered or not.
        agents: Names of those who were asked, in the order in which they joined.
        run_time_s: Of the run when it was read: how far a task that is open has come.
        left_out: How many tasks of the rounds that were asked for are not in it, as it would be too large:
            those of the first rounds, which are not in `rounds` either; of one round, the last ones.
    """

    rounds: list[Span]
    updates: list[Mark]
    agents: list[str]
    run_time_s: float
    left_out: int


def timeline(
    connection: Connection, run_id: str, first: int | None, last: int | None, most: int | None = None
) -> Timeline:
    """Return the rounds from `first` to `last`, None: without that end.

    Args:
        most: Tasks in it; the latest rounds are taken.
    """
    bounds = (run_id, 0 if first is None else first, _ENDLESS if last is None else last)
    left_out, limit = 0, -1
    if most is not None:
        begin, left_out, limit = _fitting(connection, bounds, most)
        bounds = (run_id, begin, bounds[2])
    deadlines = {row["round_id"]: row["ends_s"] for row in connection.execute(_DEADLINES, bounds)}
    undone = queries.undone_rounds(connection, run_id)
    rounds = [_span(row, deadlines, undone) for row in connection.execute(_ROUNDS, bounds)]
    names = queries.agent_names(connection, run_id)
    marks = [_mark(row, names) for row in connection.execute(_TASKS, (*bounds, limit))]
    asked = dict.fromkeys(mark.agent for mark in marks)
    now_s = connection.execute("SELECT run_time_s FROM runs WHERE run_id = ?", (run_id,)).fetchone()[0]
    ordered = dict.fromkeys(name for name in (*names.values(), *asked) if name in asked)
    return Timeline(rounds, marks, list(ordered), now_s, left_out)


def _fitting(connection: Connection, bounds: tuple[str, int, int], most: int) -> tuple[int, int, int]:
    """Choose the latest rounds that have at most so many tasks, at least one.

    Returns:
        The first of them; how many tasks do not fit; how many of the one round do (-1: all).
    """
    _, begin, _ = bounds
    taken = left_out = 0
    for round_id, tasks in connection.execute(_COUNTS, bounds):
        if taken and (left_out or taken + tasks > most):
            left_out += tasks
        else:
            begin, taken = round_id, taken + tasks
    if taken > most:
        return begin, left_out + taken - most, most
    return begin if left_out else bounds[1], left_out, -1


_ENDLESS = 2**63 - 1  # SQLite's largest integer

_ROUNDS = "SELECT * FROM rounds WHERE run_id = ? AND round_id BETWEEN ? AND ? ORDER BY round_id"
# A step that was extended has its time once more, see `ledger.deadline`. The main step is the last one.
_DEADLINES = """
    SELECT round_id, started_s + deadline_s * (1 + extended) AS ends_s FROM steps
    WHERE run_id = ? AND round_id BETWEEN ? AND ? AND kind <> 'evaluate' ORDER BY started_s, rowid
"""
_TASKS = """
    SELECT tasks.round_id, tasks.agent_id, tasks.kind, tasks.status, tasks.task_id, tasks.assigned_s,
        tasks.reason AS given_up, updates.received_s, updates.verdict, updates.counted_in, updates.reason,
        updates.model_id
    FROM tasks
    LEFT JOIN updates ON updates.task_id = tasks.task_id AND updates.agent_id = tasks.agent_id
    WHERE tasks.run_id = ? AND tasks.round_id BETWEEN ? AND ?
    ORDER BY tasks.assigned_s, tasks.rowid, updates.update_id LIMIT ?
"""
_COUNTS = """
    SELECT round_id, count(*) FROM tasks WHERE run_id = ? AND round_id BETWEEN ? AND ?
    GROUP BY round_id ORDER BY round_id DESC
"""


def _span(row: Row, deadlines: dict[int, float], undone: set[int]) -> Span:
    round_id = row["round_id"]
    times = (row["started_s"], row["ended_s"], deadlines.get(round_id))
    return Span(round_id, row["status"], *times, row["reason"], round_id in undone)


def _mark(row: Row, names: dict[str, str]) -> Mark:
    return Mark(
        row["round_id"],
        names.get(row["agent_id"], row["agent_id"]),
        row["kind"],
        row["status"],
        row["task_id"],
        row["assigned_s"],
        row["received_s"] or None,
        row["verdict"],
        row["counted_in"],
        row["reason"].startswith("late") if row["verdict"] else row["status"] == "late",
        row["reason"] or row["given_up"],
        row["model_id"],
    )
