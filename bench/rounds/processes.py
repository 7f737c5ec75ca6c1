"""Processes of a contestant: started, waited for, looked at, ended with all their children."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType

import psutil

from bench.rounds.tree import TreeWatch, end_trees
from bench.rounds.work import CannotRunError, Figures, Work

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0  # for all agents of a contestant to be there
ROUND_S, ROUND_S_PER_MB = 30.0, 0.1  # for a round, several times what the slowest takes
LINE_S_PER_MB = 2.0  # more on a slow line
LEAST_FREE_BYTES = 2 << 30  # below it a contestant is ended, before the system ends what it likes
LOOK_EVERY_S = 0.05
LOG_CHARACTERS = 300


class Processes:
    """All processes of one contestant: those started as `server` are its server side.

    Args:
        folder: For their logs; they work in it.
        environment: Variables beside those that are set.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._watch: TreeWatch | None = None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.stop()
        end_trees([process.pid for process in self._started.values()])
        for process in self._started.values():
            process.wait()

    def start(self, name: str, command: Sequence[object]) -> None:
        """Start a process; its log has its name."""
        with open(self.log(name), "wb") as log:
            process = subprocess.Popen(
                [*map(str, command)],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started[name] = process
        if name == "server":
            self._watch = TreeWatch(process.pid)

    def finish(self, name: str, command: Sequence[object], patience_s: float = START_S) -> None:
        """Run a command to its end."""
        self.start(name, command)
        self.wait_for(name, lambda: self._started[name].poll() is not None, patience_s)
        self._check()

    def id_of(self, name: str) -> int:
        """Return the id of a process."""
        return self._started[name].pid

    def log(self, name: str) -> Path:
        """Return the file that a process writes to."""
        return self._folder / f"{name}.log"

    def wait_for_line(self, name: str, words: str, patience_s: float = START_S) -> str:
        """Wait until a process wrote a line with some words; return what follows them there."""
        found = re.compile(f"{re.escape(words)}(.*)\n")
        self.wait_for(name, lambda: found.search(self._text(name)) is not None, patience_s)
        line = found.search(self._text(name))
        assert line is not None, "a log only grows"
        return line[1]

    def wait_for(self, name: str, is_done: Callable[[], bool], patience_s: float) -> None:
        """Wait for something that a process does; say why where it cannot be."""
        end = time.monotonic() + patience_s
        while not is_done():
            self._check()
            if time.monotonic() > end:
                raise CannotRunError(f"{name} was not done after {patience_s:.0f} s: {self._last(name)}")
            if psutil.virtual_memory().available < LEAST_FREE_BYTES:
                raise CannotRunError("it took all memory of the machine")
            time.sleep(LOOK_EVERY_S)

    def timed(self, work: Work, times: Path) -> Figures:
        """Wait until a server wrote when each round was done, a line for each; return the figures."""
        self.wait_for("server", lambda: len(_lines(times)) > work.rounds, patience_s(work))
        assert self._watch is not None, "no server was started"
        ends = [float(line) for line in _lines(times)]
        return Figures(median(after - before for before, after in pairwise(ends)), self._watch.peak_mib())

    def _check(self) -> None:
        """See that no process has failed."""
        for name, process in self._started.items():
            if process.poll():
                raise CannotRunError(f"{name} ended with {process.returncode}: {self._last(name)}")

    def _text(self, name: str) -> str:
        return self.log(name).read_text("utf-8", "replace")

    def _last(self, name: str) -> str:
        return " ".join(self._text(name).split())[-LOG_CHARACTERS:] or "it wrote nothing"


def _lines(file: Path) -> list[str]:
    """Return the whole lines of a file that may not be there yet."""
    return file.read_text("utf-8").split("\n")[:-1] if file.exists() else []


def patience_s(work: Work) -> float:
    """Return for how long a contestant is waited for: several times what the slowest takes."""
    moved = work.megabytes * (LINE_S_PER_MB if work.network == "line" else work.agents * ROUND_S_PER_MB)
    return START_S + (work.rounds + 1) * (ROUND_S + moved)
