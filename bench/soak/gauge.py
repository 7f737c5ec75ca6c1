"""What a soak measures: the daemon from outside, the agents' process, and what the daemon tells."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import IO

import psutil

from bench.soak.options import RUN
from fl_main.aggregator.operator import OrderFailedError, ask
from fl_main.aggregator.tokens import operator_token
from fl_main.errors import FLError
from tests.system.daemons import DaemonProcess

MIB = 1 << 20
RATE_OVER_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The numbers of one moment.

    Attributes:
        elapsed_s: Since the first dial.
        rounds: That are done.
        connected: Agents.
        rss_mib: Memory of the daemon.
        descriptors: It has open; and its `threads`.
        cpu_s: Processor time that it took so far.
        rounds_per_min: Over the last minute.
        database_mib: Size of its tables; models lie beside them.
        crowd_mib: Memory of the agents' process.
        updates: Accepted so far, as the agents were told.
        answer_ms: That the daemon took to answer an operator.
    """

    elapsed_s: float
    rounds: int
    connected: int
    rss_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    rounds_per_min: float
    database_mib: float
    crowd_mib: float
    updates: int
    answer_ms: float

    def row(self) -> list[str]:
        """Return the numbers as they are written."""
        return [f"{value:.1f}" if isinstance(value, float) else str(value) for value in astuple(self)]


COLUMNS = [field.name for field in fields(Sample)]
WIDTH = max(map(len, COLUMNS)) + 1


class Gauge:
    """Takes a sample every few seconds, in a thread of its own: the agents' loop is busy.

    Args:
        daemon: What is looked at.
        updates: Counts the accepted updates.
        every_s: Between two samples.
        table: Where the samples go as lines of comma-separated values.

    Attributes:
        samples: So far.
        problems: What went wrong, in words.
    """

    def __init__(
        self, daemon: DaemonProcess, updates: Callable[[], int], every_s: float, table: IO[str] | None
    ) -> None:
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self._daemon = daemon
        self._process = psutil.Process(daemon.pid)
        self._token = operator_token(daemon.models)
        self._updates = updates
        self._every_s = every_s
        self._table = table
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return self.samples[-1].rounds if self.samples else 0

    def start(self) -> None:
        """Begin."""
        self._tell(COLUMNS)
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample, and end."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(self._every_s)
            try:
                self._take()
            except (FLError, psutil.Error) as error:
                self.problems.append(f"no sample after {time.monotonic() - self._begun:.0f} s: {error}")

    def _take(self) -> None:
        rounds, connected, answer_ms = asyncio.run(self._asked())
        elapsed_s = time.monotonic() - self._begun
        with self._process.oneshot():
            times = self._process.cpu_times()
            sample = Sample(
                elapsed_s,
                rounds,
                connected,
                self._process.memory_info().rss / MIB,
                self._process.num_fds(),
                self._process.num_threads(),
                times.user + times.system,
                self._rounds_per_min(elapsed_s, rounds),
                sum(_size(file) for file in self._daemon.models.glob("fl.db*")) / MIB,
                psutil.Process().memory_info().rss / MIB,
                self._updates(),
                answer_ms,
            )
        self.samples.append(sample)
        self._tell(sample.row())

    async def _asked(self) -> tuple[int, int, float]:
        begun = time.monotonic()
        found = await ask(self._daemon.url, self._token, "status")
        rounds = next((run["rounds_done"] for run in found["runs"] if run["run"] == RUN), None)
        if rounds is None:
            raise OrderFailedError(f"the daemon does not know the run {RUN}")
        return rounds, found["agents"], 1000 * (time.monotonic() - begun)

    def _rounds_per_min(self, elapsed_s: float, rounds: int) -> float:
        before = next((old for old in self.samples if old.elapsed_s >= elapsed_s - RATE_OVER_S - 1), None)
        at, done = (before.elapsed_s, before.rounds) if before else (0.0, 0)
        return 60 * (rounds - done) / (elapsed_s - at)

    def _tell(self, row: list[str]) -> None:
        print("".join(cell.rjust(WIDTH) for cell in row), flush=True)
        if self._table is not None:
            print(",".join(row), file=self._table, flush=True)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # SQLite deletes its journal when it likes
        return 0
