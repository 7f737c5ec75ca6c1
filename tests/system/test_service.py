"""The daemon as a service: what systemd hears of a real process, and the unit files."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fl_main.db import Fault, ModelDB, verify_database
from fl_main.settings.files import load_aggregator
from fl_main.weights import Layout, pack
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import ROOT, environment, run_of, until
from tests.system.manager import Manager, is_pulse, status

UNITS = ("fl-aggregator.service", "fl-agent@.service")
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager that every process of the test finds in its environment."""
    with closing(Manager(str(tmp_path / "notify"), WATCHDOG_USEC="100000")) as manager:
        for name, value in manager.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield manager


def anything(datagram: str) -> bool:
    return True


# --- what systemd hears ------------------------------------------------------------------


def test_service_is_ready_once_its_port_is_open(
    manager: Manager, start_process: StartProcess, tmp_path: Path, unused_tcp_port: int
) -> None:
    initial, weights = tmp_path / "initial.safetensors", {"w": np.zeros(3)}
    os.mkfifo(initial)  # so that the start lasts until the test has looked
    daemon = start_process(run_of(initial={"file": str(initial)}), port=unused_tcp_port)
    with open(initial, "wb") as pipe:  # waits until the daemon reads
        assert manager.drain() == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", unused_tcp_port)).close()
        layout = Layout.of(weights)
        pipe.write(layout.header + bytes(pack(weights, layout)))
    assert manager.hear(anything).startswith("READY=1\nSTATUS=0 agents, 1 of 1 runs under way; r: 0 of 3")
    socket.create_connection(("127.0.0.1", unused_tcp_port)).close()
    daemon.started().stop()


def test_service_that_works_is_alive_and_says_when_it_stops(
    manager: Manager, start_process: StartProcess, start_agent: StartAgent
) -> None:
    daemon = start_process(run_of(end={"rounds": 50}), limits={"stop_s": 5.0}).started()
    agents = [start_agent(daemon.url, number) for number in (1, 2)]
    manager.hear(status("2 agents, 1 of 1 runs under way; r: "))
    manager.hear(is_pulse)
    for agent in agents:
        assert agent.join().status == "finished"
    manager.hear(status("0 of 1 runs under way"))
    manager.hear(is_pulse)
    daemon.signal(signal.SIGTERM)
    last = manager.hear(lambda datagram: "STOPPING=1" in datagram)
    assert last.splitlines()[1:3] == ["STATUS=stopping", "EXTEND_TIMEOUT_USEC=15000000"]
    daemon.ended()
    assert manager.drain() == []


def test_service_that_cannot_start_is_never_ready(manager: Manager, start_process: StartProcess) -> None:
    first = start_process(run_of()).started()
    manager.hear(anything)
    second = start_process(port=first.port, database={"folder": str(first.folder / "other")})
    second.ended(2)
    first.stop()
    assert not [datagram for datagram in manager.drain() if "READY=1" in datagram]


# --- as the documentation says -----------------------------------------------------------


def commands(heading: str) -> list[str]:
    """The commands below a heading of docs/operating.md."""
    text = (ROOT / "docs" / "operating.md").read_text().partition(f"\n## {heading}\n")[2]
    return re.findall(r"^\$ (.*)$", text.partition("\n## ")[0], re.M)


def shell(command: str, cwd: Path) -> None:
    command = re.sub(r"\bpython3\b", sys.executable, command)
    subprocess.run(["bash", "-ec", command], cwd=cwd, env=environment(), timeout=30, check=True)


def test_service_starts_with_what_the_documentation_installs(
    manager: Manager, start_python: StartPython, tmp_path: Path, unused_tcp_port: int
) -> None:
    [settings] = [line for line in commands("As a service of systemd") if " -t /etc/fl_main " in line]
    shell(settings.replace("sudo ", "").replace("/etc/", f"{tmp_path}/etc/"), ROOT)
    [command] = re.findall(r"^ExecStart=(.*)$", (ROOT / "setting" / UNITS[0]).read_text(), re.M)
    program, *args = command.replace("/etc/", f"{tmp_path}/etc/").split()
    assert program == "/opt/fl_main/bin/fl"
    database = {"FL_AGGREGATOR_DATABASE__FOLDER": str(tmp_path / "models")}  # the unit's working directory
    port = {"FL_AGGREGATOR_LISTEN__PORT": str(unused_tcp_port)}
    daemon = start_python("service.log", "-m", "fl_main", *args, **database, **port)
    assert manager.hear(anything).startswith("READY=1\nSTATUS=0 agents, 1 of 1 runs under way; quickstart: ")
    daemon.signal(signal.SIGTERM)
    daemon.ended()


def test_backup_that_was_made_while_the_daemon_works_is_a_whole_database(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 500}))
    agents = [start_agent(daemon.url, number) for number in (1, 2)]
    until(lambda: daemon.host().run.rounds_done > 3)
    *copying, verifying = commands("Backup")
    for command in copying:
        shell(command, tmp_path)
    assert verifying == "fl db verify --folder backup"
    faults = {damage.fault for damage in verify_database(tmp_path / "backup")}
    assert faults <= {Fault.FILE_UNKNOWN}  # models that came while the files were copied
    assert daemon.host().run.status == "running"
    for agent in agents:
        agent.close()
    daemon.stop()

    with ModelDB(tmp_path / "backup") as db:
        rounds_done = db.run("r").facts.rounds_done
        assert rounds_done > 3
    restored = start_daemon(folder="backup")
    for number in (1, 2):
        start_agent(restored.url, number)
    until(lambda: restored.host().run.rounds_done > rounds_done + 3)
    restored.stop()
    assert verify_database(tmp_path / "backup") == []


# --- the unit files ----------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the unit files, as if their programs were installed."""
    program = tmp_path / "bin" / "fl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = (ROOT / "setting" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/fl_main/bin/fl", str(program)))
    return tmp_path


def analyze(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *map(str, args)], capture_output=True, text=True, timeout=30, check=False
    )


@needs_systemd
@pytest.mark.parametrize("with_token", [False, True], ids=["as it stands", "with its token"])
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault_with_a_unit(name: str, with_token: bool, installed: Path) -> None:
    unit = installed / name
    if with_token:
        text = unit.read_text()
        assert text.count("\n#LoadCredential=") == text.count("\n#Environment=") == 1
        unit.write_text(re.sub(r"\n#(LoadCredential|Environment)=", r"\n\1=", text))
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("name", "exposure"), [(UNITS[0], 2.0), (UNITS[1], 5.0)])
def test_unit_is_hardened(name: str, exposure: float, installed: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={round(10 * exposure)}", installed / name)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert done.returncode == 0, done.stdout


def test_unit_and_settings_belong_together() -> None:
    unit = (ROOT / "setting" / "fl-aggregator.service").read_text()
    settings = load_aggregator(ROOT / "setting" / "aggregator.yaml")
    [timeout_s] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    [watchdog_s] = re.findall(r"^WatchdogSec=(\d+)$", unit, re.M)
    [files] = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.M)
    assert int(timeout_s) >= settings.limits.stop_s + 10
    assert int(watchdog_s) >= 2 * 10  # SQLite waits 10 s for a lock
    assert int(files) >= 2 * settings.limits.agents + 1000
    assert settings.database.folder == Path("models")  # in the unit's working directory
