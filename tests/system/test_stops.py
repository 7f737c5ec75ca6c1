"""Ordered stops: nothing is lost or done twice, agents see a pause, and the process does end."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fl_main.agent import AgentState
from fl_main.aggregator.runs import MAX_FOLDS
from fl_main.db import ModelDB, verify_database
from fl_main.errors import StoreLockedError
from tests.system.agents import AgentThread, assert_equal, first_weights
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import DaemonProcess, run_of, until, write_yaml
from tests.system.locks import locked
from tests.system.test_restart import Gate, models_of

VALUES = 1 << 20


@pytest.fixture
def large(tmp_path: Path) -> dict[str, str]:
    """The settings of first weights of 8 MB, so that transfers and folds take a while."""
    return first_weights(tmp_path, VALUES)


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, Any]:
    """The settings of a strategy that folds for as long as there is no file `gate`."""
    return {"strategy": "tests.system.slow:Slow", "strategy_options": {"folder": str(tmp_path)}}


@pytest.fixture
def undisturbed(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> Callable[[dict[str, Any]], None]:
    """Make the same run without a stop, and compare everything that counts, bit for bit."""

    def compare(run: dict[str, Any]) -> None:
        daemon = start_daemon(run, folder="undisturbed")
        agents = [
            start_agent(daemon.url, number, initial_weights=None, state_folder=tmp_path / f"plain{number}")
            for number in (1, 2)
        ]
        for agent in agents:
            agent.join()
        daemon.stop()
        assert models_of(tmp_path / "models") == models_of(tmp_path / "undisturbed")
        with ModelDB(tmp_path / "models") as db:
            assert [(row.invited, row.accepted) for row in db.run("r").rounds() if row.round_id] == [
                (2, 2)
            ] * run["end"]["rounds"]

    return compare


def folds(folder: Path) -> int:
    file = folder / "folds"
    return len(file.read_text().splitlines()) if file.exists() else 0


def staged(daemon: DaemonProcess) -> list[Path]:
    return list((daemon.models / "models" / ".staging").iterdir())


def again(
    start_process: StartProcess, daemon: DaemonProcess, run: dict[str, Any], **more: Any
) -> DaemonProcess:
    """Start the next daemon in the place of one that ended."""
    before = daemon.text.count("listening url=")
    second = start_process(run, port=daemon.port, **more)
    until(lambda: second.text.count("listening url=") > before, "for the port")
    return second.started()


# --- rolling restarts --------------------------------------------------------------------

MOMENTS = [
    *(AgentState.FETCHING, AgentState.WORKING, AgentState.SENDING, AgentState.WAITING),
    *(AgentState.SENDING, AgentState.FETCHING, AgentState.SENDING, AgentState.WORKING),
]


def wait_for(agent: AgentThread, moment: AgentState, after: int) -> None:
    """Wait until an agent that was given so many tasks comes to a moment."""
    until(lambda: len(agent.trained) > after, f"for task {after}")
    until(lambda: agent.agent.state is moment, f"for {moment}")


def test_daemon_may_be_restarted_again_and_again_whatever_the_agents_do(
    start_process: StartProcess,
    start_agent: StartAgent,
    large: dict[str, str],
    undisturbed: Callable[[dict[str, Any]], None],
) -> None:
    run = run_of(initial=large, end={"rounds": 2 * len(MOMENTS)})
    daemon = start_process(run).started()
    agents = [start_agent(daemon.url, number, initial_weights=None) for number in (1, 2)]
    for number, moment in enumerate(MOMENTS):
        wait_for(agents[number % 2], moment, after=number)
        daemon.signal(signal.SIGTERM)
        daemon.ended()
        daemon = again(start_process, daemon, run)
    finals = [agent.join() for agent in agents]
    daemon.stop()

    for agent in agents:
        assert [round_id for round_id, _ in agent.trained] == list(range(1, 2 * len(MOMENTS) + 1))
    assert_equal(finals[0].weights, finals[1].weights)
    undisturbed(run)


def test_agents_are_told_of_the_stop_and_wait(start_process: StartProcess, start_agent: StartAgent) -> None:
    daemon = start_process(run_of(round={"min_agents": 3})).started()
    agent = start_agent(daemon.url, 1)
    until(lambda: agent.agent.state is AgentState.WAITING)
    daemon.stop(signal.SIGTERM)
    until(lambda: "the aggregator is stopping" in agent.line or "nothing listens" in agent.line)
    assert agent.line.endswith("; trying again")
    assert agent.is_running


OLDER = """
import sys
import fl_main
from fl_main.settings import RunSettings

fl_main.__version__ = "0.0.9"
dump = RunSettings.model_dump
RunSettings.model_dump = lambda self, **options: {
    key: value for key, value in dump(self, **options).items() if key not in ("payload", "best")
}
from fl_main.cli import main

sys.argv = ["fl", "aggregator", "--settings", sys.argv[1]]
main()
"""


def test_run_goes_on_in_a_newer_version_that_knows_more_settings(
    start_process: StartProcess,
    start_python: StartPython,
    start_agent: StartAgent,
    tmp_path: Path,
    unused_tcp_port: int,
    undisturbed: Callable[[dict[str, Any]], None],
    large: dict[str, str],
) -> None:
    run = run_of(initial=large, end={"rounds": 6})
    settings = {
        "listen": {"port": unused_tcp_port},
        "database": {"folder": str(tmp_path / "models")},
        "runs": [str(write_yaml(tmp_path / "old.yaml", run))],
    }
    older = start_python("older.log", "-c", OLDER, write_yaml(tmp_path / "older.yaml", settings))
    older.seen("listening")
    agents = [
        start_agent(f"ws://127.0.0.1:{unused_tcp_port}", number, initial_weights=None) for number in (1, 2)
    ]
    until(lambda: len(agents[0].trained) >= 2)
    older.signal(signal.SIGTERM)
    older.ended()
    newer = start_process(run, port=unused_tcp_port).started()
    for agent in agents:
        assert agent.join().status == "finished"
        assert len(agent.trained) == 6
    assert "goes on with the settings it was created with" not in newer.stop()
    undisturbed(run)


# --- a database that cannot be written ---------------------------------------------------


def test_daemon_ends_in_time_though_its_database_is_locked(
    start_process: StartProcess,
    start_agent: StartAgent,
    large: dict[str, str],
    undisturbed: Callable[[dict[str, Any]], None],
) -> None:
    run = run_of(initial=large)
    daemon = start_process(run, limits={"stop_s": 1.0}).started()
    gates = [Gate(number, 2) for number in (1, 2)]
    agents = [start_agent(daemon.url, n, gate, initial_weights=None) for n, gate in enumerate(gates, 1)]
    for gate in gates:
        assert gate.reached.wait(20)
    with locked(daemon.models):
        for gate in gates:
            gate.open.set()
        until(lambda: agents[0].agent.state is AgentState.SENDING)
        daemon.signal(signal.SIGTERM)
        assert "not everything ended within 1 s" in daemon.ended()
    daemon = again(start_process, daemon, run)
    for agent in agents:
        assert agent.join().status == "finished"
        assert [round_id for round_id, _ in agent.trained] == [1, 2, 3]
    daemon.stop()
    undisturbed(run)


# --- a fold that lasts -------------------------------------------------------------------


def at_the_fold(
    daemon: DaemonProcess, start_agent: StartAgent, folder: Path, number_of: int = 1
) -> list[AgentThread]:
    """Start two agents and wait until their updates are folded."""
    agents = [start_agent(daemon.url, number, initial_weights=None) for number in (1, 2)]
    until(lambda: folds(folder) >= number_of, "for the fold")
    return agents


def test_fold_that_outlasts_the_stop_is_done_again(
    start_process: StartProcess,
    start_agent: StartAgent,
    tmp_path: Path,
    large: dict[str, str],
    slow: dict[str, Any],
    undisturbed: Callable[[dict[str, Any]], None],
) -> None:
    run = run_of(initial=large, **slow)
    daemon = start_process(run, limits={"stop_s": 1.0}).started()
    agents = at_the_fold(daemon, start_agent, tmp_path)
    daemon.signal(signal.SIGTERM)
    log = daemon.ended()  # though a thread would fold for two minutes more
    assert log.count("is done again at the next start") == 1
    assert staged(daemon)
    daemon = again(start_process, daemon, run, limits={"stop_s": 1.0})
    until(lambda: folds(tmp_path) == 2, "for the same fold")
    (tmp_path / "gate").touch()
    for agent in agents:
        assert agent.join().status == "finished"
        assert [round_id for round_id, _ in agent.trained] == [1, 2, 3]
    daemon.stop()
    assert not staged(daemon)
    assert folds(tmp_path) == 4
    undisturbed(run)


def test_fold_that_ends_in_time_is_waited_for(
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    tmp_path: Path,
    large: dict[str, str],
    slow: dict[str, Any],
) -> None:
    daemon = start_daemon(run_of(initial=large, **slow))
    for number in (1, 2):
        start_agent(daemon.url, number, initial_weights=None)
    until(lambda: folds(tmp_path), "for the fold")
    (tmp_path / "gate").touch()
    daemon.stop()
    assert not daemon.aggregator.is_busy
    start_daemon()


def test_database_stays_locked_while_a_fold_of_its_last_daemon_lasts(
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    tmp_path: Path,
    large: dict[str, str],
    slow: dict[str, Any],
) -> None:
    daemon = start_daemon(run_of(initial=large, **slow), limits={"stop_s": 0.5})
    agents = [start_agent(daemon.url, number, initial_weights=None) for number in (1, 2)]
    until(lambda: folds(tmp_path), "for the fold")
    daemon.stop()
    assert daemon.aggregator.is_busy
    with pytest.raises(StoreLockedError):
        start_daemon()
    (tmp_path / "gate").touch()
    until(lambda: not daemon.aggregator.is_busy)
    second = start_daemon(listen={"port": int(daemon.url.rpartition(":")[2])})
    for agent in agents:
        assert agent.join().status == "finished"
    assert folds(tmp_path) == 4
    assert list(verify_database(second.folder)) == []


def test_updates_come_in_and_the_daemon_ends_though_folds_of_many_runs_last(
    start_process: StartProcess,
    start_agent: StartAgent,
    tmp_path: Path,
    large: dict[str, str],
    slow: dict[str, Any],
) -> None:
    runs = [run_of(name=f"slow{number}", initial=large, **slow) for number in range(4)]
    daemon = start_process(*runs, run_of(initial=large), limits={"stop_s": 1.0}).started()
    for run in runs:
        for number in (1, 2):
            start_agent(daemon.url, f"{run['name']}-{number}", run=run["name"], initial_weights=None)
    until(lambda: folds(tmp_path) == MAX_FOLDS, "for as many folds as there are at once")
    for number in (1, 2):
        start_agent(daemon.url, number, initial_weights=None)
    with ModelDB(daemon.models) as db:
        until(lambda: len(db.run("r").updates()) == 2, "for updates that find a thread")
    assert folds(tmp_path) == MAX_FOLDS
    daemon.signal(signal.SIGTERM)
    assert "is done again at the next start" in daemon.ended()


class UnreadLog:
    """A log that goes into a pipe, which is read only when a test says so."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def fill(self) -> None:
        """Let it have no room."""
        with suppress(BlockingIOError):
            while True:
                os.write(self._fd, b"." * 4096)

    def read(self, pattern: str) -> str:
        """Read until something is there."""
        found = b""

        def look() -> bool:
            nonlocal found
            with suppress(BlockingIOError):
                found += os.read(self._fd, 1 << 16)
            return re.search(pattern, found.decode()) is not None

        until(look, f"for {pattern!r}")
        return found.decode()


def test_daemon_whose_log_nobody_reads_makes_its_rounds_and_has_its_last_words(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    log = UnreadLog(tmp_path / "daemon.log")
    daemon = start_process(run_of())
    url = re.findall(r"listening url=(\S+)", log.read("listening url=.* runs=1\n"))[0]
    log.fill()
    for agent in [start_agent(url, number) for number in (1, 2)]:
        agent.join()
    daemon.signal(signal.SIGTERM)
    told = log.read("stopped\n")
    assert re.findall(r"step started run=r round=(\d) agent=- step=train", told) == ["1", "2", "3"]
    assert told.endswith("INFO fl_main.aggregator stopped\n")
    until(lambda: not daemon.is_running, "for its end")
