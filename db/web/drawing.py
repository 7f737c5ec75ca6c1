"""Where things stand in the drawings that the server makes; templates write them as SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# --- a line so small that it has no axes ------------------------------------------------------

SPARK_WIDTH, SPARK_HEIGHT = 120, 28
_SPARK_POINTS = 60


@dataclass(frozen=True, slots=True)
class Spark:
    """A polyline and its last point."""

    points: str
    x: float
    y: float


def spark(values: Sequence[float | None]) -> Spark | None:
    """Return the line of some values, thinned; None if fewer than two of them are numbers."""
    known = [(i, v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    if len(known) < 2:
        return None
    known = _thinned(known, _SPARK_POINTS)
    low, high = min(v for _, v in known), max(v for _, v in known)
    first, last = known[0][0], known[-1][0]

    def place(i: int, value: float) -> tuple[float, float]:
        x = 2 + (SPARK_WIDTH - 4) * (i - first) / (last - first)
        part = (value - low) / (high - low) if high > low else 0.5
        return round(x, 1), round(SPARK_HEIGHT - 3 - (SPARK_HEIGHT - 6) * part, 1)

    places = [place(*entry) for entry in known]
    return Spark(" ".join(f"{x},{y}" for x, y in places), *places[-1])


def _thinned(known: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    if len(known) <= most:
        return known
    step = (len(known) - 1) / (most - 1)
    return [known[round(i * step)] for i in range(most)]


# --- bars of a histogram -----------------------------------------------------------------------

BARS_WIDTH, BARS_HEIGHT = 144, 32


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


def bars(counts: Sequence[int]) -> list[Bar]:
    """Return one bar for each count that is not zero; the highest fills the height."""
    most = max(counts, default=0)
    if most == 0:
        return []
    width = BARS_WIDTH / len(counts)
    found = []
    for i, number in enumerate(counts):
        if number:
            height = max(1.0, BARS_HEIGHT * number / most)
            found.append(
                Bar(
                    round(i * width, 2),
                    round(BARS_HEIGHT - height, 2),
                    round(max(width - 0.5, 0.5), 2),
                    round(height, 2),
                )
            )
    return found


# --- rounds over time --------------------------------------------------------------------------

LANE = 20  # pixels that an agent's lane is high
LEFT = 16  # before the run began, for half of a tick's label
AREA = 880  # that the time takes
HEAD = 26  # above the lanes, for the rounds' numbers
FOOT = 24  # below, for the seconds
_LEAST_MARK = 3.0


@dataclass(frozen=True, slots=True)
class Slot:
    """What one agent did for one round: from when it was asked until its answer was judged.

    Attributes:
        tone: `good`, `late`, `bad`, `idle` or `open`.
        words: What it is, for who cannot see it.
    """

    agent: str
    start_s: float
    end_s: float
    tone: str
    words: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A round on the time axis."""

    round_id: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """A slot with its place."""

    slot: Slot
    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class Band:
    """A round with its place."""

    round_id: int
    x: float
    width: float
    is_named: bool


@dataclass(frozen=True, slots=True)
class Lanes:
    """The drawing: a lane for each agent, a band for each round, ticks with their labels."""

    width: float
    height: float
    bands: list[Band]
    names: list[tuple[float, str]]
    marks: list[Placed]
    ticks: list[tuple[float, float]]


def lanes(agents: Sequence[str], stretches: Sequence[Stretch], slots: Iterable[Slot]) -> Lanes:
    """Place rounds and what agents did for them; slots of other agents are left out."""
    slots = list(slots)
    starts = [entry.start_s for entry in stretches] + [slot.start_s for slot in slots]
    ends = [entry.end_s for entry in stretches] + [slot.end_s for slot in slots]
    begin, end = min(starts, default=0.0), max(ends, default=1.0)
    length = max(end - begin, 1e-9)
    row = {agent: i for i, agent in enumerate(agents)}

    def x(at: float) -> float:
        return round(LEFT + AREA * (at - begin) / length, 1)

    marks = [
        Placed(
            slot,
            x(slot.start_s),
            HEAD + LANE * row[slot.agent] + 4,
            max(_LEAST_MARK, round(x(slot.end_s) - x(slot.start_s), 1)),
        )
        for slot in slots
        if slot.agent in row
    ]
    bands, named_until = [], -math.inf
    for entry in stretches:
        left, right = x(entry.start_s), x(entry.end_s)
        is_named = left >= named_until
        if is_named:
            named_until = left + 9 + 7 * len(str(entry.round_id))
        bands.append(Band(entry.round_id, left, round(max(right - left, 1.0), 1), is_named))
    return Lanes(
        LEFT + AREA + 24,
        HEAD + LANE * len(agents) + FOOT,
        bands,
        [(HEAD + LANE * i + 14, agent) for agent, i in row.items()],
        marks,
        [(x(begin + at), at) for at in _ticks(length)],
    )


_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def _ticks(length: float) -> list[float]:
    """Return some moments from 0 to a length, at most ten, in steps that a clock has."""
    if length < _STEPS[0]:
        return [0.0]
    days = 86400 * math.ceil(length / 86400 / 9)
    step = next((step for step in _STEPS if length / step <= 9), days)
    return [float(i * step) for i in range(int(length / step) + 1)]
