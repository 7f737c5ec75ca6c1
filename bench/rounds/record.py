"""What a run of the benchmark leaves behind: every single figure, the machine and the versions."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.database.figures import Database, database_of


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contestant.

    Attributes:
        contestant: Its key in `CONTESTANTS`.
        megabytes: Of the model; `agents`, `rounds`, `network`: see `Work`.
        repeat: Runs with the same number were made in turns, and are compared.
        problem: Why there are no figures.
        round_s: See `Figures`, as the others.
    """

    contestant: str
    megabytes: float
    agents: int
    rounds: int
    network: str
    repeat: int
    problem: str = ""
    round_s: float = 0.0
    peak_mib: float = 0.0
    cpu_s_per_mb: float | None = None
    agent_peak_mib: float | None = None
    loop_late_ms: float | None = None
    loop_busy_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """What agents cost the daemon that are connected and have nothing to do.

    Attributes:
        agents: That were connected in the end.
        kib_per_agent: Memory that each one more took.
        threads: That the daemon had more with them.
    """

    agents: int
    kib_per_agent: float
    threads: int


@dataclass(slots=True)
class Record:
    """All of it.

    Attributes:
        machine: Processor, cores, memory, kernel, Python.
        began: In UTC.
        versions: Of what each contestant consists of.
        runs: In the order they were made.
        idle: If it was measured; `database` as well.
    """

    machine: dict[str, str]
    began: str
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    idle: Idle | None = None
    database: Database | None = None

    def write(self, file: Path) -> None:
        """Write it as JSON, a line for each run."""
        write_by_line(file, asdict(self), "runs")


def write_by_line(file: Path, record: dict[str, Any], *lists: str) -> None:
    """Write a record as JSON, with a line for each entry of its lists, which come last."""
    found = {name: record.pop(name) for name in lists}
    text = json.dumps(record, indent=1).removesuffix("\n}")
    for name, entries in found.items():
        text += f',\n "{name}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"
    file.write_text(text + "\n}\n", "utf-8")


def begun() -> Record:
    """Return an empty record of this machine and moment."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    return Record(machine, datetime.now(UTC).strftime("%Y-%m-%d %H:%M"))


def read(file: Path) -> Record:
    """Return a record that was written."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    runs = [Run(**run) for run in found.pop("runs")]
    idle, database = found.pop("idle"), found.pop("database", None)
    return Record(
        **found,
        runs=runs,
        idle=Idle(**idle) if idle else None,
        database=database_of(database) if database else None,
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
