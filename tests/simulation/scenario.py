"""What a simulation is about: a run, its sites, and what goes wrong, all drawn from one seed."""

import errno
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .database import FULL, LOCKED
from .network import Weather


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A site that takes part.

    Attributes:
        train_s: Virtual seconds that a training takes.
        is_constant: It sends the same weights in every round, so that models have equal files.
    """

    name: str
    number: int
    train_s: float
    is_constant: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """A training run without any fault.

    Attributes:
        run: Its settings.
        database: Those of the model database.
        is_strict: Every update must count, so that the result is known to the bit.
        size: Values of the model.
        has_drift: The strategy keeps state of its own, and wants a second channel.
        keeps_state: The sites keep arrays of their own from task to task.
    """

    seed: int
    run: dict[str, Any]
    database: dict[str, Any]
    sites: tuple[SiteFacts, ...]
    is_strict: bool
    size: int
    has_drift: bool
    keeps_state: bool


@dataclass(slots=True)
class Trouble:
    """A stretch of time in which a disk fails."""

    machine: str
    begins_s: float
    ends_s: float
    fault: int | None
    database_fault: tuple[str, str] | None


@dataclass(slots=True)
class Faults:
    """What goes wrong.

    Attributes:
        kills: How many processes are killed at most.
        mean_calls: Calls of ports that a process lives through on average.
        loses_power: A process takes its whole machine with it.
        troubles: Disks that fail for a while.
        orders: What operators do: the second, and the order.
        clock_jumps: Seconds at which a machine's wall clock jumps, and how far.
        until_s: When the last fault is over.
    """

    weather: Weather = field(default_factory=Weather)
    kills: int = 0
    mean_calls: float = 1e9
    loses_power: bool = False
    troubles: list[Trouble] = field(default_factory=list)
    orders: list[tuple[float, str]] = field(default_factory=list)
    clock_jumps: list[tuple[float, str, float]] = field(default_factory=list)
    until_s: float = 0.0


def draw_scenario(seed: int) -> Scenario:
    """Return the run of a seed."""
    random = Random(f"{seed} scenario")
    count, is_strict = random.randint(1, 4), random.random() < 0.7
    has_drift = random.random() < 0.4
    is_constant = random.random() < 0.25
    sites = tuple(
        SiteFacts(f"site{number}", number, random.choice([0.0, 0.5, 3.0, 90.0]), is_constant)
        for number in range(1, count + 1)
    )
    return Scenario(
        seed,
        _run(random, count, is_strict, has_drift),
        {
            "durability": random.choice(["process", "power"]),
            "retention": random.choice([{"keep": "all"}, {"keep": "rounds", "rounds": 1}]),
        },
        sites,
        is_strict,
        random.choice([1, 40, 300, 1200]),
        has_drift,
        random.random() < 0.5,
    )


def _run(random: Random, count: int, is_strict: bool, has_drift: bool) -> dict[str, Any]:
    few = count if is_strict else max(1, count - 1)
    rounds = {
        "min_agents": few,
        "min_updates": few,
        "quorum": 1.0 if is_strict else random.choice([1.0, 0.5]),
        "grace_s": 0.0 if is_strict else random.choice([0.0, 5.0]),
        "deadline_s": 100_000.0 if is_strict else random.choice([60.0, 400.0]),
        "late_updates": "discard" if is_strict else random.choice(["discard", "count"]),
        "max_failed_rounds": 1000,
    }
    if is_strict:
        rounds["min_agents"] = count
    strategy = {"strategy": "fedavg"}
    if has_drift:
        strategy = {"strategy": "tests.system.momentum:Momentum", "strategy_options": {"beta": 0.5}}  # type: ignore[dict-item]
    return {
        "name": "r",
        "seed": random.randrange(1000),
        "round": rounds,
        "end": {"rounds": random.randint(2, 5)},
        "evaluate": {"every": random.choice([0, 1])},
        "statistics": random.random() < 0.3,
        **strategy,
    }


def draw_faults(scenario: Scenario) -> Faults:
    """Return what goes wrong in the run of a seed: of each kind only now and then."""
    random = Random(f"{scenario.seed} faults")
    until_s = random.choice([30.0, 300.0, 1500.0])
    machines = ["aggregator", *(site.name for site in scenario.sites)]
    return Faults(
        weather=_weather(random),
        kills=random.choice([0, 1, 3, 10, 25]),
        mean_calls=random.choice([30.0, 200.0, 1000.0, 4000.0]),
        loses_power=scenario.database["durability"] == "power" and random.random() < 0.7,
        troubles=_troubles(random, machines, until_s),
        orders=_orders(random, until_s),
        clock_jumps=[
            (random.uniform(0, until_s), random.choice(machines), random.uniform(-9e4, 9e4))
            for _ in range(random.choice([0, 0, 3]))
        ],
        until_s=until_s,
    )


def _weather(random: Random) -> Weather:
    def now_and_then(most: float) -> float:
        return random.choice([0.0, 0.0, most / 10, most])

    return Weather(
        delay_s=random.choice([0.002, 0.05, 0.5]),
        cut=now_and_then(0.03),
        silence=now_and_then(0.01),
        twice=now_and_then(0.03) if random.random() < 0.3 else 0.0,
        overtaken=now_and_then(0.03) if random.random() < 0.3 else 0.0,
        refused=now_and_then(0.3),
    )


def _troubles(random: Random, machines: list[str], until_s: float) -> list[Trouble]:
    found = []
    for _ in range(random.choice([0, 0, 1, 3])):
        begins_s = random.uniform(0, until_s)
        fault, database_fault = random.choice(
            [
                (errno.ENOSPC, FULL),
                (errno.ENOSPC, None),
                (errno.EROFS, FULL),
                (errno.EIO, None),
                (None, LOCKED),
            ]
        )
        lasts_s = random.choice([0.05, 1.0, 20.0, 200.0])
        machine = random.choice([machines[0], *machines])
        found.append(Trouble(machine, begins_s, min(until_s, begins_s + lasts_s), fault, database_fault))
    return found


def _orders(random: Random, until_s: float) -> list[tuple[float, str]]:
    orders = []
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        begins_s = random.uniform(0, until_s / 2)
        kind = random.choice(["pause", "stop", "restart"])
        orders.append((begins_s, kind))
        if kind != "restart":
            orders.append((random.uniform(begins_s, until_s), "resume"))
    return sorted(orders)
