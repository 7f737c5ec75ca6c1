"""What only the page asks of a database: small questions about many runs or rounds at once."""

from collections import defaultdict
from collections.abc import Iterable
from sqlite3 import Connection

from fl_main.db import queries
from fl_main.db.records import RunFacts

from .answer import LATELY, Missed

_COURSE = 400  # of a run's latest rounds, what its sparkline is made of


def missed(connection: Connection, run_id: str, round_id: int) -> dict[str, Missed]:
    """Return by agent what was late or refused in the last rounds up to `round_id`."""
    query = """
        SELECT agent_id, total(reason LIKE 'late%') AS late, total(verdict = 'rejected') AS refused
        FROM updates WHERE run_id = ? AND round_id > ? AND round_id <= ? GROUP BY agent_id
        HAVING late > 0 OR refused > 0 ORDER BY refused DESC, late DESC LIMIT 100
    """
    found = connection.execute(query, (run_id, round_id - LATELY, round_id)).fetchall()
    why = _why_refused(connection, run_id, round_id) if any(row["refused"] for row in found) else {}
    return {
        row["agent_id"]: Missed(int(row["late"]), int(row["refused"]), why.get(row["agent_id"], ""))
        for row in found
    }


def _why_refused(connection: Connection, run_id: str, round_id: int) -> dict[str, str]:
    query = """
        SELECT agent_id, reason FROM updates
        WHERE run_id = ? AND round_id > ? AND round_id <= ? AND verdict = 'rejected' ORDER BY update_id
    """
    return dict(connection.execute(query, (run_id, round_id - LATELY, round_id)).fetchall())


def waited_for(connection: Connection, run_id: str) -> list[str]:
    """Return the agents whose tasks are open, those that were asked first before others."""
    query = """
        SELECT DISTINCT agent_id FROM tasks
        WHERE run_id = ? AND status IN ('open', 'late') ORDER BY assigned_s, rowid
    """
    return [row["agent_id"] for row in connection.execute(query, (run_id,))]


def came(connection: Connection, run_id: str, round_id: int) -> tuple[int, int]:
    """Return how many updates of a round were accepted, and how many were asked for."""
    query = """
        SELECT kind, json_array_length(invited) FROM steps
        WHERE run_id = ? AND round_id = ? AND kind <> 'evaluate' ORDER BY started_s DESC, rowid DESC LIMIT 1
    """
    step = connection.execute(query, (run_id, round_id)).fetchone()
    if step is None:
        return 0, 0
    query = """
        SELECT count(*) FROM updates
        WHERE run_id = ? AND round_id = ? AND kind = ? AND verdict = 'accepted'
    """
    return connection.execute(query, (run_id, round_id, step[0])).fetchone()[0], step[1]


def measured(connection: Connection, run: RunFacts, source: str, name: str) -> tuple[int, int]:
    """Return how many agents measured a run's best model by a metric, and on how many examples."""
    query = """
        SELECT agents, num_examples FROM metrics
        WHERE model_id = ? AND run_id = ? AND source = ? AND name = ? AND agent_id = ''
    """
    found = connection.execute(query, (run.best_model_id, run.run_id, source, name)).fetchone()
    return (0, 0) if found is None else tuple(found)


def courses(connection: Connection, chosen: Iterable[tuple[str, str, str]]) -> dict[str, list[float | None]]:
    """Return the means of one metric by run: of (run, source, metric), its latest rounds that count."""
    query = """
        SELECT round_id, value FROM metrics
        WHERE run_id = ? AND source = ? AND name = ? AND agent_id = ''
            AND round_id > (SELECT max(round_id) FROM metrics WHERE run_id = ?) - ?
        ORDER BY round_id
    """
    found: dict[str, list[float | None]] = defaultdict(list)
    for run_id, source, name in chosen:
        rows = connection.execute(query, (run_id, source, name, run_id, _COURSE))
        undone = queries.undone_rounds(connection, run_id)
        found[run_id] = [row["value"] for row in rows if row["round_id"] not in undone]
    return found
