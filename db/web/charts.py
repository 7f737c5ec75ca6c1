"""Curves as a page shows them beside the drawing: in words and as a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fl_main.db.insight.curves import Curve

from .drawing import Spark, spark
from .showing import count, number, text

ROWS = 50  # rounds in a table, the last ones
MOST = 8  # charts of one source
_FIRST = ("loss", "accuracy")


@dataclass(frozen=True, slots=True)
class Chart:
    """One metric over the rounds.

    Attributes:
        key: Tells it from others on the page.
        version: Changes when its curve does.
        rows: A round each, the last first: its number, then a value for each column.
        left_out: What the table lacks, in words; empty: nothing.
        spark: The mean as a plain line, until a script has drawn all.
    """

    key: str
    metric: str
    title: str
    words: str
    version: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[float | None, ...]]
    left_out: str
    source: str
    spark: Spark | None


def charts(curves: Sequence[Curve], first: str = "", agents: int = 0) -> list[Chart]:
    """Return a chart for each curve, that of metric `first` before all others.

    Args:
        agents: How many there are, where curves may be those of the means only.
    """
    order = [first, *_FIRST]

    def place(curve: Curve) -> tuple[int, str]:
        return (order.index(curve.name) if curve.name in order else len(order), curve.name)

    return [_chart(i, curve, agents) for i, curve in enumerate(sorted(curves, key=place)[:MOST])]


def _chart(i: int, curve: Curve, agents: int) -> Chart:
    lines = {"mean": curve.mean, **(curve.agents or {}), **(curve.quantiles or {})}
    rows = list(zip(curve.rounds, *lines.values(), strict=True))[-ROWS:][::-1]
    more = len(curve.rounds) - len(rows)
    known = sum(value is not None for line in lines.values() for value in line)
    return Chart(
        f"{curve.source}-{i}",
        curve.name,
        named(curve.source, curve.name),
        told(curve.rounds, curve.mean),
        f"{len(curve.rounds)}.{known}",
        tuple(lines),
        rows,
        " and ".join(_left_out(more, agents if curve.agents is curve.quantiles is None else 0)),
        curve.source,
        spark(curve.mean),
    )


def _left_out(rounds: int, agents: int) -> list[str]:
    found = [f"the first {count(rounds, 'round')}"] if rounds else []
    return found + ([f"what each of {count(agents, 'agent')} reported"] if agents else [])


def told(rounds: Sequence[int], values: Sequence[float | None]) -> str:
    """Say in one line how a curve goes."""
    known = list(_known(rounds, values))
    if not known:
        return "never a number"
    (_, first), (_, last) = known[0], known[-1]
    if len(known) == 1:
        return f"{number(first)} in round {known[0][0]}"
    low, high = min(known, key=lambda entry: entry[1]), max(known, key=lambda entry: entry[1])
    went = f"{number(first)} → {number(last)} over {count(len(known), 'round')}"
    return f"{went}; lowest {number(low[1])} (round {low[0]}), highest {number(high[1])} (round {high[0]})"


def _known(rounds: Sequence[int], values: Sequence[float | None]) -> Iterator[tuple[int, float]]:
    for round_id, value in zip(rounds, values, strict=True):
        if value is not None and math.isfinite(value):
            yield round_id, value


def named(source: str, metric: str) -> str:
    """Name a run's metric: `accuracy`, `loss in training`."""
    return text(metric) if source == "evaluate" else f"{text(metric)} in training"


def beside(
    first: Sequence[Curve], second: Sequence[Curve], metrics: Sequence[tuple[str, str]]
) -> list[Chart]:
    """Return a chart for each metric that both of two runs have: the means of both."""
    ours, theirs = ({(curve.source, curve.name): curve for curve in curves} for curves in (first, second))
    both = [key for key in metrics if key in ours and key in theirs]
    return [_pair(i, ours[key], theirs[key]) for i, key in enumerate(both[:MOST])]


def _pair(i: int, first: Curve, second: Curve) -> Chart:
    ours, theirs = (dict(zip(curve.rounds, curve.mean, strict=True)) for curve in (first, second))
    rounds = sorted({*ours, *theirs})
    rows = [(round_id, ours.get(round_id), theirs.get(round_id)) for round_id in rounds][-ROWS:][::-1]
    more = len(rounds) - len(rows)
    return Chart(
        f"both-{i}",
        first.name,
        named(first.source, first.name),
        f"first: {told(first.rounds, first.mean)}. Second: {told(second.rounds, second.mean)}",
        f"{len(first.rounds)}.{len(second.rounds)}",
        ("first", "second"),
        rows,
        f"the first {count(more, 'round')}" if more else "",
        first.source,
        spark(second.mean),
    )
