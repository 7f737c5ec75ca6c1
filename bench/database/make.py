"""A model database of any size, whole, and quickly made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.database.fleet import Fleet, Plan
from fl_main.db import ModelStore

STARTED_AT = 1767225600.0  # 2026-01-01 00:00 UTC
BETWEEN_S = 3600.0  # between the beginnings of two runs
OPEN_PART = 0.1  # of the runs are left in the middle of a round
MODES = ("sync", "sync", "sync", "semi-sync", "async")  # in turns


@dataclass(frozen=True, slots=True)
class Shape:
    """How large it is.

    Attributes:
        rounds: Of each run.
        agents: Of each run; almost all of them answer in each round.
        values: Numbers in each model.
    """

    runs: int = 100
    rounds: int = 10
    agents: int = 103
    values: int = 64

    def plans(self) -> list[Plan]:
        """Return what each run is to look like; the last ones are left open."""
        first_open = self.runs - round(OPEN_PART * self.runs)
        return [
            Plan(
                f"run-{number:03}",
                MODES[number % len(MODES)],
                self.rounds,
                self.agents,
                self.values,
                STARTED_AT + BETWEEN_S * number,
                number,
                is_left_open=number >= first_open,
            )
            for number in range(self.runs)
        ]


def make(folder: Path, shape: Shape, told: Callable[[int], None] = lambda done: None) -> None:
    """Make a database.

    Args:
        folder: Must not be there, or be empty.
        told: Hears how many runs are done.
    """
    with ModelStore(folder) as store:
        for done, plan in enumerate(shape.plans(), 1):
            Fleet(plan, store).train()
            told(done)
