"""Readers while a daemon writes: who waits for whom, and for how long."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.database.figures import Readers
from bench.database.fleet import Fleet, Plan
from fl_main.db import ModelDB, ModelStore
from fl_main.errors import FLError
from fl_main.store import Record, UpdateRecord, Verdict

READERS = 2
UPDATES_PER_S = 50
AGENTS = 50


class _EndedError(Exception):
    """Time is up."""


class PacedStore(ModelStore):
    """A store that takes so many updates a second, and notes how long each transaction took."""

    def __init__(self, folder: Path, updates_per_s: float, seconds: float) -> None:
        super().__init__(folder)
        self._between_s = 1 / updates_per_s
        self._due = time.perf_counter()
        self._ends_at = self._due + seconds
        self.took: list[float] = []
        self.updates = 0

    def commit(self, records: Sequence[Record], at: float) -> None:
        is_update = any(isinstance(r, UpdateRecord) and r.verdict is Verdict.ACCEPTED for r in records)
        if is_update:
            time.sleep(max(0.0, self._due - time.perf_counter()))
            self._due += self._between_s
            self.updates += 1
        began = time.perf_counter()
        if began > self._ends_at:
            raise _EndedError
        super().commit(records, at)
        self.took.append(time.perf_counter() - began)


def measure_readers(folder: Path, seconds: float, readers: int = READERS) -> Readers:
    """Write to a database for a while, alone and while others read; read a while when nobody writes.

    Args:
        folder: Of a database, which gets new runs.
        seconds: Of each of the three.
    """
    alone = written(folder, "alone", seconds)
    _, longest_read_alone_s, _ = _read_by(_started(folder, seconds, 1))
    reading = _started(folder, seconds, readers)
    together = written(folder, "together", seconds)
    reads, longest_read_s, errors = _read_by(reading)
    return Readers(
        readers,
        together.updates / seconds,
        reads,
        errors,
        max(together.took),
        max(alone.took),
        longest_read_s,
        longest_read_alone_s,
    )


def written(
    folder: Path, name: str, seconds: float, begun: Callable[[], object] = lambda: None
) -> PacedStore:
    """Write a run whose name begins so for a while; return the store, which noted how it went.

    Args:
        begun: Called when the database is open.
    """
    with ModelDB(folder) as found:  # it may be used again
        number = 1 + sum(run.name.startswith(name) for run in found.runs())
    plan = Plan(f"{name}-{number}", "sync", 1_000_000, AGENTS, 64, time.time(), number, is_left_open=False)
    with PacedStore(folder, UPDATES_PER_S, seconds) as store, suppress(_EndedError):
        begun()
        Fleet(plan, store, group=1).train()
    return store


def _started(folder: Path, seconds: float, readers: int) -> list["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "bench.database", "read", str(folder), str(seconds)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(readers)]


def _read_by(processes: Sequence["subprocess.Popen[str]"]) -> tuple[int, float, int]:
    """Return how many questions were answered, how long the longest took, and how many were not."""
    said = [json.loads(process.communicate()[0]) for process in processes]
    return (
        sum(entry["reads"] for entry in said),
        max(entry["longest_s"] for entry in said),
        sum(entry["errors"] for entry in said),
    )


QUESTIONS: Sequence[Callable[[ModelDB], object]] = (
    lambda found: found.runs(),
    lambda found: found.run("run-000").rounds(),
    lambda found: found.run("run-000").updates(1),
    lambda found: found.model("run-000:best").metrics(),
    lambda found: found.runs()[-1].rounds(),  # the run that is written to
)


def read(folder: Path, seconds: float, pause_s: float = 0.0) -> dict[str, float]:
    """Ask one question after the other; return how many there were and how long the longest took.

    Args:
        pause_s: Before each, as people make one.
    """
    ends_at = time.perf_counter() + seconds
    longest_s, reads, errors = 0.0, 0, 0
    with ModelDB(folder) as found:
        while time.perf_counter() < ends_at:
            time.sleep(pause_s)
            began = time.perf_counter()
            try:
                QUESTIONS[reads % len(QUESTIONS)](found)
            except FLError:
                errors += 1
            reads += 1
            longest_s = max(longest_s, time.perf_counter() - began)
    return {"reads": reads, "longest_s": longest_s, "errors": errors}
