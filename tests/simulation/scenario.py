"""What a simulation is about: a run, its sites, and what goes wrong, all drawn from one seed."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from .network import Weather

FULL, LOCKED = ("SQLITE_FULL", "database or disk is full"), ("SQLITE_BUSY", "database is locked")
FAST_S, SLOW_S = 0.001, 0.1  # that a thread takes to begin
CROWD = 0.03  # of the seeds
MIXED_UP = 33  # every so many seeds, the network mixes up what it carries
FEW = 4  # sites of the others, at most


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A site that takes part.

    Attributes:
        train_s: Virtual seconds that a training takes.
        has_tail: Some of its trainings take many times as long.
        is_constant: It sends the same weights in every round, so that models have equal files.
        region: One of its attributes; `gpu`: another one.
        poll_s: Seconds between its visits; None: it stays connected.
    """

    name: str
    number: int
    train_s: float
    has_tail: bool
    is_constant: bool
    region: str
    gpu: bool
    poll_s: float | None


RETENTION: list[dict[str, Any]] = [
    {"keep": "all"},
    {"keep": "all"},
    {"keep": "rounds", "rounds": 1},
    {"keep": "bytes", "bytes": 1},
]

# Strategies that ask something of the sites' training, with options.
CORRECTIONS: dict[str, dict[str, float]] = {
    "fedprox": {"mu": 0.5},
    "scaffold": {"eta": 1.0},
    "feddyn": {"alpha": 2.0},
    "fedcurv": {"lam": 0.01},
}

# Conditions of `cohort.where`, and what they mean.
WHERE: dict[str, Callable[[SiteFacts], bool]] = {
    "": lambda site: True,
    'region == "eu"': lambda site: site.region == "eu",
    'gpu or region in ["us", "asia"]': lambda site: site.gpu or site.region == "us",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A training run without any fault.

    Attributes:
        run: Its settings.
        database: Those of the model database.
        limits: What the daemon takes at most.
        is_strict: Every update must count, so that the result is known to the bit.
        size: Values of the model.
        has_drift: The strategy keeps state of its own, and wants a second channel.
        keeps_state: The sites keep arrays of their own from task to task.
        has_private: The sites' models have a private array, which counts their trainings.
    """

    seed: int
    run: dict[str, Any]
    database: dict[str, Any]
    limits: dict[str, Any]
    sites: tuple[SiteFacts, ...]
    is_strict: bool
    size: int
    has_drift: bool
    keeps_state: bool
    has_private: bool = False

    @property
    def is_crowd(self) -> bool:
        """Whether many come at once."""
        return len(self.sites) > FEW

    def trains(self, site: SiteFacts) -> bool:
        """Whether a site may be given training tasks."""
        return WHERE[self.run["cohort"]["where"]](site)


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
        thread_s: How long the machines' threads take: on slow ones more happens while something is stored.
        loses_power: A process takes its whole machine with it.
        troubles: Disks that fail for a while.
        orders: What operators do: the second, and the order.
        rollbacks: When an operator rolls the run back, and to which part of its rounds so far, from 0 to 1.
        clock_jumps: Seconds at which a machine's wall clock jumps, and how far.
        until_s: When the last fault is over.
    """

    weather: Weather = field(default_factory=Weather)
    kills: int = 0
    mean_calls: float = 1e9
    thread_s: float = FAST_S
    loses_power: bool = False
    troubles: list[Trouble] = field(default_factory=list)
    orders: list[tuple[float, str]] = field(default_factory=list)
    rollbacks: list[tuple[float, float]] = field(default_factory=list)
    clock_jumps: list[tuple[float, str, float]] = field(default_factory=list)
    until_s: float = 0.0


def draw_scenario(seed: int) -> Scenario:
    """Return the run of a seed."""
    random = Random(f"{seed} scenario")
    mode = random.choice(["sync"] * 5 + ["semi-sync"] * 2 + ["async"] * 4)
    is_strict = mode == "sync" and random.random() < 0.7
    is_crowd = random.random() < CROWD
    sites = _sites(random, random.randint(20, 60) if is_crowd else random.randint(1, FEW))
    has_drift = random.random() < 0.4
    run = _run(random, mode, sites, is_strict, has_drift)
    quarantine = _quarantine(seed, run, sites)
    correction = {} if has_drift or quarantine else _correction(seed, mode)
    compression = _compression(seed)
    if correction.get("strategy") == "feddyn":  # which takes no codec
        compression = {key: compression[key] for key in ("lossless", "download") if key in compression}
    return Scenario(
        seed,
        run | {"compression": compression} | (quarantine or correction or _steps(seed, run)),
        {
            "durability": random.choice(["process", "power"]),
            "retention": random.choice(RETENTION),
            "digest": ("blake3", "sha256")[seed % 2],
        },
        {"joins_per_s": random.choice([10.0, 200.0])} if is_crowd else {},
        sites,
        is_strict and not quarantine,
        random.choice([1, 40]) if is_crowd else random.choice([1, 40, 300, 1200]),
        has_drift,
        random.random() < 0.5,
        Random(f"{seed} private").random() < 0.3,
    )


def _correction(seed: int, mode: str) -> dict[str, Any]:
    """Return a strategy whose agents keep a part of it, for some runs of mode sync."""
    random = Random(f"{seed} correction")  # of its own: what else is drawn stays as it was
    options = random.choice(sorted(CORRECTIONS.items()))
    if mode != "sync" or random.random() < 0.4:
        return {}
    return {"strategy": options[0], "strategy_options": options[1]}


def _sites(random: Random, count: int) -> tuple[SiteFacts, ...]:
    is_constant, has_tail = random.random() < 0.25, random.random() < 0.4
    polling = random.choice([0.0, 0.0, 0.0, 0.5, 1.0])
    poll_s = random.choice([0.5, 2.0, 10.0, 45.0] if count <= FEW else [10.0, 45.0])
    paces = [0.0, 0.5, 3.0] if poll_s < 10 or count > FEW else [0.0, 0.5, 3.0, 90.0]
    return tuple(
        SiteFacts(
            f"site{number}",
            number,
            random.choice(paces),
            has_tail,
            is_constant,
            random.choice(["eu", "us"]),
            random.random() < 0.5,
            poll_s if random.random() < polling else None,
        )
        for number in range(1, count + 1)
    )


def _run(
    random: Random, mode: str, sites: Sequence[SiteFacts], is_strict: bool, has_drift: bool
) -> dict[str, Any]:
    where = random.choice([text for text, fits in WHERE.items() if any(map(fits, sites))])
    cohort = {"where": where if random.random() < 0.3 else "", **_rule(random, mode, len(sites), is_strict)}
    able = sum(map(WHERE[cohort["where"]], sites))
    strategy = _strategy(random, mode, has_drift)
    rounds = 2 if len(sites) > FEW else random.randint(2, 10 if mode == "async" else 5)
    return {
        "name": "r",
        "mode": mode,
        "seed": random.randrange(1000),
        "cohort": cohort,
        "round": _strict_round(able, cohort)
        if is_strict
        else _round(random, mode, able, strategy["strategy"]),
        "staleness": _staleness(random, mode),
        "end": {"rounds": rounds},
        "evaluate": {"every": random.choice([0, 1])},
        "statistics": random.random() < 0.3,
        "config_for": [{"where": "slowness > 2", "config": {"epochs": 1}}] if random.random() < 0.2 else [],
        **strategy,
    }


def _rule(random: Random, mode: str, sites: int, is_strict: bool) -> dict[str, Any]:
    """Return who is asked in a round, or in mode async how many are at work at once."""
    rule = random.choice(["all", "all", "number", "fraction"])
    if rule == "all":
        return {"rule": "all"}
    chosen: dict[str, Any] = {"rule": rule, "choose": random.choice(["random", "least_recent"])}
    chosen[rule] = random.randint(1, sites) if rule == "number" else random.choice([0.3, 0.7])
    if mode != "async" and not is_strict:
        chosen["over_selection"] = random.choice([1.0, 1.3, 2.0])
    return chosen


def most_of(cohort: dict[str, Any], able: int) -> int:
    """Return how many of so many sites a round wants, or in mode async how many may be at work at once."""
    most: dict[str, float] = {
        "all": able,
        "number": cohort.get("number", 0),
        "fraction": cohort.get("fraction", 0) * able,
    }
    return min(able, max(1, round(most[cohort["rule"]])))


def _strict_round(able: int, cohort: dict[str, Any]) -> dict[str, Any]:
    """Return a round that waits for everybody that it asked."""
    return {
        "min_agents": able,
        "min_updates": most_of(cohort, able),
        "deadline_s": 100_000.0,
        "max_failed_rounds": 1000,
    }


def _round(random: Random, mode: str, able: int, strategy: str) -> dict[str, Any]:
    few = max(1, able - 1) if able < 5 else able // 2
    least = 1 if strategy == "fedasync" else random.randint(1, few)
    return {
        "min_agents": few,
        "min_updates": least,
        "quorum": random.choice([1.0, 0.5]),
        "grace_s": random.choice([0.0, 5.0]),
        "deadline_s": random.choice([60.0, 400.0]),
        "buffer": None if mode == "sync" else random.choice([None, least, random.randint(least, able + 1)]),
        "adaptive_deadline": None if mode == "async" else random.choice([None, None, 2.0]),
        "max_failed_rounds": 1000,
    }


def _staleness(random: Random, mode: str) -> dict[str, Any]:
    most = None if mode == "sync" else random.choice([None, None, 0, 1, 3])
    return {
        "most": most,
        "discount": random.choice(["polynomial", "hinge", "none"]),
        "a": random.choice([None, 2.0]),
        "b": 1,
    }


def _strategy(random: Random, mode: str, has_drift: bool) -> dict[str, Any]:
    if has_drift:
        name = "tests.simulation.drift:Drift" if mode == "async" else "tests.system.momentum:Momentum"
        return {"strategy": name, "strategy_options": {"beta": 0.5}}
    names = {"sync": ["fedavg", "fedavg", "fedbuff"], "semi-sync": ["fedavg", "fedbuff", "fedasync"]}
    name = random.choice(names.get(mode, ["fedbuff", "fedbuff", "fedasync"]))
    options = {
        "fedbuff": {"eta": random.choice([1.0, 0.3])},
        "fedasync": {"alpha": random.choice([0.6, 1.0])},
    }
    return {"strategy": name, "strategy_options": options.get(name, {})}


def _steps(seed: int, run: dict[str, Any]) -> dict[str, Any]:
    """Return steps around a run's rule, in a third of those that have one: an optimizer keeps state."""
    random = Random(f"{seed} steps")  # of its own: what else is drawn stays as it was
    if run["strategy"] not in ("fedavg", "fedbuff") or random.random() < 0.67:
        return {}
    optimizer = random.choice(["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
    rule, noise = {run["strategy"]: run["strategy_options"]}, {"noise": {"std": 0.1, "seed": seed}}
    return {"strategy": [{"norm_bound": {"bound": 5.0}}, rule, optimizer, noise], "strategy_options": {}}


def _quarantine(seed: int, run: dict[str, Any], sites: Sequence[SiteFacts]) -> dict[str, Any]:
    """Return what lets a run leave sites out, in most of those that have enough of them."""
    random = Random(f"{seed} quarantine")  # of its own: what else is drawn stays as it was
    able = sum(map(WHERE[run["cohort"]["where"]], sites))
    is_compared = seed % MIXED_UP == 0  # with the same run without faults, which no operator can be in
    if is_compared or run["strategy"] != "fedavg" or able < 3 or random.random() < 0.2:
        return {}
    patience = {"deadline_s": 400.0} if able == 3 else {}  # no round can do without the slowest
    return {
        "strategy": "median",
        "strategy_options": {},
        "round": {**run["round"], "min_agents": 3, "min_updates": 3, "buffer": None} | patience,
        "quarantine": {"rounds": random.choice([1, 1, 2]), "factor": random.choice([1.05, 1.5])},
    }


COMPRESSIONS: list[dict[str, Any]] = [
    {"codec": "float16"},
    {"codec": "bfloat16"},
    {"codec": "int8", "block": 16},
    {"codec": "int8", "rounding": "nearest", "error_feedback": True},
    {"codec": "qsgd", "levels": 7, "block": 16},
    {"codec": "top-k", "fraction": 0.1},
    {"codec": "top-k", "fraction": 0.1},
    {"codec": "random-k", "fraction": 0.3},
    {"codec": "random-k", "fraction": 0.3, "error_feedback": True},
    {"form": "delta"},
    {},
]


def _compression(seed: int) -> dict[str, Any]:
    """Return how weights travel: without a loss in half of the runs."""
    random = Random(f"{seed} compression")  # of its own: what else is drawn stays as it was
    chosen: dict[str, Any] = {"lossless": random.choice(["none", "zstd"])}
    if random.random() < 0.5:
        chosen |= random.choice(COMPRESSIONS)
        chosen["download"] = random.choice(["none", "none", "float16", "bfloat16", "int8"])
    return chosen


def draw_faults(scenario: Scenario) -> Faults:
    """Return what goes wrong in the run of a seed: of each kind only now and then."""
    random = Random(f"{scenario.seed} faults")
    until_s = random.choice([30.0, 300.0, 1500.0])
    machines = ["aggregator", *(site.name for site in scenario.sites)]
    weather = _weather(random)
    return Faults(
        weather=_mixed_up(weather) if scenario.seed % MIXED_UP == 0 else weather,
        kills=random.choice([0, 1, 3, 10, 25]),
        mean_calls=random.choice([30.0, 200.0, 1000.0, 4000.0]),
        loses_power=scenario.database["durability"] == "power" and random.random() < 0.7,
        troubles=_troubles(random, machines, until_s),
        orders=_orders(random, until_s),
        rollbacks=_rollbacks(scenario.seed, until_s),
        thread_s=random.choice([FAST_S, FAST_S, FAST_S, SLOW_S]),
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


def _mixed_up(weather: Weather) -> Weather:
    """Make frames come twice, or too late, so often that no session lasts."""
    return replace(weather, twice=0.04, overtaken=0.04, cut=min(weather.cut, 0.003))


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


def _rollbacks(seed: int, until_s: float) -> list[tuple[float, float]]:
    random = Random(f"{seed} rollbacks")  # of its own: what else is drawn stays as it was
    if seed % MIXED_UP == 0 or random.random() < 0.75:
        return []
    often = random.choice([1, 1, 2, 4])
    return sorted((random.uniform(0, until_s / 2), random.random()) for _ in range(often))
