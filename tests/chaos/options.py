"""How a run of the chaos is set up."""

from dataclasses import dataclass
from pathlib import Path

from tests.chaos.lanes import Shape


@dataclass(frozen=True, slots=True)
class Options:
    """What `python -m tests.chaos` was told.

    Attributes:
        seed: Of everything that happens by chance; the machine's timing is not part of it.
        kills: Processes to kill before the runs may come to their end.
        seconds: After which they may, even if it were fewer.
        pace_s: Between two faults, on average.
        sites: Of each run.
        rounds: Of a run with a small model.
        large_mb: Size of the other model; 0 for small ones only.
        disk_mb: Room on the daemon's disk when a run begins; must hold the models of one run.
        folder: For everything; kept if something is wrong.
        only: Names of the faults to make; none for all.
    """

    seed: int
    kills: int
    seconds: float
    pace_s: float
    sites: int
    rounds: int
    large_mb: float
    disk_mb: int
    folder: Path
    only: tuple[str, ...] = ()

    @property
    def shapes(self) -> list[Shape]:
        """Small models in many rounds, and large ones whose transfers take a while."""
        small = Shape("small", 1000, self.rounds, 0.2, None, evaluate_every=5)
        if not self.large_mb:
            return [small]
        values = int(self.large_mb * 1e6 / 4)
        rounds = max(2, self.rounds // 5)
        return [small, Shape("large", values, rounds, 0.2, 2.5e6 * self.large_mb, evaluate_every=0)]
