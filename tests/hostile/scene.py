"""A daemon process under attack, and an honest agent whose rounds are watched beside it."""

import json
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fl_main.agent import TrainResult
from fl_main.training import TrainingTask
from tests.system.agents import AgentThread
from tests.system.conftest import StartAgent, StartPython
from tests.system.daemons import DaemonProcess, Process, fl, run_of, until

ENDLESS = 1 << 60
HONEST = run_of(name="honest", end={"rounds": ENDLESS}, round={"min_agents": 1, "min_updates": 1})
BESIDE = 50  # times as long as alone a round may take: an attack takes half of two cores for itself
ROUNDS = 10
LEAST_S = 0.02  # what a round alone takes at least, for that


class Scene:
    """An aggregator, somebody honest, and somebody who is not.

    The run `honest` goes from round to round with one agent. The run `r` waits for more agents than
    there are: who joins it is given nothing to do.
    """

    def __init__(
        self,
        daemon: DaemonProcess,
        start_agent: StartAgent,
        start_python: StartPython,
        options: dict[str, Any],
    ) -> None:
        self.daemon = daemon
        self._start_agent = start_agent
        self._start_python = start_python
        self._options = {"run": "honest", "initial_weights": _weights} | options
        self.agent = self.newcomer("good")

    def newcomer(self, name: str) -> AgentThread:
        """Let somebody honest join and take part in a round."""
        agent = self._start_agent(self.daemon.url, name, _train, **self._options)
        until(lambda: agent.trained, "for somebody honest to come in")
        return agent

    @property
    def port(self) -> int:
        return self.daemon.port

    def rounds(self, number: int) -> float:
        """Wait until so many more rounds were made, and return how long one takes."""
        begun, before = time.monotonic(), len(self.agent.trained)
        until(lambda: len(self.agent.trained) >= before + number, "for rounds of the honest agent", 40.0)
        return (time.monotonic() - begun) / number

    @contextmanager
    def unharmed(self, megabytes: int) -> Iterator[None]:
        """Check that an attack costs the daemon so much memory at most, and nobody else their rounds."""
        alone_s, before = self.rounds(ROUNDS), self.memory()
        self.reset_peak()
        yield
        beside_s, grown = self.rounds(ROUNDS), self.peak() - before
        print(
            f"{alone_s * 1e3:.0f} ms a round alone, {beside_s * 1e3:.0f} beside it; {grown / 1e6:.0f} MB more"
        )
        assert grown < megabytes << 20, f"{grown >> 20} MB"
        assert beside_s < BESIDE * max(alone_s, LEAST_S), f"{beside_s:.3f} s a round, not {alone_s:.3f} s"

    @contextmanager
    def few_descriptors(self, number: int) -> Iterator[None]:
        """Let the daemon open so many more files at most."""
        before = resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE)
        most = len(list(Path(f"/proc/{self.daemon.pid}/fd").iterdir())) + number
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (most, before[1]))
        yield
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, before)

    def attack(self, name: str, *options: str | int) -> Process:
        """Start an attack of `tests.hostile.attacks`, and wait until it is under way."""
        log = f"{name}.log"
        attack = self._start_python(
            log, "-m", "tests.hostile.attacks", name, str(self.port), *map(str, options)
        )
        attack.seen("under way")
        return attack

    def memory(self) -> int:
        return self._status("VmRSS")

    def peak(self) -> int:
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))

    def connections(self) -> int:
        """How many sockets the daemon has open, those included on which it listens."""
        links = Path(f"/proc/{self.daemon.pid}/fd").iterdir()
        return sum(_target(link).startswith("socket:") for link in links)

    def status(self) -> dict[str, Any]:
        """What `fl status --json` says."""
        done = fl("status", "--json", "--url", self.daemon.url, "--database", self.daemon.models)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def events(self) -> list[str]:
        """The kinds of the daemon's own events."""
        with closing(sqlite3.connect(self.daemon.models / "fl.db")) as db:
            rows = db.execute("select facts from events where run_id = '' and record = 'event'")
            return [json.loads(facts)["kind"] for (facts,) in rows]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # it was closed while we looked
        return ""


def _weights() -> dict[str, Any]:
    return {"w": np.zeros(1000, np.float32)}


def _train(task: TrainingTask) -> TrainResult:
    return TrainResult({name: array + 1 for name, array in task.weights.items()}, 5)
