"""Flower's own strategies and functions, asked in the environment that `make flower` makes."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.rounds.flower_grpc import FLOWER, PROGRAMS, environment
from bench.rounds.venvs import DONE

Numbers = NDArray[np.float64]

needs_flower = pytest.mark.skipif(
    not (FLOWER.folder / DONE).exists(),
    reason=f"Flower {FLOWER.version} is not there to compare with: make flower",
)


def flower(name: str, base: Numbers, models: Numbers, counts: list[int], **options: Any) -> Numbers:
    """Return the global models of some rounds as Flower makes them.

    Args:
        name: A strategy of `flwr.server.strategy`, or a function of its `aggregate`.
        base: The model before the first round, shape (d,).
        models: Local models, shape (rounds, n, d).
        counts: Examples of each.
        options: Of the strategy or function.

    Returns:
        Shape (rounds, d).
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(given, base=base, models=models, counts=counts)
        program = [FLOWER.program("python"), PROGRAMS / "flower_strategies.py"]
        done = subprocess.run(
            [*program, given, found, name, json.dumps(options)],
            env=os.environ | environment(Path(folder)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made: Numbers = np.load(found)["models"]
        return made
