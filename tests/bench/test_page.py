"""Programs that write pages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("program", ["bench.strategies", "bench.attacks", "bench.codecs"])
def test_who_only_trains_needs_nothing_that_measures_processes(program: str) -> None:
    """`make strategies` and its like install less than `make test`, in a fresh clone."""
    without = f"import sys; sys.modules['psutil'] = None; import {program}.__main__"
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
