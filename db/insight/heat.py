"""Agents x rounds: one number of each update, so that one sees who is odd, and since when.

Where a strategy noted no distance or cosine, both are computed from the stored models.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection, Row

from fl_main.errors import NotFoundError

from .. import queries

COMPUTED = ("distance", "cosine")
FACTS = {"seconds": "seconds", "share": "share", "examples": "num_examples"}  # columns of `updates`

Notes = Mapping[str, float]
Distances = Callable[[int, Sequence[Row]], "Sequence[Notes] | str"]
"""Given a round and its updates, measures each, or says why that cannot be."""


@dataclass(frozen=True, slots=True)
class Heat:
    """One measure of each agent's update in each round.

    Attributes:
        measure: `distance` (to what came of all, or where the strategy noted none, to their mean),
            `cosine` (of what an update adds and the mean of that), `score` and what else the strategy
            noted, `seconds`, `share`, `examples`, or a training metric: `train_loss`.
        measures: All that there are in these rounds.
        rounds: In which updates count, in order; those of updates that do not count yet, too.
        agents: Names of those whose updates they are, in the order in which they joined.
        values: A list for each agent, with a value for each round; None: no update, or no finite number.
            Of several updates of an agent in a round, the last.
        outliers: Pairs of places in `agents` and `rounds`: updates far from the others by
            `quarantine.factor`.
        missing: Why nothing is known of a round, by round.
        left_out: How many of the rounds that were asked for, the first ones, are not in it, as it would be
            too large.
    """

    measure: str
    measures: list[str]
    rounds: list[int]
    agents: list[str]
    values: list[list[float | None]]
    outliers: list[tuple[int, int]]
    missing: dict[int, str]
    left_out: int


def heat(
    connection: Connection,
    run_id: str,
    measure: str,
    first: int | None,
    last: int | None,
    distances: Distances,
    factor: float,
    most: int | None = None,
) -> Heat:
    """Return a measure of the updates that count in the rounds from `first` to `last`.

    Args:
        distances: Measures what a strategy did not; is asked about the latest round first.
        factor: Times the median distance from which on an update is an outlier.
        most: Values in it, but for one round; the latest rounds are taken.

    Raises:
        NotFoundError: If there is no such measure.
    """
    first, last = 0 if first is None else first, _ENDLESS if last is None else last
    begin = first if most is None else _fitting(connection, run_id, first, last, most)
    by_round = _updates(connection, run_id, begin, last)
    facts = {row["update_id"]: _facts(row) for group in by_round.values() for row in group}
    known = {name for values in facts.values() for name in values} - {"outlier"}
    if by_round:
        known.update(COMPUTED)
    if by_round and measure not in known:
        raise NotFoundError(f"there is no measure {measure!r}; there are: {', '.join(sorted(known))}")
    missing: dict[int, str] = {}
    if measure in COMPUTED:
        for round_id in sorted(by_round, reverse=True):
            group = by_round[round_id]
            if any(measure not in facts[row["update_id"]] for row in group):
                _compute(round_id, group, facts, distances, factor, missing)
    names = queries.agent_names(connection, run_id)
    return _heat(measure, sorted(known), by_round, facts, names, missing, begin - first)


_ENDLESS = 2**63 - 1  # SQLite's largest integer


def _fitting(connection: Connection, run_id: str, first: int, last: int, most: int) -> int:
    """Return with which round to begin, so that all agents of a run have at most so many values."""
    query = """
        SELECT round_id, (SELECT count(*) FROM agents WHERE agents.run_id = runs.run_id)
        FROM runs WHERE run_id = ?
    """
    newest, agents = map(int, connection.execute(query, (run_id,)).fetchone())
    rounds = max(1, most // max(1, agents))
    return max(first, min(last, newest) - rounds + 1)


def _updates(connection: Connection, run_id: str, first: int, last: int) -> dict[int, list[Row]]:
    """Return accepted training updates by the round that they count in, or will."""
    query = """
        SELECT update_id, run_id, agent_id, model_id, round_id, ifnull(counted_in, round_id) AS counts_in,
            num_examples, share, seconds, notes, metrics
        FROM updates
        WHERE run_id = ? AND round_id <= ? AND counts_in BETWEEN ? AND ?
            AND verdict = 'accepted' AND kind = 'train'
        ORDER BY update_id
    """
    found: dict[int, list[Row]] = defaultdict(list)
    for row in connection.execute(query, (run_id, last, first, last)):
        found[row["counts_in"]].append(row)
    return found


def _facts(row: Row) -> dict[str, float]:
    own = {name: row[column] for name, column in FACTS.items() if row[column] is not None}
    trained = {f"train_{name}": float(value) for name, value in json.loads(row["metrics"]).items()}
    return {**trained, **own, **{name: float(value) for name, value in json.loads(row["notes"]).items()}}


def _compute(
    round_id: int,
    group: Sequence[Row],
    facts: dict[int, dict[str, float]],
    distances: Distances,
    factor: float,
    missing: dict[int, str],
) -> None:
    """Add distances and cosines to the facts of a round's updates, or say why there are none."""
    measured = distances(round_id, group)
    if isinstance(measured, str):
        missing[round_id] = measured
        return
    from fl_main.quarantine import with_outliers

    for row, notes in zip(group, with_outliers(measured, factor), strict=True):
        facts[row["update_id"]] = {**notes, **facts[row["update_id"]]}  # what the strategy noted stays


def _heat(
    measure: str,
    measures: list[str],
    by_round: dict[int, list[Row]],
    facts: dict[int, dict[str, float]],
    names: dict[str, str],
    missing: dict[int, str],
    left_out: int,
) -> Heat:
    rounds = sorted(by_round)
    here = dict.fromkeys(row["agent_id"] for group in by_round.values() for row in group)
    ids = list(dict.fromkeys(agent_id for agent_id in (*names, *here) if agent_id in here))
    place = {agent_id: number for number, agent_id in enumerate(ids)}
    values: list[list[float | None]] = [[None] * len(rounds) for _ in ids]
    outliers: dict[tuple[int, int], bool] = {}
    for column, round_id in enumerate(rounds):
        for row in by_round[round_id]:
            known = facts[row["update_id"]]
            value = known.get(measure, math.nan)
            values[place[row["agent_id"]]][column] = value if math.isfinite(value) else None
            outliers[place[row["agent_id"]], column] = bool(known.get("outlier"))
    odd = sorted(cell for cell, is_odd in outliers.items() if is_odd)
    agents = [names.get(agent_id, agent_id) for agent_id in ids]
    return Heat(measure, measures, rounds, agents, values, odd, missing, left_out)
