"""Which model of a run is best, by which metric, and since when."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any, Literal

from fl_main.errors import NotFoundError, SettingsError

from .. import queries

Direction = Literal["min", "max"]

# As `settings.TargetSettings` has them, which takes longer to load than the question to be answered.
DEFAULTS = {"metric": "loss", "source": "evaluate", "direction": "min"}


@dataclass(frozen=True, slots=True)
class Target:
    """A metric and which way is better: `min`, less is, or `max`, more is."""

    source: str
    metric: str
    direction: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A global model as a metric judges it.

    Attributes:
        place: 1 is the best; of equal ones the earlier.
        run: Name of its run.
        source: `train` or `evaluate`.
        direction: `min`: less is better; `max`: more is.
        value: The mean over agents, each counted by its examples.
        num_examples: Behind the value; `agents`: how many reported.
        measured_at: Since when the value is known.
        rounds_since: Global models that the run made after it.
        why_not: Why the model is not stored; empty if it is.
    """

    place: int
    run: str
    model_id: str
    round_id: int
    source: str
    metric: str
    direction: str
    value: float
    num_examples: int
    agents: int
    measured_at: float
    rounds_since: int
    is_stored: bool
    why_not: str


def target(
    settings: Mapping[str, Any], metric: str | None, source: str | None, direction: str | None
) -> Target:
    """Return what a run's models are judged by: what its settings say under `best`, unless told otherwise.

    Raises:
        SettingsError: If another metric is named, but not which way is better.
    """
    own = {**DEFAULTS, **(settings.get("best") or {})}
    name, kind = metric or own["metric"], source or own["source"]
    if direction is None and name != own["metric"]:
        raise SettingsError(f"direction: which way is better for {name}? Give min or max")
    return Target(kind, name, direction or own["direction"])


def require(
    connection: Connection, run_id: str, settings: Mapping[str, Any], metric: str | None, source: str | None
) -> None:
    """See that a run has the metric that is asked for, before anybody is asked which way is better.

    Raises:
        NotFoundError: If it does not; the message lists those that it has.
    """
    wanted = target(settings, metric, source, "min")  # whichever
    if connection.execute(f"{_MEANS} LIMIT 1", (run_id, wanted.source, wanted.metric)).fetchone() is None:
        raise NotFoundError(_unknown(connection, run_id, wanted))


def standings(connection: Connection, run_id: str, wanted: Target) -> list[Standing]:
    """Return a run's models by a metric, the best first; see `require`.

    Without those whose value is no finite number, and those of rounds that were undone.
    """
    rows = connection.execute(_MEANS, (run_id, wanted.source, wanted.metric)).fetchall()
    undone = queries.undone_rounds(connection, run_id)
    query = "SELECT round_id FROM rounds WHERE run_id = ? AND model_id IS NOT NULL ORDER BY round_id"
    made = [row[0] for row in connection.execute(query, (run_id,)) if row[0] not in undone]
    # Of a model that was measured again the latest value counts.
    latest = {row["model_id"]: row for row in rows if row["made_in"] not in undone}
    finite = [row for row in latest.values() if row["value"] is not None and math.isfinite(row["value"])]
    sign = 1 if wanted.direction == "min" else -1
    finite.sort(key=lambda row: sign * float(row["value"]))
    return [
        Standing(
            place,
            row["run"],
            row["model_id"],
            row["made_in"],
            wanted.source,
            wanted.metric,
            wanted.direction,
            row["value"],
            row["num_examples"],
            row["agents"],
            row["created_at"],
            len(made) - bisect_right(made, row["made_in"]),
            bool(row["is_stored"]),
            row["not_stored_reason"],
        )
        for place, row in enumerate(finite, 1)
    ]


_MEANS = """
    SELECT metrics.model_id, metrics.value, metrics.num_examples, metrics.agents, metrics.created_at,
        models.round_id AS made_in, models.is_stored, models.not_stored_reason, runs.name AS run
    FROM metrics JOIN models ON models.model_id = metrics.model_id JOIN runs ON runs.run_id = metrics.run_id
    WHERE metrics.run_id = ? AND metrics.agent_id = '' AND metrics.source = ? AND metrics.name = ?
    ORDER BY metrics.rowid
"""


def _unknown(connection: Connection, run_id: str, wanted: Target) -> str:
    query = "SELECT DISTINCT source, name FROM metrics WHERE run_id = ? AND agent_id = '' ORDER BY 1, 2"
    found = ", ".join(f"{source} {name}" for source, name in connection.execute(query, (run_id,)))
    return f"nothing was measured by {wanted.source} {wanted.metric}; there are: {found or 'no metrics yet'}"
