"""The demo as a user runs it: five real processes, and what it says when something falls short."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

from fl_main.db import ModelDB

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "breast_cancer"
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
HOSPITALS = {"lakeview", "northgate", "riverside", "st-mary"}
MODULES = ("check", "compare", "data", "main", "model", "prepare", "processes", "watch")


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-u", str(EXAMPLE / "main.py"), *map(str, args)]


def demo(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*args), env=ENV, capture_output=True, text=True)


def digest_in(output: str) -> str:
    found = re.search(r"Final model (blake3:[0-9a-f]{64})", output)
    assert found, output
    return found[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the demo ran, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "demo"
    done = demo("--folder", folder, "--rounds", "4")
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The demo's `main` module, imported as its own folder does."""
    monkeypatch.syspath_prepend(EXAMPLE)
    import main  # type: ignore[import-not-found]

    yield main
    for name in MODULES:
        sys.modules.pop(name, None)


# --- what it shows ----------------------------------------------------------------------------


def test_it_shows_rounds_a_comparison_and_what_to_try_next(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert len(re.findall(r"^ +[1-4] +4/4 +0\.\d{4} +0\.\d{4} +[01]\.\d{4} +\d+ +\d", output, re.M)) == 4
    rows = dict(re.findall(r"^(\S+) +\d+ +([01]\.\d{4}) +\d+\.\d{4}", output, re.M))
    assert rows.keys() == HOSPITALS | {"federated", "pooled"}
    assert float(rows["federated"]) > 0.9
    assert f"fl db rounds --folder {folder / 'models'}" in output


def test_the_database_has_every_round_update_and_measurement(finished: tuple[Path, str]) -> None:
    folder, output = finished
    with ModelDB(folder / "models") as db:
        run = db.run("breast-cancer")
        rounds = run.rounds()
        assert [(entry.round_id, entry.status, entry.accepted) for entry in rounds] == [
            (number, "done", 4) for number in range(5)
        ]
        assert {agent.name for agent in run.agents()} == HOSPITALS
        assert all(entry.evaluate["loss"].agents == 4 for entry in rounds[1:])
        assert run.final is not None
        assert run.final.digest == digest_in(output)


def test_a_hospital_has_only_its_own_records(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    seen: set[bytes] = set()
    for name in HOSPITALS:
        with np.load(folder / "hospitals" / f"{name}.npz") as file:
            rows = {row.tobytes() for key in ("features", "held_out_features") for row in file[key]}
            assert set(file["labels"]) == set(file["held_out_labels"]) == {0.0, 1.0}
        assert not rows & seen
        seen |= rows


def test_the_same_seed_gives_the_same_model_in_a_folder_of_its_own_and_again(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    for _ in range(2):  # the second time over the first
        done = demo("--folder", tmp_path / "demo", "--rounds", "4", "--seed", "0")
        assert done.returncode == 0, done.stderr
        assert digest_in(done.stdout) == digest_in(finished[1])


def test_another_seed_gives_another_model(finished: tuple[Path, str], tmp_path: Path) -> None:
    done = demo("--folder", tmp_path, "--rounds", "4", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert digest_in(done.stdout) != digest_in(finished[1])


def test_run_local_gives_the_same_model_to_the_last_bit(
    finished: tuple[Path, str], example: ModuleType
) -> None:
    hospitals, _ = example.data.split(0)
    local = example.compare.federate_locally(hospitals, 4, 0)
    with ModelDB(finished[0] / "models") as db:
        stored = db.model("breast-cancer:final").weights()
    assert stored.keys() == local.keys()
    assert all(np.array_equal(stored[name], local[name]) for name in stored)


def test_over_ten_splits_it_is_as_good_as_pooled_and_better_than_alone() -> None:
    done = demo("--seeds", "10")
    assert (done.returncode, done.stderr) == (0, "")
    mean = re.search(r"^mean +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.M)
    assert mean
    federated, own, pooled = map(float, mean.groups()[:3])
    assert federated >= pooled - 0.01
    assert federated > own
    assert "run_local" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_it_draws_a_table(tmp_path: Path) -> None:
    ours, its = os.openpty()
    with subprocess.Popen(
        command("--folder", tmp_path, "--rounds", "2"), env=ENV | {"TERM": "xterm"}, stdout=its, stderr=its
    ) as process:
        os.close(its)
        output = b"".join(iter(lambda: read_terminal(ours), b"")).decode()
    os.close(ours)
    assert process.returncode == 0, output
    assert "\x1b[" in output
    assert "federated" in output


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other end is closed
        return b""


# --- what falls short -------------------------------------------------------------------------


def begin(folder: Path) -> "tuple[subprocess.Popen[str], list[psutil.Process]]":
    """Start a long demo; return it and its five processes once its first round is done."""
    process = subprocess.Popen(
        command("--folder", folder, "--rounds", "100000"),
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if re.match(r" +1 +4/4", line):
            return process, psutil.Process(process.pid).children()
    raise AssertionError(process.communicate()[1])


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("name", ["riverside", "aggregator"])
def test_a_killed_process_is_named_and_nothing_is_left_running(name: str, tmp_path: Path) -> None:
    process, children = begin(tmp_path)
    assert len(children) == 5
    sign = f"{name}.npz" if name in HOSPITALS else f"{name}.yaml"
    [victim] = [child for child in children if any(part.endswith(sign) for part in child.cmdline())]
    victim.kill()
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith(f"error: {name} ended with signal SIGKILL; ")
    assert "Traceback" not in errors
    assert all(is_gone(child) for child in children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_at_any_time(number: signal.Signals, tmp_path: Path) -> None:
    process, children = begin(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "\nstopped; nothing is left running\n"
    assert all(is_gone(child) for child in children)
    log = (tmp_path / "logs" / "aggregator.log").read_text()
    assert log.count("reason=the program ended") == 4  # the agents said goodbye
    assert log.splitlines()[-1].endswith(" stopped")


def test_a_port_in_use_is_told_by_the_daemons_own_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = demo("--folder", tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stderr.startswith("error: aggregator ended with exit code 2; the last lines of ")
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").touch()
    done = demo("--folder", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error: {tmp_path} has files that this demo did not make; name another one with --folder"
    ]
    assert (tmp_path / "models" / "mine").exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    process, _ = begin(tmp_path)
    done = demo("--folder", tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert done.returncode == 1
    assert done.stderr.startswith("error: another demo runs in ")


def test_what_is_missing_in_the_database_is_found(
    finished: tuple[Path, str], example: ModuleType, tmp_path: Path
) -> None:
    for change, said in [
        ("DELETE FROM rounds WHERE round_id = 2", "round 2 is not in the database"),
        ("UPDATE rounds SET status = 'failed' WHERE round_id = 4", "round 4 is not in the database"),
        (
            "UPDATE updates SET counted_in = NULL WHERE round_id = 3 AND agent_id ="
            " (SELECT agent_id FROM agents WHERE name = 'riverside')",
            "the update of riverside was not counted in round 3",
        ),
        ("DELETE FROM metrics WHERE round_id = 1", "the model of round 1 was not measured by all agents"),
        ("UPDATE runs SET status = 'stopped', reason = 'by me'", "the run stopped: by me"),
    ]:
        copy = tmp_path / said.replace(" ", "-")
        shutil.copytree(finished[0] / "models", copy)
        connection = sqlite3.connect(copy / "fl.db")
        connection.execute(change)
        connection.commit()
        connection.close()
        with ModelDB(copy) as db, pytest.raises(example.DemoError, match=said):
            example.check_database(db, rounds=4, agents=4)
