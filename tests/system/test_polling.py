"""Sites that connect only to fetch a task or to hand in an update."""

import signal
import threading
from pathlib import Path

import pytest

from fl_main.agent import AgentState, FencedError, RefusedError, Task, TrainResult
from tests.system.agents import AgentThread, assert_equal, history, identity, site
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import run_of, until, write_yaml
from tests.system.proxy import Proxy

POLL = {"connection": "poll", "poll_s": 0.2}
RARELY = {"connection": "poll", "poll_s": 60.0}  # what comes before that came for another reason


@pytest.fixture
def stayed(start_daemon: StartDaemon, start_agent: StartAgent) -> AgentThread:
    """What the run comes to with agents that stay connected."""
    daemon = start_daemon(run_of(), folder="stayed")
    agents = [start_agent(daemon.url, n, state_folder=daemon.folder / f"state{n}") for n in (1, 2)]
    for agent in agents:
        agent.join()
    return agents[0]


class Gate:
    """Training that waits until the test lets it go on."""

    def __init__(self, number: int) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._train = site(number)

    def __call__(self, task: Task) -> TrainResult:
        self.reached.set()
        assert self.open.wait(30)
        return self._train(task)


def test_polling_agent_and_one_that_stays_come_to_the_model_of_two_that_stay(
    start_daemon: StartDaemon, start_agent: StartAgent, stayed: AgentThread
) -> None:
    daemon = start_daemon(run_of())

    def train_alone(task: Task) -> TrainResult:
        until(lambda: "site1" not in daemon.host().seats)
        return site(1)(task)

    with Proxy(daemon.url) as rare, Proxy(daemon.url) as steady:
        agents = [start_agent(rare.url, 1, train_alone, **POLL), start_agent(steady.url, 2)]
        for agent in agents:
            agent.join()
        assert steady.accepted == 1
        assert rare.accepted >= 4  # one to join, one for each update; the last may hear of the end
    assert [round_id for round_id, _ in agents[0].trained] == [1, 2, 3]
    assert_equal(agents[0].join().weights, stayed.join().weights)
    run = daemon.db().run("r")
    assert {event.details["name"]: 1 for event in run.events("agent_joined")} == {"site1": 1, "site2": 1}
    assert not run.events("task_cancelled")


def test_run_needs_nobody_who_stays(
    start_daemon: StartDaemon, start_agent: StartAgent, stayed: AgentThread
) -> None:
    daemon = start_daemon(run_of())
    agents = [start_agent(daemon.url, number, **POLL) for number in (1, 2)]
    for agent in agents:
        assert agent.join().status == "finished"
    assert_equal(agents[0].join().weights, stayed.join().weights)
    assert history(daemon.db().run("r"))
    until(lambda: not daemon.host().seats)


def test_agent_that_works_holds_no_connection_and_hands_in_at_once(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, end={"rounds": 1}))
    gate = Gate(1)
    with Proxy(daemon.url) as proxy:
        agent = start_agent(proxy.url, 1, gate, **RARELY)
        assert gate.reached.wait(20)
        until(lambda: agent.line == "working on a task; next look in 60 s")
        until(lambda: not daemon.host().seats)
        assert agent.agent.state is AgentState.WORKING
        assert "site1" in str(daemon.waiting_for())
        before = proxy.accepted
        gate.open.set()
        until(lambda: [u for u in daemon.db().run("r").updates() if u.kind == "train"])
        until(lambda: not daemon.host().seats)
        assert proxy.accepted == before + 1


def test_interval_longer_than_a_round_is_refused(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_daemon(run_of())
    error = start_agent(daemon.url, 1, connection="poll", poll_s=61.0).failed()
    assert isinstance(error, RefusedError)
    assert (error.code, error.is_lasting) == ("poll", True)
    assert str(error).endswith(
        "a round of this run lasts 60 s at most: poll more often, or raise round.deadline_s"
    )
    until(lambda: daemon.db().run("r").events("agent_refused"))


def test_agent_that_closes_between_two_looks_leaves_for_good(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of())
    agent = start_agent(daemon.url, 1, initial_weights=None, **RARELY)
    until(lambda: agent.line.startswith("waiting for a task; looks in every 60 s: "))
    until(lambda: not daemon.host().seats)
    assert daemon.host().machine.members["site1"].is_present
    agent.close()
    [event] = until(lambda: daemon.db().run("r").events("agent_left"))
    assert event.details == {"reason": "the program ended", "for_good": True}


def test_agent_that_no_longer_comes_is_taken_for_gone(
    start_daemon: StartDaemon, start_python: StartPython, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of())
    process = start_python("a.log", "-c", PROGRAM, daemon.url, identity(tmp_path / "site1", "site1"))
    until(lambda: "site1" in daemon.host().machine.members)
    process.kill()
    [event] = until(lambda: daemon.db().run("r").events("agent_left"))
    assert "it did not poll" in event.details["reason"]


PROGRAM = """
import sys
from pathlib import Path
from fl_main.agent import Agent
from tests.system.agents import initial, site
from tests.system.daemons import until

url, folder = sys.argv[1], Path(sys.argv[2])
agent = Agent(
    url, "r", "site1", initial_weights=initial, state_folder=folder, connection="poll", poll_s=0.2
)
with agent:
    for task in agent.tasks():
        print("training", task.round_id, task.task_id, flush=True)
        until((folder / "gate").exists, patience_s=60)
        result = site(1)(task)
        task.submit(result.weights, result.num_examples, result.metrics)
print("ended", agent.final.status, flush=True)
"""


def test_program_that_is_started_again_between_two_looks_goes_on_with_its_task(
    start_daemon: StartDaemon, start_agent: StartAgent, start_python: StartPython, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of())
    folder = identity(tmp_path / "program", "site1")
    first = start_python("first.log", "-c", PROGRAM, daemon.url, folder)
    other = start_agent(daemon.url, 2)
    task_id = first.seen(r"training 1 (\w+)")[1]
    first.kill()
    (folder / "gate").touch()
    second = start_python("second.log", "-c", PROGRAM, daemon.url, folder)
    assert other.join().status == "finished"
    assert f"training 1 {task_id}" in second.ended()


def test_two_programs_with_one_identity_do_not_take_turns(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of())
    older = start_agent(daemon.url, 1, initial_weights=None, **POLL)
    until(lambda: older.line.startswith("waiting for a task; looks in"))
    newer = start_agent(
        daemon.url, "copy", agent_id="site1", initial_weights=None, state_folder=tmp_path / "copy", **POLL
    )
    assert isinstance(older.failed(), FencedError)
    assert newer.is_running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_daemon_that_ends_between_two_looks_goes_on_with_those_who_poll(
    number: signal.Signals, start_process: StartProcess, start_agent: StartAgent, stayed: AgentThread
) -> None:
    first = start_process(run_of()).started()
    gates = [Gate(1), Gate(2)]
    agents = [start_agent(first.url, n, gate, **POLL) for n, gate in enumerate(gates, 1)]
    for gate in gates:
        assert gate.reached.wait(20)
    for agent in agents:
        until(lambda agent=agent: agent.line.startswith("working on a task; next look"))  # type: ignore[misc]
    if number is signal.SIGKILL:
        first.kill()
    else:
        first.stop(number)
    for gate in gates:
        gate.open.set()  # the updates are handed in to nobody
    start_process(port=first.port).started()
    for agent in agents:
        assert agent.join().status == "finished"
        assert [round_id for round_id, _ in agent.trained] == [1, 2, 3]
    assert_equal(agents[0].join().weights, stayed.join().weights)


def test_laptop_of_fl_agent_polls_as_its_settings_say(
    start_daemon: StartDaemon, start_python: StartPython, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}))
    train = tmp_path / "train.py"
    train.write_text("from tests.system.agents import initial as initial_weights, site\n\ntrain = site(1)\n")
    with Proxy(daemon.url) as proxy:
        settings = {"url": proxy.url, "run": "r", "name": "a", "state_folder": str(tmp_path / "a"), **POLL}
        file = write_yaml(tmp_path / "agent.yaml", settings)
        log = start_python("a.log", "-m", "fl_main", "agent", f"{train}:train", "--settings", file).ended()
        assert "the run finished after round 3" in log
    assert daemon.db().run("r").agents()[0].name == "a"
    assert daemon.host().machine.members[daemon.db().run("r").agents()[0].agent_id].record.poll_s == 0.2
