"""The page's own scripts, by the test runner that Node.js brings."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).with_name("js").glob("*.test.js"))


def test_scripts() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js 18 or newer: sudo apt-get install nodejs")
    done = subprocess.run([node, "--test", *TESTS], capture_output=True, text=True, check=False)
    assert TESTS
    assert done.returncode == 0, done.stdout + done.stderr
