"""What single runs come to: medians, and medians of ratios within a turn, since machines drift."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from bench.rounds.record import Run


class Size(NamedTuple):
    """What a run is about; sizes are ordered as in tables."""

    megabytes: float
    agents: int

    def __str__(self) -> str:
        return f"{self.megabytes:g} × {self.agents}"


def size_of(run: Run) -> Size:
    """Return the size of a run."""
    return Size(run.megabytes, run.agents)


def chosen(runs: Iterable[Run], contestant: str, size: Size, network: str) -> list[Run]:
    """Return the runs of a contestant that have figures."""
    wanted = (contestant, size, network)
    return [run for run in runs if (run.contestant, size_of(run), run.network) == wanted and not run.problem]


def round_s(runs: Sequence[Run], contestant: str, size: Size, network: str) -> float | None:
    """Return the median of the seconds a round took, over all turns."""
    found = [run.round_s for run in chosen(runs, contestant, size, network)]
    return median(found) if found else None


def peak_mib(runs: Sequence[Run], contestant: str, size: Size, network: str) -> float | None:
    """Return the most memory in any turn."""
    return max((run.peak_mib for run in chosen(runs, contestant, size, network)), default=None)


def agent_peak_mib(runs: Sequence[Run], contestant: str, size: Size, network: str) -> float | None:
    """Return the most memory of an agent in any turn."""
    found = (run.agent_peak_mib for run in chosen(runs, contestant, size, network))
    return max((mib for mib in found if mib is not None), default=None)


def loop_ms(runs: Sequence[Run], contestant: str, size: Size, network: str) -> tuple[float, float] | None:
    """Return how late the loop woke, and how long it was busy, at worst: the medians over the turns."""
    found = [
        (run.loop_late_ms, run.loop_busy_ms)
        for run in chosen(runs, contestant, size, network)
        if run.loop_late_ms is not None and run.loop_busy_ms is not None
    ]
    return (median(late for late, _ in found), median(busy for _, busy in found)) if found else None


def cpu_s_per_mb(runs: Sequence[Run], contestant: str, size: Size, network: str) -> float | None:
    """Return the median of the processor time for each MB of update."""
    found = [run.cpu_s_per_mb for run in chosen(runs, contestant, size, network)]
    known = [seconds for seconds in found if seconds is not None]
    return median(known) if known else None


def ratio(runs: Sequence[Run], above: str, below: str, size: Size, network: str) -> float | None:
    """Return how many times as long a round of one contestant takes as one of another.

    It is the median, over the turns in which both ran, of the ratio within the turn.
    """
    seconds = {run.repeat: run.round_s for run in chosen(runs, below, size, network)}
    ratios = [
        run.round_s / seconds[run.repeat]
        for run in chosen(runs, above, size, network)
        if run.repeat in seconds
    ]
    return median(ratios) if ratios else None
