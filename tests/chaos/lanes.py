"""Runs, one after another, each with sites of its own: so that hundreds of kills find work."""

import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.journal import Journal
from tests.chaos.processes import Order, Supervised
from tests.chaos.proxy import Line, Network
from tests.chaos.small_disk import SmallDisk
from tests.system.daemons import write_yaml

SEEDS = 3  # runs of one seed come to the same models, and share their files


@dataclass(frozen=True, slots=True)
class Shape:
    """What the runs of a lane look like.

    Attributes:
        values: Of the model's float32 array.
        pause_s: That a site trains, on average.
        bytes_per_s: Of each site's line; None for as fast as it goes.
        evaluate_every: Rounds between evaluations.
    """

    name: str
    values: int
    rounds: int
    pause_s: float
    bytes_per_s: float | None
    evaluate_every: int


def settings_of(shape: Shape, name: str, seed: int, sites: int) -> dict[str, Any]:
    """Return run settings by which every update counts: no deadline comes, nobody is left out."""
    return {
        "name": name,
        "seed": seed,
        "end": {"rounds": shape.rounds},
        "evaluate": {"every": shape.evaluate_every, "deadline_s": 36000.0},
        "round": {"min_agents": sites, "min_updates": sites, "rejoin_s": 3600.0, "deadline_s": 36000.0},
    }


@dataclass(slots=True)
class Site:
    """A site of one run.

    Attributes:
        is_over: Whether its program ended in order, as it does when the run is over.
    """

    name: str
    folder: Path
    process: Supervised
    journal: Journal
    line: Line
    is_over: bool = False

    def kept(self) -> list[str]:
        """Return the tasks whose finished updates are whole on its disk."""
        return sorted(path.stem for path in (self.folder / "outbox").glob("*.json"))


@dataclass(slots=True)
class ChaosRun:
    """A run and everything that belongs to it."""

    name: str
    shape: Shape
    seed: int
    settings: dict[str, Any]
    sites: list[Site]
    orders: deque[Order] = field(default_factory=deque)
    is_created: bool = False

    @property
    def is_over(self) -> bool:
        return all(site.is_over for site in self.sites)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What runs need to be made.

    Attributes:
        folder: For logs, journals and settings.
        states: Where the sites' state folders lie.
    """

    folder: Path
    states: SmallDisk
    database: Path
    network: Network
    port: int

    def order(self, *args: str | Path) -> Order:
        return Order(f"ws://127.0.0.1:{self.port}", self.database, *args)


class Lane:
    """Runs of one shape, one after the other.

    Attributes:
        runs: All of them, the last one current unless it is over.
    """

    def __init__(self, shape: Shape, sites: int, seed: int, around: Surroundings) -> None:
        self.shape = shape
        self.runs: list[ChaosRun] = []
        self._sites = sites
        self._seed = seed
        self._around = around

    @property
    def current(self) -> ChaosRun | None:
        return self.runs[-1] if self.runs and not self.runs[-1].is_over else None

    def begin(self) -> ChaosRun:
        """Make the next run: it is ordered, its sites are started once it is there."""
        seed = self._seed + len(self.runs) % SEEDS
        name = f"{self.shape.name}{len(self.runs) + 1}"
        settings = settings_of(self.shape, name, seed, self._sites)
        sites = [self._site(name, f"site{number + 1}") for number in range(self._sites)]
        run = ChaosRun(name, self.shape, seed, settings, sites)
        run.orders.append(
            self._around.order("run", "create", write_yaml(self._around.folder / f"{name}.yaml", settings))
        )
        self.runs.append(run)
        return run

    def _site(self, run: str, name: str) -> Site:
        around = self._around
        folder = around.states.folder / run / name
        line = Line(around.network, around.port, self.shape.bytes_per_s)
        journal = Journal(around.folder / f"{run}-{name}.journal")
        url = f"ws://127.0.0.1:{line.port}"
        facts = (url, run, name, folder, journal.path, str(self.shape.values), str(self.shape.pause_s))
        log = around.folder / f"{run}-{name}.log"
        program = Supervised(f"{run}/{name}", log, "-m", "tests.chaos.site", *facts)
        return Site(name, folder, program, journal, line)


def rounds_in(log: str) -> dict[str, int]:
    """Return the last round of each run that a daemon's log tells of."""
    found: dict[str, int] = {}
    for run, number in re.findall(r" run=(\S+) round=(\d+) ", log):
        found[run] = max(found.get(run, 0), int(number))
    return found
