"""How a soak is set up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = "soak"


@dataclass(frozen=True, slots=True)
class Options:
    """What `python -m bench.soak` was told.

    Attributes:
        agents: That take part at any time.
        minutes: From the first dial to the end of the run.
        rounds: That must be done until then, or soon after on a slow machine.
        megabytes: Of the model.
        mode: Of the run.
        poll: Part of the agents that poll instead of staying connected.
        churn: Agents that leave, are cut off or crash, per minute.
        pause_s: That an agent takes for a task, on average.
        every_s: Between two measurements.
        seed: Of what happens by chance; the machine's timing is not part of it.
        folder: For everything.
    """

    agents: int
    minutes: float
    rounds: int
    megabytes: float
    mode: str
    poll: float
    churn: float
    pause_s: float
    every_s: float
    seed: int
    folder: Path

    def settings(self) -> dict[str, Any]:
        """Return the daemon's settings: the updates of one round stay, so that the disk does not fill."""
        return {
            "database": {"retention": {"keep": "rounds", "rounds": 1}},
            "limits": {"agents": 2 * self.agents + 10},
        }

    def run(self) -> dict[str, Any]:
        """Return the run's settings: it goes on until it is stopped, whoever is away at the moment."""
        most, half, few = (max(1, int(part * self.agents)) for part in (0.8, 0.5, 0.05))
        rounds: dict[str, dict[str, Any]] = {
            "sync": {"min_updates": half, "quorum": 0.95},
            "semi-sync": {"min_updates": few, "buffer": half},
            "async": {"min_updates": few, "buffer": few},
        }
        return {
            "name": RUN,
            "mode": self.mode,
            "seed": self.seed,
            "evaluate": {"every": 0},
            "end": {"rounds": 10**6},
            "round": {"min_agents": most, "rejoin_s": 5.0, "deadline_s": 120.0, **rounds[self.mode]},
        }
