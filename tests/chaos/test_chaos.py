"""The short form of `make chaos-real`, and proof that its checks can fail."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from fl_main.db import ModelDB
from tests.chaos.checks import Checks
from tests.chaos.driver import finish
from tests.chaos.options import Options
from tests.chaos.scene import Scene
from tests.chaos.story import Story
from tests.system.daemons import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, watches by inotify")


@pytest.mark.timeout(120)  # some twenty seconds, but for a busy machine
def test_nothing_is_lost_where_daemons_and_sites_are_killed(tmp_path: Path) -> None:
    options = "--seed 8 --kills 10 --seconds 10 --pace 0.1 --sites 2 --rounds 8 --large-mb 0.5 --disk-mb 64"
    for fault in ("kill_daemon", "kill_site", "stop_daemon", "cut", "cut_in_transfer", "fill_states"):
        options += f" --only {fault}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *options.split(), "--folder", tmp_path / "chaos"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout


def test_checks_find_what_was_lost_doubled_or_altered(tmp_path: Path) -> None:
    options = Options(
        1, kills=0, seconds=0, pace_s=1, sites=2, rounds=3, large_mb=0, disk_mb=16, folder=tmp_path
    )
    with Scene(options, Story(tmp_path / "story.txt"), random.Random(1)) as scene:
        scene.look(may_begin=True)
        finish(scene)
        assert scene.story.problems == []
        _tamper(scene)
        Checks(scene).run()
        problems = "\n".join(scene.story.problems)
    assert "no record names it" in problems
    assert "left-over is left in models/.staging" in problems
    assert "is not what its digest says" in problems
    assert "is not the mean of its updates" in problems
    assert "site1: the accepted update of task lost is lost" in problems
    assert "site1: task kept was trained again though its update was whole" in problems
    assert "site2: the accepted update of task" in problems
    assert "is stored with other arrays" in problems
    assert "site2: its outbox still has ['unsent.json']" in problems


def _tamper(scene: Scene) -> None:
    models = scene.database / "models"
    (models / ".staging" / "left-over").touch()
    (models / "unknown").touch()
    first, second = scene.runs()[0].sites
    first.journal.note("trained", task_id="lost", fingerprint="")
    first.journal.note("answered", task_id="lost", verdict="accepted")
    first.journal.note("killed", kept=["kept"])
    first.journal.note("training", task_id="kept", round_id=1)
    answered = next(fact for fact in second.journal.facts() if fact["fact"] == "answered")
    second.journal.note("trained", task_id=answered["task_id"], fingerprint="another")
    second.journal.note(**answered)
    (second.folder / "outbox" / "unsent.json").touch()
    _alter(_global_model(scene))


def _global_model(scene: Scene) -> Path:
    with ModelDB(scene.database) as db:
        return db.run(scene.runs()[0].name).models("global", round_id=2)[0].path


def _alter(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
