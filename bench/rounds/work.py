"""What a contestant is given to do, and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Network = Literal["loopback", "tls", "line"]

LAYERS = 20  # float32 arrays that a model consists of
LINE_BYTES_PER_S, LINE_DELAY_S = 50e6 / 8, 0.020  # a line of 50 Mbit/s each way, 40 ms there and back


class CannotRunError(Exception):
    """A contestant cannot be installed, started or brought to the end; the message says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """Rounds of FedAvg with clients that do not train, but add a little.

    Attributes:
        megabytes: Of the model; a MB is a million bytes.
        agents: That take part in every round.
        rounds: That are timed; one more is run before them.
        network: `loopback`; `tls`: the same, encrypted; `line`: a slow line for each agent.
        folder: For everything that is written; empty.
    """

    megabytes: float
    agents: int
    rounds: int
    network: Network
    folder: Path


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Attributes:
        round_s: Seconds from the end of a round to the end of the next: the median.
        peak_mib: Most memory of all processes of the server side together.
        cpu_s_per_mb: Processor time of the server side for each MB of update, where it is known.
        agent_peak_mib: Most memory of an agent, where it is known; the weights it trains are in it.
        loop_late_ms: How late the daemon's event loop woke at worst, where it is known.
        loop_busy_ms: The most processor time that it took between two wakes.
    """

    round_s: float
    peak_mib: float
    cpu_s_per_mb: float | None = None
    agent_peak_mib: float | None = None
    loop_late_ms: float | None = None
    loop_busy_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part.

    Attributes:
        title: In tables and figures.
        run: Does the work; raises CannotRunError.
        networks: That it can do the work over.
        most_rounds: That are worth timing; fewer for those whose rounds take seconds.
        most_turns: The same of turns.
        most_agents: That this machine can bear, where each is several processes.
        versions: Of what it consists of; raises CannotRunError where it cannot be installed.
    """

    title: str
    run: Callable[[Work], Figures]
    networks: tuple[Network, ...] = ("loopback",)
    most_rounds: int = 1000
    most_turns: int = 1000
    most_agents: int = 1000
    versions: Callable[[], dict[str, str]] = dict
