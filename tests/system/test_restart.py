"""The daemon or an agent ends at the wrong moment: the run goes on, and comes to the same model."""

import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from fl_main.agent import Task, TrainResult
from fl_main.db import ModelDB
from fl_main.errors import RefusedError
from tests.system.agents import AgentThread, assert_equal, history, identity, site
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import Process, run_of, until


class Gate:
    """Training that waits in one round until the test lets it go on."""

    def __init__(self, number: int, round_id: int) -> None:
        self.reached, self.open = Event(), Event()
        self._train = site(number)
        self._round_id = round_id

    def __call__(self, task: Task) -> TrainResult:
        if task.round_id == self._round_id:
            self.reached.set()
            assert self.open.wait(30)
        return self._train(task)


@pytest.fixture
def undisturbed(start_daemon: StartDaemon, start_agent: StartAgent) -> Callable[..., AgentThread]:
    def run(**changes: object) -> AgentThread:
        daemon = start_daemon(run_of(**changes), folder="undisturbed")
        agents = [
            start_agent(daemon.url, number, state_folder=daemon.folder / f"state{number}")
            for number in (1, 2)
        ]
        for agent in agents:
            agent.join()
        return agents[0]

    return run


AGENT = """
import sys
from pathlib import Path
from fl_main.agent import Agent
from fl_main.console import configure_logging
from tests.system.agents import initial, site
from tests.system.daemons import until

url, number, folder, rounds = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
configure_logging()
with Agent(url, "r", f"site{number}", initial_weights=initial, state_folder=folder) as agent:
    for task in agent.tasks():
        print("training", task.round_id, task.task_id, flush=True)
        if str(task.round_id) in rounds:
            until((folder / "gate").exists, patience_s=60)
        result = site(number)(task)
        task.submit(result.weights, result.num_examples, result.metrics)
        print("submitted", task.round_id, flush=True)
print("ended", agent.final.status, flush=True)
"""


@pytest.fixture
def start_program(tmp_path: Path, start_python: StartPython) -> Callable[..., Process]:
    """Start an agent in a process; it waits in the given rounds until its folder has a `gate`."""

    def start(url: str, number: int, log: str, rounds: str = "") -> Process:
        folder = identity(tmp_path / f"program{number}", f"site{number}")
        return start_python(log, "-c", AGENT, url, str(number), folder, rounds)

    return start


def models_of(folder: Path) -> list[str]:
    with ModelDB(folder) as db:
        return [str(row) for row in history(db.run("r"))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_run_goes_on_after_a_restart_of_the_daemon(
    number: signal.Signals,
    start_process: StartProcess,
    start_agent: StartAgent,
    undisturbed: Callable[..., AgentThread],
    tmp_path: Path,
) -> None:
    run = run_of(end={"rounds": 4})
    first = start_process(run).started()
    gates = [Gate(1, 2), Gate(2, 2)]
    agents = [start_agent(first.url, n, gate) for n, gate in enumerate(gates, 1)]
    for gate in gates:
        assert gate.reached.wait(20)
    if number is signal.SIGKILL:
        first.kill()
    else:
        first.stop(number)
    gates[0].open.set()  # one update is ready before the daemon is back, the other one after
    second = start_process(run, port=first.port).started()
    gates[1].open.set()
    finals = [agent.join() for agent in agents]
    second.stop()

    assert [[round_id for round_id, _ in agent.trained] for agent in agents] == [[1, 2, 3, 4]] * 2
    expected = undisturbed(end={"rounds": 4}).join()
    for final in finals:
        assert_equal(final.weights, expected.weights)
    assert models_of(tmp_path / "models") == models_of(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "strategy",
    [
        "fedavg",
        [
            {"norm_bound": {"bound": 20.0}},
            "fedavg",
            {"fedadam": {"bias_correction": "adam"}},
            {"noise": {"std": 0.1, "seed": 5}},
        ],
    ],
    ids=["fedavg", "steps with state"],
)
def test_daemon_may_be_killed_again_and_again(
    strategy: Any,
    start_process: StartProcess,
    start_agent: StartAgent,
    undisturbed: Callable[..., AgentThread],
    tmp_path: Path,
) -> None:
    run = run_of(end={"rounds": 8}, strategy=strategy)
    daemon = start_process(run).started()
    agents = [start_agent(daemon.url, number) for number in (1, 2)]
    for after in (2, 4):
        until(lambda after=after: len(agents[0].trained) >= after)  # type: ignore[misc]
        daemon.kill()
        daemon = start_process(run, port=daemon.port).started()
    finals = [agent.join() for agent in agents]
    daemon.stop()

    expected = undisturbed(end={"rounds": 8}, strategy=strategy).join()
    for final in finals:
        assert_equal(final.weights, expected.weights)
    assert models_of(tmp_path / "models") == models_of(tmp_path / "undisturbed")


def test_agent_that_is_killed_while_training_gets_the_same_task_again(
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    start_program: Callable[..., Process],
    undisturbed: Callable[..., AgentThread],
    tmp_path: Path,
) -> None:
    daemon = start_daemon(run_of())
    other = start_agent(daemon.url, 2)
    first = start_program(daemon.url, 1, "first.log", "2")
    task_id = first.seen(r"training 2 (\S+)")[1]
    first.kill()
    (tmp_path / "program1" / "gate").touch()
    second = start_program(daemon.url, 1, "second.log")
    assert second.seen(r"training 2 (\S+)")[1] == task_id
    second.ended()
    assert_equal(other.join().weights, undisturbed().join().weights)
    assert models_of(daemon.folder) == models_of(tmp_path / "undisturbed")


def test_agent_that_is_killed_with_an_unsent_update_sends_it_after_its_restart_without_training(
    start_process: StartProcess,
    start_agent: StartAgent,
    start_program: Callable[..., Process],
    undisturbed: Callable[..., AgentThread],
    tmp_path: Path,
) -> None:
    daemon = start_process(run_of()).started()
    other = start_agent(daemon.url, 2)
    first = start_program(daemon.url, 1, "first.log", "2")
    first.seen("training 2")
    daemon.kill()
    folder = tmp_path / "program1"
    (folder / "gate").touch()
    until(lambda: list((folder / "outbox").glob("*.json")), "for the update on disk")
    first.kill()
    daemon = start_process(run_of(), port=daemon.port).started()
    second = start_program(daemon.url, 1, "second.log")
    assert "training 2" not in second.ended()
    assert "update from an earlier time was accepted" in second.text
    assert not list((folder / "outbox").iterdir())
    assert_equal(other.join().weights, undisturbed().join().weights)
    daemon.stop()
    assert models_of(daemon.models) == models_of(tmp_path / "undisturbed")


def test_daemon_and_agents_may_start_in_any_order(
    start_process: StartProcess, start_agent: StartAgent, unused_tcp_port: int, tmp_path: Path
) -> None:
    agents = [start_agent(f"ws://127.0.0.1:{unused_tcp_port}", number) for number in (1, 2)]
    for agent in agents:
        until(lambda agent=agent: "nothing listens" in agent.line)  # type: ignore[misc]
    daemon = start_process(run_of(), port=unused_tcp_port).started()
    for agent in agents:
        assert agent.join().status == "finished"
    daemon.stop()


def test_agents_come_and_go_during_rounds(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of(end={"rounds": 6}, round={"min_agents": 3, "rejoin_s": 0.0}))
    gates = {number: Gate(number, 3) for number in (1, 2, 3)}
    agents = {number: start_agent(daemon.url, number, gate) for number, gate in gates.items()}
    for gate in gates.values():
        assert gate.reached.wait(20)
    agents[3].agent.close()  # in the middle of its task
    gates[3].open.set()
    late = start_agent(daemon.url, 4)
    until(lambda: "site4" in daemon.host().machine.members)
    for number in (1, 2):
        gates[number].open.set()
    for agent in (agents[1], agents[2], late):
        assert agent.join().status == "finished"
    assert isinstance(agents[3].failed(), RefusedError)
    rounds = daemon.db().run("r").rounds()
    assert [(r.invited, r.accepted) for r in rounds if r.round_id] == [(3, 3), (3, 3), (3, 2)] + [(3, 3)] * 3


def test_every_agent_gets_the_final_model_also_one_that_comes_after_the_end(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of())
    finals = [agent.join() for agent in [start_agent(daemon.url, number) for number in (1, 2)]]
    finals.append(start_agent(daemon.url, 3).join())
    last = daemon.db().model("r:final")
    for final in finals:
        assert (final.status, final.round_id) == ("finished", 3)
        assert_equal(final.weights, last.weights())
