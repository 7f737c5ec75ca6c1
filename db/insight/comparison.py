"""Runs side by side: what differs in their settings, and what came of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

from .. import queries
from ..records import RunFacts


@dataclass(frozen=True, slots=True)
class Line:
    """Something of each run, in their order.

    Attributes:
        name: Of a setting, `round.deadline_s`; or of a fact.
        values: In JSON's types; None where a run has none.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MetricLine:
    """What a metric's mean over agents was in each run, in their order; None where it was not measured.

    Rounds that were undone are left out.

    Attributes:
        source: `train` or `evaluate`.
        last: The latest value; `least` and `largest`: of all rounds, `least_round` and `largest_round`
            the first round of such a value.
    """

    source: str
    name: str
    last: tuple[float | None, ...]
    least: tuple[float | None, ...]
    least_round: tuple[int | None, ...]
    largest: tuple[float | None, ...]
    largest_round: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: Their names.
        facts: What came of them: status, rounds, agents, seconds, bytes, ….
        settings: Those in which they differ.
        metrics: All that one of them has.
    """

    runs: tuple[str, ...]
    facts: list[Line]
    settings: list[Line]
    metrics: list[MetricLine]


def compare(connection: Connection, runs: Sequence[RunFacts]) -> Comparison:
    """Return runs side by side."""
    facts = [_facts(connection, run) for run in runs]
    settings = [dict(_flat("", run.settings)) for run in runs]
    names = list(dict.fromkeys(name for flat in settings for name in flat))
    lines = [Line(name, tuple(flat.get(name) for flat in settings)) for name in names]
    means = [_means(connection, run.run_id) for run in runs]
    return Comparison(
        tuple(run.name for run in runs),
        [Line(name, tuple(fact[name] for fact in facts)) for name in facts[0]],
        [line for line in lines if any(value != line.values[0] for value in line.values)],
        [_metric(key, means) for key in sorted({key for mean in means for key in mean})],
    )


def _facts(connection: Connection, run: RunFacts) -> dict[str, Any]:
    effort = queries.effort(connection, run.run_id)
    size, plain_size = queries.traffic(connection, run.run_id)
    return {
        "status": str(run.status),
        "rounds": run.rounds_done,
        "agents": run.agents,
        "best": run.best_value,
        "best_round": run.best_round or None,
        "run_time_s": run.run_time_s,
        "counted": effort.counted,
        "staleness": effort.staleness,
        "busy_s": effort.busy_s,
        "wasted_s": effort.wasted_s,
        "idle_s": effort.idle_s,
        "bytes": size,
        "plain_bytes": plain_size,
        "created_at": run.created_at,
    }


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield settings by their whole names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def _means(connection: Connection, run_id: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return rounds and finite values of each mean, in order; without rounds that were undone."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    undone = queries.undone_rounds(connection, run_id)
    for metric in queries.metrics(connection, run_id=run_id, agent_id=""):
        if metric.round_id in undone:
            continue
        values = found.setdefault((metric.source, metric.name), [])
        if metric.value - metric.value == 0:  # infinity less itself is NaN
            values.append((metric.round_id, metric.value))
    return found


def _metric(
    key: tuple[str, str], means: Sequence[Mapping[tuple[str, str], list[tuple[int, float]]]]
) -> MetricLine:
    of_runs = [mean.get(key, []) for mean in means]
    least = [min(values, key=lambda entry: entry[1], default=(None, None)) for values in of_runs]
    largest = [max(values, key=lambda entry: entry[1], default=(None, None)) for values in of_runs]
    return MetricLine(
        *key,
        tuple(values[-1][1] if values else None for values in of_runs),
        tuple(value for _, value in least),
        tuple(round_id for round_id, _ in least),
        tuple(value for _, value in largest),
        tuple(round_id for round_id, _ in largest),
    )
