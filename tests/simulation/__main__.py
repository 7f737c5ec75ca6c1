"""`python -m tests.simulation FIRST:COUNT`: simulate seeds, and tell the story of those that fail."""

import math
import re
import sys
import time
from argparse import ArgumentParser
from collections import Counter, deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .bugs import BUGS, planted
from .invariants import violations
from .scenario import Faults, draw_faults, draw_scenario
from .world import Ended, scratch, simulate


@dataclass(slots=True)
class Result:
    """What came of a seed.

    Attributes:
        violations: Promises that were broken.
        faults: How often each kind of fault struck.
    """

    seed: int
    violations: list[str]
    faults: dict[str, int]
    seconds: float
    story: list[str] = field(default_factory=list)


def play(seed: int, bug: str = "") -> Result:
    """Simulate a seed, with a planted bug or without, and hold it against the invariants."""
    scenario = draw_scenario(seed)
    with scratch() as folder:
        ended = _simulated(seed, Path(folder), bug)
        undisturbed = None
        if scenario.is_strict and not {"stop", "rollback"} & ended.faults_seen.keys():
            undisturbed = simulate(scenario, Faults(), Path(folder) / "undisturbed")
        found = violations(ended, undisturbed)
    return Result(seed, found, ended.faults_seen, ended.seconds, ended.story)


def _simulated(seed: int, folder: Path, bug: str) -> Ended:
    scenario = draw_scenario(seed)
    with planted(bug):
        return simulate(scenario, draw_faults(scenario), folder / "disturbed")


def main() -> int:
    """Simulate what the command line says; the exit code says whether all seeds passed."""
    parser = ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="FIRST:COUNT, or one seed, whose story is told")
    parser.add_argument("--bug", default="", choices=["", *BUGS, "all"], help="plant a bug, and look for it")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no seed after so many seconds")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.seeds.isdecimal():
        return _tell(play(int(given.seeds), given.bug))
    if not (found := re.fullmatch(r"(\d+):([1-9]\d*)", given.seeds)):
        parser.error(f"{given.seeds!r} is not FIRST:COUNT, e.g. 1:100, nor one seed")
    seeds = range(int(found[1]), int(found[1]) + int(found[2]))
    if given.bug == "all":
        return _hunt(seeds, given.processes)
    return _search(seeds, given.bug, given.seconds, given.processes)


def _tell(result: Result) -> int:
    print("\n".join(result.story))
    print(f"seed {result.seed}: {result.seconds:.0f} virtual seconds, {result.faults}")
    for violation in result.violations:
        print(f"BROKEN: {violation}")
    return 1 if result.violations else 0


def _search(seeds: range, bug: str, seconds: float, processes: int) -> int:
    """Simulate seeds, and say which failed; with a planted bug, until one does."""
    begun, faults, failed, done = time.monotonic(), Counter[str](), [], 0
    for result in _played(seeds, bug, begun + seconds, processes):
        done += 1
        faults.update(result.faults)
        if result.violations:
            failed.append(result.seed)
            print(f"seed {result.seed}: {result.violations[0]}", flush=True)
            if bug:
                break
    spent = time.monotonic() - begun
    struck = ", ".join(f"{number} × {kind}" for kind, number in sorted(faults.items()))
    print(f"{done} seeds from {seeds.start} on, {len(failed)} failed, {spent:.0f} s; {struck}")
    if failed:
        print(f"its story: make chaos SEEDS={failed[0]}" + (f" BUG={bug}" if bug else ""))
    return 1 if failed else 0


def _hunt(seeds: range, processes: int) -> int:
    """Plant each bug in turn, and look for it; the exit code says whether all were found."""
    missed = 0
    for bug in BUGS:
        played = _played(seeds, bug, math.inf, processes)
        found = next((result for result in played if result.violations), None)
        played.close()
        if found is None:
            print(f"{bug:<26} is not found by {len(seeds)} seeds", flush=True)
            missed += 1
        else:
            print(f"{bug:<26} is found by seed {found.seed}: {found.violations[0][:100]}", flush=True)
    return 1 if missed else 0


def _played(seeds: range, bug: str, end: float, processes: int) -> Generator[Result, None, None]:
    """Yield what came of the seeds, in their order; begin none after a time."""
    with ProcessPoolExecutor(processes) as pool:
        jobs: deque[Future[Result]] = deque()
        waiting = iter(seeds)
        try:
            while True:
                while len(jobs) < 4 * processes and time.monotonic() < end:
                    if (seed := next(waiting, None)) is None:
                        break
                    jobs.append(pool.submit(play, seed, bug))
                if not jobs:
                    return
                yield jobs.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
