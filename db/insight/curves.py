"""How metrics went over a run's rounds: the mean over agents, and each agent's values or their quantiles."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from .. import queries

FEW = 20  # agents that are told apart; more lines than that in a figure are none
QUANTILES = {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}

Line = list[float | None]  # a value for each round; None: not measured, or not a finite number


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the rounds of a run.

    Attributes:
        source: `train` or `evaluate`.
        rounds: Those in which it was measured, in order; every list below is as long.
        mean: Over agents, each counted by its examples.
        agents: Each agent's values by its name; None where quantiles tell of more than `FEW` agents, or
            nobody asked. Of several of an agent in a round, the last.
        quantiles: Of the agents' values, each counted once, by `p10` to `p90`; None where agents are
            told apart, or nobody asked.
    """

    source: str
    name: str
    rounds: list[int]
    mean: Line
    agents: dict[str, Line] | None
    quantiles: dict[str, Line] | None


def curves(connection: Connection, run_id: str, source: str | None, agents: bool) -> list[Curve]:
    """Return the curves of a run's metrics, by source and name; without rounds that were undone."""
    undone = queries.undone_rounds(connection, run_id)
    where, values = ("run_id = ? AND source = ?", [run_id, source]) if source else ("run_id = ?", [run_id])
    if not agents:
        where += " AND agent_id = ''"
    query = f"""
        SELECT round_id, agent_id, source, name, value FROM metrics WHERE {where} ORDER BY round_id, rowid
    """  # noqa: S608
    found: dict[tuple[str, str], dict[str, dict[int, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for round_id, agent_id, its_source, name, value in connection.execute(query, values):
        if round_id not in undone:
            found[its_source, name][agent_id][round_id] = value
    names = queries.agent_names(connection, run_id) if agents else None
    return [_curve(*key, by_agent, names) for key, by_agent in sorted(found.items())]


def _curve(
    source: str, name: str, by_agent: dict[str, dict[int, float | None]], names: dict[str, str] | None
) -> Curve:
    rounds = sorted({round_id for values in by_agent.values() for round_id in values})
    mean = _line(by_agent.pop("", {}), rounds)
    if names is None:
        return Curve(source, name, rounds, mean, None, None)
    if len(by_agent) > FEW:
        return Curve(source, name, rounds, mean, None, _quantiles(list(by_agent.values()), rounds))
    lines = {names.get(agent_id, agent_id): _line(values, rounds) for agent_id, values in by_agent.items()}
    return Curve(source, name, rounds, mean, dict(sorted(lines.items())), None)


def _line(values: dict[int, float | None], rounds: list[int]) -> Line:
    return [_finite(values.get(round_id)) for round_id in rounds]


def _finite(value: float | None) -> float | None:
    return None if value is None or value - value != 0 else value  # infinity less itself is NaN


def _quantiles(agents: list[dict[int, float | None]], rounds: list[int]) -> dict[str, Line]:
    lines: dict[str, Line] = {name: [] for name in QUANTILES}
    for round_id in rounds:
        measured = (_finite(values.get(round_id)) for values in agents)
        ordered = sorted(value for value in measured if value is not None)
        for name, part in QUANTILES.items():
            lines[name].append(quantile(ordered, part))
    return lines


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """Return a quantile by straight lines between neighbours: type 7 of Hyndman and Fan 1996, as numpy's.

    Args:
        ordered: From the least to the largest; of none the quantile is None.
        part: From 0 to 1.
    """
    if not ordered:
        return None
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
