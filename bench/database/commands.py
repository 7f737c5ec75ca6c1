"""How long whole processes of `fl` take on a database."""

import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

COMPLETION = "(completion of `fl db ro`)"
COMMANDS = (
    "--help",
    "db --help",
    COMPLETION,
    "db runs",
    "db rounds {run}",
    "db rounds {run} --json",
    "db models {run}",
    "db models {run} --kind global",
    "db models {run} --round 3 --agent site-0007 --json",
    "db agents {run}",
    "db updates {run}",
    "db events {run}",
    "db best",
    "db best {run}",
    "db stats {run}:3",
    "db diff {run}:3 {run}:4",
    "db diff {run} run-001",
    "db lineage {run}:3",
    "db lineage {run}",
    "db show {run}",
    "db show {run}:best",
    "db show {run}:3 --json",
    "db export {run}:final {out} --force",
    "db export {run}:3 {out}.npz --force",
)
TURNS = 5


def time_commands(folder: Path, out: Path, turns: int = TURNS) -> dict[str, float]:
    """Return median seconds of whole processes, by command; they take turns.

    Args:
        folder: Of a database as `make` makes it.
        out: Where exports go, without a suffix.
    """
    folder = folder.resolve()
    names = {"run": "run-000", "out": f"{out}.safetensors"}
    taken: dict[str, list[float]] = {}
    for _ in range(turns):
        for command in COMMANDS:
            words = [] if command == COMPLETION else shlex.split(command.format(**names))
            taken.setdefault(_shown(command), []).append(_seconds(folder, words, _environment(command)))
    return {command: statistics.median(seconds) for command, seconds in taken.items()}


def _shown(command: str) -> str:
    if command == COMPLETION:
        return command
    return "fl " + command.format(run="RUN", out="FILE")


def _environment(command: str) -> Mapping[str, str]:
    if command != COMPLETION:
        return {}
    return {"_FL_COMPLETE": "bash_complete", "COMP_WORDS": "fl db ro", "COMP_CWORD": "2"}


def time_verify(folder: Path) -> float:
    """Return how long `fl db verify` takes.

    Raises:
        RuntimeError: If it finds damage.
    """
    return _seconds(folder.resolve(), ["db", "verify"], {})


def _seconds(folder: Path, words: Sequence[str], environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-m", "fl_main", *words]
    # In the database's folder, where there are no settings that would add a run.
    env = {**os.environ, "FL_DB": str(folder), **environment}
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=folder)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"fl {' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return seconds


def time_daemon(folder: Path) -> tuple[float, dict[str, float]]:
    """Return how long a daemon takes from its start until it listens, and what asking it takes.

    The daemon goes on with the runs that are under way; no agent is connected.
    """
    folder = folder.resolve()
    command = [sys.executable, "-m", "fl_main", "aggregator", "--port", "0", "--database", str(folder)]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as daemon:
        try:
            url = _url_of(daemon)
            start_s = time.perf_counter() - began
            where = ["--url", url, "--database", str(folder)]
            asked = {
                f"fl {name} (of a daemon)": statistics.median(
                    _seconds(folder, [*name.split(), *where], {}) for _ in range(TURNS)
                )
                for name in ("status", "why", "why run-000", "run list")
            }
        finally:
            daemon.terminate()
            daemon.wait()
    where = ["--url", url, "--database", str(folder)]  # nobody listens there any more
    seconds = [_seconds(folder, ["why", "run-000", *where], {}) for _ in range(TURNS)]
    return start_s, asked | {"fl why RUN (without a daemon)": statistics.median(seconds)}


def _url_of(daemon: "subprocess.Popen[str]") -> str:
    assert daemon.stderr is not None
    for line in daemon.stderr:
        if found := re.search(r"listening url=(\S+)", line):
            Thread(target=daemon.stderr.read, daemon=True).start()  # who logs into a full pipe stands still
            return found[1]
    raise RuntimeError("the daemon did not start")
