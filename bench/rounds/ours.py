"""Ours: the daemon in a process, agents in processes; every update is checked, stored and in the database."""

import json
import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from bench.rounds import certificates, line
from bench.rounds.processes import START_S, Processes, patience_s
from bench.rounds.work import Figures, Work

RUN = "bench"


INT8 = {"codec": "int8", "download": "int8"}
TOP_K = {"codec": "top-k", "fraction": 0.01, "download": "int8"}


def run(
    work: Work,
    *,
    keep: bool,
    uvloop: bool = False,
    crowd: bool = False,
    compression: Mapping[str, Any] | None = None,
) -> Figures:
    """Return our figures.

    Args:
        work: What to do.
        keep: Keep the updates of all rounds, as is the default, or of the last one only.
        uvloop: Run the daemon on uvloop.
        crowd: Have all agents in one process.
        compression: Settings of the run: how weights travel.
    """
    with Processes(work.folder) as processes:
        url = start_daemon(
            processes, work, keep=keep, uvloop=uvloop, wanted=work.agents, compression=compression
        )
        if crowd:
            start_crowd(processes, work, url, range(work.agents))
        else:
            _start_agents(processes, work, url)
        found = json.loads(processes.wait_for_line("server", "figures=", patience_s(work)))
        agent_mib = None if crowd else _agent_peak_mib(processes, work.agents)
    seconds = median(after - before for before, after in pairwise(found["ended_at"]))
    cpu_s = (found["cpu_s"][-1] - found["cpu_s"][0]) / (work.megabytes * work.agents * work.rounds)
    late_ms, busy_ms = 1000 * found["late_s"], 1000 * found["busy_s"]
    return Figures(seconds, found["peak_mib"], cpu_s, agent_mib, late_ms, busy_ms)


def start_daemon(
    processes: Processes,
    work: Work,
    *,
    keep: bool,
    uvloop: bool,
    wanted: int,
    compression: Mapping[str, Any] | None = None,
) -> str:
    """Start a daemon whose rounds begin with so many agents, and return its url."""
    settings: dict[str, Any] = {
        "listen": {"port": 0},
        "database": {
            "folder": str(work.folder / "models"),
            "durability": "process",
            "retention": {"keep": "all"} if keep else {"keep": "rounds", "rounds": 1},
        },
    }
    if work.network == "tls":
        files = certificates.issue(work.folder)
        settings["tls"] = {"certificate": str(files.chain), "key": str(files.key)}
    run = {
        "name": RUN,
        "round": {"min_agents": wanted, "min_updates": wanted, "deadline_s": patience_s(work)},
        "end": {"rounds": work.rounds + 1},
        "evaluate": {"every": 0},
        "compression": dict(compression or {}),
    }
    program = [sys.executable, "-m", "bench.rounds.daemon", json.dumps(settings), json.dumps(run)]
    processes.start("server", program + ["uvloop"] * uvloop)
    return processes.wait_for_line("server", "url=", START_S)


def start_crowd(processes: Processes, work: Work, url: str, numbers: range) -> None:
    """Start agents with such numbers in one process."""
    program = [sys.executable, "-m", "bench.rounds.crowd", url, str(numbers.start), str(numbers.stop)]
    processes.start(f"agents-{numbers.start}", [*program, str(work.megabytes), work.folder])


def _start_agents(processes: Processes, work: Work, url: str) -> None:
    """Start every agent in a process of its own."""
    parts = urlsplit(url)
    ca_file = work.folder / "authority.pem" if work.network == "tls" else ""
    for number, port in enumerate(line.ports_to(processes, work, int(parts.port or 0))):
        its_url = parts._replace(netloc=f"{parts.hostname}:{port}").geturl()
        program = [sys.executable, "-m", "bench.rounds.agent", its_url, str(number)]
        processes.start(f"agent-{number}", [*program, str(work.megabytes), work.folder, ca_file])


def _agent_peak_mib(processes: Processes, agents: int) -> float:
    """Return the most that an agent told of its memory."""
    logs = (processes.log(f"agent-{number}").read_text("utf-8") for number in range(agents))
    return max(float(mib) for log in logs for mib in re.findall(r"peak_mib=(\S+)", log))
