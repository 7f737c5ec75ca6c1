"""What agents cost the daemon that are connected and have nothing to do."""

import asyncio
import tempfile
import time
from pathlib import Path

from bench.rounds import ours
from bench.rounds.memory import resident_mib
from bench.rounds.processes import START_S, Processes
from bench.rounds.record import Idle
from bench.rounds.work import Work
from fl_main.aggregator.memory import TRIM_EVERY_S
from fl_main.aggregator.operator import ask
from fl_main.aggregator.tokens import operator_token

FIRST = 100  # agents that pay for what is there once
MEGABYTES = 0.1


def measure_idle(agents: int) -> Idle:
    """Let agents connect to a daemon that waits for more of them, and look at its memory."""
    with tempfile.TemporaryDirectory(prefix="fl-bench-", ignore_cleanup_errors=True) as folder:
        work = Work(MEGABYTES, agents, 1, "loopback", Path(folder))
        with Processes(work.folder) as processes:
            url = ours.start_daemon(processes, work, keep=False, uvloop=False, wanted=agents + 1)
            daemon = processes.id_of("server")
            before_mib, threads = _with(processes, work, url, range(FIRST), daemon)
            after_mib, more_threads = _with(processes, work, url, range(FIRST, agents), daemon)
    return Idle(agents, 1024 * (after_mib - before_mib) / (agents - FIRST), more_threads - threads)


def _with(processes: Processes, work: Work, url: str, numbers: range, daemon: int) -> tuple[float, int]:
    """Let more agents connect; return memory and threads once all is quiet."""
    ours.start_crowd(processes, work, url, numbers)
    processes.wait_for("server", lambda: _connected(url, work.folder) >= numbers.stop, START_S)
    time.sleep(TRIM_EVERY_S + 5.0)  # until the daemon has given back what it needed for the joins
    return resident_mib(daemon), len(list(Path(f"/proc/{daemon}/task").iterdir()))


def _connected(url: str, folder: Path) -> int:
    found = asyncio.run(ask(url, operator_token(folder / "models"), "status"))
    return int(found["agents"])
