"""The smallest example: in one call, and as the quick start runs it."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from fl_main.db import ModelDB

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "minimal"
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
FL = [sys.executable, "-u", "-c", "from fl_main.cli import main; main()"]


def test_the_data_are_fishers_150_flowers() -> None:
    with open(EXAMPLE / "iris.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert Counter(row[4] for row in rows) == {"setosa": 50, "versicolor": 50, "virginica": 50}
    # Where the widely copied UCI file differs from the paper.
    assert (rows[34][:4], rows[37][:4]) == (["4.9", "3.1", "1.5", "0.2"], ["4.9", "3.6", "1.4", "0.1"])


def test_one_command_shows_ten_rounds() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "main.py")], env=ENV, capture_output=True, text=True, check=True
    )
    losses = [float(loss) for loss in re.findall(r"^ +\d+ +[\d.]+ +([\d.]+) +[\d.]+$", done.stdout, re.M)]
    assert len(losses) == 10
    assert losses == sorted(losses, reverse=True)
    assert re.search(r"^   10 .* 1\.0000$", done.stdout, re.M)


def test_it_is_what_the_quick_start_trains(tmp_path: Path) -> None:
    env = ENV | {
        "FL_STATE_HOME": str(tmp_path / "state"),
        "FL_RUN_CONFIG": '{"pause_s": 0}',
        "FL_RUN_ROUND__MIN_AGENTS": "2",
    }
    settings = [
        "--settings",
        "setting/aggregator.yaml",
        "--port",
        "0",
        "--database",
        str(tmp_path / "models"),
    ]
    with subprocess.Popen(
        [*FL, "aggregator", *settings], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stderr
        url = next(found[1] for line in daemon.stderr if (found := re.search(r"listening url=(\S+)", line)))
        agent = [*FL, "agent", "--settings", "setting/agent.yaml", "--url", url]
        agents = [
            subprocess.Popen([*agent, "--name", name, "examples/minimal/train.py:train"], cwd=ROOT, env=env)
            for name in ("site-1", "site-2")
        ]
        assert [process.wait() for process in agents] == [0, 0]
        daemon.terminate()
        daemon.communicate()
    with ModelDB(tmp_path / "models") as db:
        run = db.run("quickstart")
        assert [entry.accepted for entry in run.rounds()] == [1] + [2] * 10  # round 0: the first model
        digests = {update.digests["weights"] for update in run.updates(round_id=1) if update.digests}
        assert len(digests) == 2  # each site trained on flowers of its own
        last = run.rounds()[-1].evaluate["accuracy"]
        assert (last.agents, last.num_examples) == (2, 20)
        assert last.value > 0.9
