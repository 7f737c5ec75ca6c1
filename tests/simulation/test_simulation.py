"""The whole system in virtual time keeps its promises, and the simulation sees when it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import play
from tests.simulation.bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]

# Seeds that found mistakes of ours, each of another kind.
FOUND_MISTAKES = [62, 67, 78, 5339]

# Of each mode with agents that stay and that poll, with many faults and with few; and crowds.
QUARANTINES = [13, 120, 175, 629]
ROLLED_BACK = [
    9,
    1019,
    1124,
]  # the last two are opened again after they were finished, and the daemon restarted
CORRECTED = [22, 46, 55, 86]  # strategies whose agents keep a part of them, and many kills
SYNC, SEMI_SYNC, ASYNC, CROWDS = [6, 19, 23, 33], [3, 14, 48, 50], [1, 2, 15, 24, 28, 32, 58], [95, 449]
PINNED = [*FOUND_MISTAKES, *SYNC, *SEMI_SYNC, *ASYNC, *CROWDS, *QUARANTINES, *CORRECTED, *ROLLED_BACK]

# Bugs that a few seeds find; docs/faults.md tells of all of them.
FOUND_SOON = [
    "leaking-budget",
    "lost-fence",
    "staleness-off-by-one",
    "late-counted-twice",
    "too-many-at-work",
    "forgotten-between-visits",
    "given-up-too-soon",
    "kept-before-counted",
    "kept-though-undone",
]


@pytest.mark.timeout(300)  # a crowd takes most of a minute where nothing else computes
@pytest.mark.parametrize("seed", PINNED)
def test_promises_are_kept(seed: int) -> None:
    result = play(seed)
    assert result.violations == [], "\n".join(result.story[-60:])


@pytest.mark.parametrize("bug", FOUND_SOON)
def test_planted_bug_is_found(bug: str) -> None:
    assert any(play(seed, bug).violations for seed in range(1, 101))


def test_every_planted_bug_says_what_it_is() -> None:
    assert all(plant.__doc__ for plant in BUGS.values())


@pytest.mark.parametrize("seed", [19, 14, 2, 24, 95])  # sync, semi-sync and async; with polls; a crowd
def test_seed_replays_exactly(seed: int) -> None:
    stories = set()
    for hash_seed in ("1", "2"):  # the order of sets must not matter
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", str(seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.add(told.stdout)
    assert len(stories) == 1
