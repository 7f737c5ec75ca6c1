"""Curves as a page shows them beside the drawing: in words and as a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fl_main.db.insight.curves import Curve

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
    """

    key: str
    metric: str
    title: str
    words: str
    version: str
    columns: tuple[str, ...]
    rows: list[tuple[float | None, ...]]
    left_out: str


def charts(curves: Sequence[Curve], first: str = "") -> list[Chart]:
    """Return a chart for each curve, that of metric `first` before all others."""
    order = [first, *_FIRST]

    def place(curve: Curve) -> tuple[int, str]:
        return (order.index(curve.name) if curve.name in order else len(order), curve.name)

    return [_chart(i, curve) for i, curve in enumerate(sorted(curves, key=place)[:MOST])]


def _chart(i: int, curve: Curve) -> Chart:
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
        f"the first {count(more, 'round')}" if more else "",
    )


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
