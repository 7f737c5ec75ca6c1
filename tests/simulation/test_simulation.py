"""The whole system in virtual time keeps its promises, and the simulation sees when it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import play
from tests.simulation.bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]

# Seeds that found mistakes of ours, each of another kind, and some that never did.
PINNED = [1, 2, 5, 16, 17, 21, 37, 50, 69, 104, 228, 252, 267, 279, 294, 455, 20975, 32199, 1795229459314]

# Bugs that a few seeds find; docs/faults.md tells of all of them.
FOUND_SOON = ["ack-before-commit", "counted-said-once", "leaking-budget", "lost-fence"]


@pytest.mark.parametrize("seed", PINNED)
def test_promises_are_kept(seed: int) -> None:
    result = play(seed)
    assert result.violations == [], "\n".join(result.story[-60:])


@pytest.mark.parametrize("bug", FOUND_SOON)
def test_planted_bug_is_found(bug: str) -> None:
    assert any(play(seed, bug).violations for seed in range(1, 101))


def test_every_planted_bug_says_what_it_is() -> None:
    assert all(plant.__doc__ for plant in BUGS.values())


def test_seed_replays_exactly() -> None:
    stories = set()
    for hash_seed in ("1", "2"):  # the order of sets must not matter
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "50"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.add(told.stdout)
    assert len(stories) == 1
