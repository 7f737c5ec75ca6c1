"""`fl agent`: an agent around a function, from a file or a package."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl_main.agent.cli import find_function
from fl_main.errors import SettingsError
from tests.system.conftest import StartAgent, StartDaemon, StartPython
from tests.system.daemons import ROOT, environment, fl, run_of, until, write_yaml

TRAIN = """
import numpy as np
from fl_main.agent import Evaluation, TrainResult

def initial_weights():
    return {"w": np.zeros(3)}

def train(task):
    print("training", task.round_id, flush=True)
    return TrainResult({"w": task.weights["w"] + 1}, 5)

def broken(task):
    raise ValueError("Smith")

def evaluate(weights):
    return Evaluation({"loss": float(weights["w"].sum())}, 5)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "my_training.py"
    file.write_text(TRAIN)
    return file


def arguments(program: Path, url: str, function: str = "train", name: str = "a") -> list[str]:
    settings = {"run": "r", "url": url, "name": name, "state_folder": str(program.parent / f"state-{name}")}
    file = write_yaml(program.parent / f"{name}.yaml", settings)
    return ["agent", "--settings", str(file), f"{program}:{function}"]


def test_function_in_a_file_trains_until_the_run_ends(start_daemon: StartDaemon, program: Path) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, evaluate={"every": 1}))
    done = fl(*arguments(program, daemon.url), cwd=program.parent)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "the run finished after round 3: 3 rounds are done",
    )
    assert "Traceback" not in done.stderr
    assert [row.evaluate["loss"].value for row in daemon.db().run("r").rounds()[1:]] == [3, 6, 9]


def test_refusal_is_one_line(start_daemon: StartDaemon, program: Path) -> None:
    daemon = start_daemon()
    done = fl(*arguments(program, daemon.url), cwd=program.parent)
    assert (done.returncode, done.stderr) == (
        1,
        "error: there is no run 'r' (runs: none yet); create one: fl run create FILE\n",
    )


def test_error_in_training_keeps_its_traceback_at_home(start_daemon: StartDaemon, program: Path) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}))
    done = fl(*arguments(program, daemon.url, "broken"), cwd=program.parent)
    assert done.returncode == 1
    assert 'raise ValueError("Smith")' in done.stderr
    [event] = until(lambda: daemon.db().run("r").events("task_failed"))
    assert event.details["reason"] == "ValueError at my_training.py:13 in broken"


def test_interrupt_leaves_in_order(
    start_daemon: StartDaemon, start_agent: StartAgent, start_python: StartPython, program: Path
) -> None:
    daemon = start_daemon(run_of())
    agent = start_python("agent.log", "-m", "fl_main", *arguments(program, daemon.url))
    agent.seen("joined run=r")
    agent.signal(signal.SIGINT)
    assert "stopped; the run goes on without this site until it is started again" in agent.ended(130)
    [event] = until(lambda: daemon.db().run("r").events("agent_left"))
    assert event.details["for_good"]


def test_second_process_of_a_name_is_told_to_choose_another(
    start_daemon: StartDaemon, start_python: StartPython, program: Path
) -> None:
    daemon = start_daemon(run_of())
    start_python("agent.log", "-m", "fl_main", *arguments(program, daemon.url)).seen("joined run=r")
    done = fl(*arguments(program, daemon.url), cwd=program.parent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "is in use by another process; give this agent another name or state folder"
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("train", "'train' is not MODULE:FUNCTION"),
        ("no.such.module:train", "no.such.module cannot be imported: No module named 'no'"),
        ("no_such_file.py:train", "there is no file no_such_file.py"),
        ("json:nothing", "json has no function 'nothing'"),
    ],
)
def test_function_that_is_not_there_is_named(path: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SettingsError) as raised:
        find_function(path)
    assert words in str(raised.value)


def test_handlers_are_found_beside_the_function(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    function, handlers = find_function(f"{program}:train")
    assert function.__name__ == "train"
    assert handlers.keys() == {"initial_weights", "evaluate"}
    del sys.modules["my_training"]


def test_help_says_what_the_function_is_given() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fl_main", "agent", "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "train(task) -> TrainResult" in done.stdout
