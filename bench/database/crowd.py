"""Everybody at once: ten readers, pruning and exporting, while a daemon's store takes 50 updates a second."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from bench.database.figures import Crowd
from bench.database.readers import written
from fl_main.db import ModelDB, export_model
from fl_main.db.upkeep import prune as pruning
from fl_main.db.upkeep.prune import Keep, prune
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.errors import FLError

READERS = 10
PAUSE_S = 0.1  # of a reader, before each question: ten that make none are as many busy processors
KEEP = Keep.parse("rounds:1")


def measure_crowd(folder: Path, work: Path, seconds: float, readers: int = READERS) -> Crowd:
    """Let all work on a database for a while.

    Args:
        folder: Of a database, which gets a new run.
        work: Where exported models go.
        seconds: How long they go on.
    """
    at_work = [_started("read", folder, seconds, PAUSE_S) for _ in range(readers)]
    at_work += [_started("prune", folder, seconds), _started("export", folder, seconds, work)]
    for process in at_work:
        _said_ready(process)

    def begun() -> None:
        for process in at_work:
            _say_go(process)

    store = written(folder, "crowd", seconds, begun)
    said = [json.loads(process.communicate()[0]) for process in at_work]
    reads, pruned, exported = said[:-2], said[-2], said[-1]
    return Crowd(
        readers,
        store.updates / seconds,
        sum(entry["reads"] for entry in reads),
        int(pruned["files"]),
        int(exported["exports"]),
        sum(entry["errors"] for entry in said),
        max(store.took),
        pruned["longest_lock_s"],
        max(entry["longest_s"] for entry in reads),
    )


def _started(command: str, folder: Path, seconds: float, *more: object) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "bench.database", command, "--waits", str(folder), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*words, *map(str, more)], stdin=pipe, stdout=pipe, text=True)


def _said_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    process.stdout.readline()


def _say_go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


class _TimedWriter(SecondWriter):
    """A second writer that notes how long it kept others from writing."""

    longest_s = 0.0

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        began = 0.0
        try:
            with super()._transaction(doing):
                began = time.perf_counter()
                yield
        finally:
            if began:
                _TimedWriter.longest_s = max(_TimedWriter.longest_s, time.perf_counter() - began)


def prune_for(folder: Path, seconds: float) -> dict[str, float]:
    """Prune the run that is written again and again.

    Returns:
        How many files that was, and the longest that it kept others from writing.
    """
    files: list[int] = []
    with patch.object(pruning, "SecondWriter", _TimedWriter), ModelDB(folder) as found:
        errors = _again(seconds, lambda: files.append(prune(found, KEEP, [found.runs()[-1].run_id]).files))
    return {"files": sum(files), "longest_lock_s": _TimedWriter.longest_s, "errors": errors}


def export_for(folder: Path, seconds: float, work: Path) -> dict[str, float]:
    """Export the latest model again and again."""
    done: list[Path] = []

    def export() -> None:
        with ModelDB(folder) as found:
            last = found.runs()[-1].last
        if last is not None:
            done.append(export_model(last, work / "latest.safetensors", overwrite=True))

    return {"errors": _again(seconds, export), "exports": len(done)}


def _again(seconds: float, work: Callable[[], object]) -> int:
    """Work until time is up; return how often it failed."""
    ends_at, errors = time.perf_counter() + seconds, 0
    while time.perf_counter() < ends_at:
        try:
            work()
        except FLError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            errors += 1
        time.sleep(0.01)
    return errors
