"""The short form of `make soak`, and proof that its verdict can be a bad one."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from bench.soak.gauge import Sample
from bench.soak.verdict import Finding, judged
from tests.system.daemons import ROOT, environment

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors, raises their limit"),
    pytest.mark.timeout(300),  # a loaded machine
]


def soak(folder: Path, *options: str) -> str:
    """Run a short soak to a good end, and return what it printed."""
    command = [sys.executable, "-m", "bench.soak", "--folder", str(folder), "--every", "1", *options]
    short = ["--minutes", "0.1", "--rounds", "3", "--megabytes", "0.1", "--pause", "0.1", "--churn", "300"]
    done = subprocess.run(
        [*command, *short], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("mode", ["sync", "semi-sync", "async"])
def test_agents_come_and_go_and_every_update_counts_once(mode: str, tmp_path: Path) -> None:
    assert "everything held" in soak(tmp_path, "--agents", "40", "--mode", mode, "--poll", "0.2")


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    soak(tmp_path, "--agents", "10")
    log, models = (tmp_path / "daemon.log").read_text("utf-8"), tmp_path / "models"
    assert bad(judged([], [], log, models, set())) == []
    count_one_twice(models / "fl.db")
    log += "2026-01-01T00:00:00 ERROR asyncio Task was destroyed but it is pending!\n"
    found = "\n".join(bad(judged(leaking(), ["site 1 failed"], log, models, {"unheard-of"})))
    assert "rss_mib: 285.0 on average, +94.7% by its trend, allowed are + 10%" in found
    assert "rounds_per_min" in found
    assert "descriptors" not in found
    assert "1 problems of agents\n    site 1 failed" in found
    assert "1 errors in the daemon's log" in found
    assert "damages found by fl db verify" in found
    assert "1 of them twice" in found
    assert "1 acknowledged to their agents, 1 of them lost\n    unheard-of" in found


def bad(findings: Iterable[Finding]) -> list[str]:
    return [words for words, is_well in findings if not is_well]


def leaking() -> list[Sample]:
    """A daemon that takes ever more memory and becomes slower, with a steady number of descriptors."""
    return [
        Sample(
            elapsed_s=s,
            rounds=s,
            connected=10,
            rss_mib=60.0 + s * 0.3,
            descriptors=30 + s // 10 % 2,
            threads=8,
            cpu_s=1.0,
            rounds_per_min=60.0 - s * 0.04,
            database_mib=1.0,
            crowd_mib=1.0,
            updates=s,
            answer_ms=1.0,
        )
        for s in range(0, 1210, 10)
    ]


def count_one_twice(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = "SELECT rowid, frozen FROM steps WHERE kind = 'train' AND status = 'done'"
        [(_, first), (second_id, second), *_] = connection.execute(rows).fetchall()
        frozen = json.dumps([*json.loads(second), json.loads(first)[0]])
        connection.execute("UPDATE steps SET frozen = ? WHERE rowid = ?", [frozen, second_id])
