"""Was the soak a good one: computed from the samples, the log and the database."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.soak.gauge import Sample
from fl_main.db.verify import verify_database

TRENDS_FROM_S = 600.0  # a shorter soak has no trend that could be told from noise
WARM_UP = 0.25  # of the time: all join, caches fill
BAD_LINE = re.compile(r"^\S+(?: \S+)? +(?:ERROR|CRITICAL)|Traceback|bug of ours", re.MULTILINE)
MOST_SHOWN = 5

_UPDATES = """
    SELECT task_id, verdict, counted_in FROM updates
    WHERE kind = 'train' AND verdict IN ('accepted', 'discarded')
"""
_COUNTED_AGENTS = (
    "SELECT count(DISTINCT agent_id) FROM updates WHERE kind = 'train' AND counted_in IS NOT NULL"
)
_FROZEN = "SELECT frozen FROM steps WHERE kind = 'train' AND status = 'done'"


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a number's trend may lead within the time that is judged.

    Attributes:
        up: As a part of its mean; None: as far as it likes.
        down: The same the other way.
    """

    number: str
    up: float | None = None
    down: float | None = None


BOUNDS = [Bound("rss_mib", up=0.10), Bound("descriptors", up=0.05), Bound("rounds_per_min", down=0.20)]


Finding = tuple[str, bool]  # in words, and whether it is well


def judged(
    samples: Sequence[Sample], problems: Sequence[str], log: str, models: Path, told: set[str]
) -> Iterator[Finding]:
    """Yield each thing that was looked at.

    Args:
        samples: Of the whole soak.
        problems: Of the agents and the gauge, in words.
        log: The daemon's.
        models: The database's folder; the daemon has ended.
        told: Tasks whose agents heard that their update was accepted.
    """
    yield from _trends(samples)
    yield f"{len(problems)} problems of agents{_shown(problems)}", not problems
    bad = [line for line in log.splitlines() if BAD_LINE.search(line)]
    yield f"{len(bad)} errors in the daemon's log{_shown(bad)}", not bad
    damages = [str(damage) for damage in verify_database(models)]
    yield f"{len(damages)} damages found by fl db verify{_shown(damages)}", not damages
    yield from _counted(models / "fl.db", told)
    yield _took_part(models / "fl.db", samples)


def _trends(samples: Sequence[Sample]) -> Iterator[Finding]:
    last_s = samples[-1].elapsed_s if samples else 0.0
    if last_s < TRENDS_FROM_S:
        yield f"no trends: {last_s:.0f} s are less than {TRENDS_FROM_S:.0f} s", True
        return
    late = [sample for sample in samples if sample.elapsed_s >= WARM_UP * last_s]
    for bound in BOUNDS:
        yield _trend([(sample.elapsed_s, getattr(sample, bound.number)) for sample in late], bound)


def _trend(points: Sequence[tuple[float, float]], bound: Bound) -> Finding:
    at, values = np.array(points).T
    mean = float(values.mean())
    slope = float(np.polyfit(at, values, 1)[0])
    way = slope * (at[-1] - at[0]) / mean if mean else np.inf
    limits = [f"{sign} {limit:.0%}" for sign, limit in (("+", bound.up), ("−", bound.down)) if limit]
    text = f"{bound.number}: {mean:.1f} on average, {way:+.1%} by its trend, allowed are {', '.join(limits)}"
    is_well = (bound.up is None or way <= bound.up) and (bound.down is None or way >= -bound.down)
    return text, is_well


def _counted(file: Path, told: set[str]) -> Iterator[Finding]:
    """Every acknowledged update is stored, and is part of one global model at most."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:  # past all code of ours
        updates = connection.execute(_UPDATES).fetchall()
        steps = [json.loads(frozen) for (frozen,) in connection.execute(_FROZEN)]
    accepted = [task_id for task_id, verdict, _ in updates if verdict == "accepted"]
    twice = _several(accepted)
    yield f"{len(accepted)} updates accepted, {len(twice)} of them twice{_shown(twice)}", not twice
    frozen = [task_id for tasks in steps for task_id in tasks]
    twice = _several(frozen)
    yield (
        f"{len(frozen)} counted in {len(steps)} rounds, {len(twice)} of them twice{_shown(twice)}",
        not twice,
    )
    counted = {task_id for task_id, _, counted_in in updates if counted_in is not None}
    wrong = sorted(counted ^ set(frozen))
    yield f"{len(wrong)} of them against their records{_shown(wrong)}", not wrong
    lost = sorted(told - {task_id for task_id, *_ in updates})
    yield f"{len(told)} acknowledged to their agents, {len(lost)} of them lost{_shown(lost)}", not lost


def _took_part(file: Path, samples: Sequence[Sample]) -> Finding:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        [count] = connection.execute(_COUNTED_AGENTS).fetchone()
    most = max((sample.connected for sample in samples), default=0)
    return f"{count} agents had an update counted, at most {most} were connected at once", count >= most / 2


def _several(names: Sequence[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _shown(found: Sequence[str]) -> str:
    return "".join(f"\n    {line}" for line in found[:MOST_SHOWN])
