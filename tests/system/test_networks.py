"""Networks that are slow or change, machines that sleep, clocks that jump: the run goes on."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_main.agent import Agent
from fl_main.messages import CHUNK_BYTES
from tests.system.agents import doubled, first_weights
from tests.system.conftest import StartAgent, StartDaemon, StartProcess, StartPython
from tests.system.daemons import DaemonThread, Process, run_of, until
from tests.system.proxy import Proxy
from tests.system.test_restart import Gate

QUICK_PINGS = {"ping_interval_s": 0.2, "ping_timeout_s": 0.6}
ALONE = {"min_agents": 1, "min_updates": 1}

BYTES = 4 * CHUNK_BYTES


@pytest.fixture
def large(start_daemon: StartDaemon, tmp_path: Path) -> Callable[..., DaemonThread]:
    """A daemon that is impatient with silence, and a run of one round of a model of 2 MB."""
    initial = first_weights(tmp_path, BYTES // 8)

    def start(**changes: object) -> DaemonThread:
        run = {"initial": initial, "end": {"rounds": 1}, "round": ALONE}
        return start_daemon(run_of(**run | changes), limits=QUICK_PINGS)

    return start


def joins(daemon: DaemonThread) -> int:
    return sum(event.kind == "agent_joined" for event in daemon.db().run("r").events())


# --- slow --------------------------------------------------------------------------------


def test_connection_on_which_a_chunk_takes_longer_than_the_ping_timeout_is_never_dropped(
    large: Callable[..., DaemonThread], start_agent: StartAgent
) -> None:
    daemon = large()
    with Proxy(daemon.url, bytes_per_s=CHUNK_BYTES) as proxy:
        agent = start_agent(proxy.url, 1, doubled, initial_weights=None)
        assert agent.join().status == "finished"
        assert proxy.accepted == joins(daemon) == 1


def test_deadline_ends_a_round_while_a_slow_update_is_under_way_which_is_late_then(
    large: Callable[..., DaemonThread], start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = large(end={"rounds": 2}, round={"min_agents": 2, "min_updates": 1, "deadline_s": 1.5})
    fast = start_agent(daemon.url, 1, doubled, initial_weights=None)
    with (
        Proxy(daemon.url, bytes_per_s=1 << 30) as proxy,
        Agent(proxy.url, "r", "slow", state_folder=tmp_path / "slow", progress=False) as slow,
    ):
        task = next(slow.tasks())
        proxy.bytes_per_s = CHUNK_BYTES  # so four seconds, more than the round lasts
        receipt = task.submit({"w": task.weights["w"] * 2}, 1)
        assert receipt
        assert (receipt.verdict, receipt.reason) == ("discarded", "late: round 1 is over")
        assert proxy.accepted == 1
    assert fast.join().status == "finished"
    assert [round.accepted for round in daemon.db().run("r").rounds() if round.round_id] == [1, 1]


# --- half-open ---------------------------------------------------------------------------


def test_connection_that_dies_silently_during_training_is_replaced(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 2}, round=ALONE), limits=QUICK_PINGS)
    gate = Gate(1, 1)
    with Proxy(daemon.url) as proxy:
        agent = start_agent(proxy.url, 1, gate)
        assert gate.reached.wait(20)
        proxy.silence()
        until(lambda: joins(daemon) == 2)
        gate.open.set()
        assert agent.join().status == "finished"
    assert [round_id for round_id, _ in agent.trained] == [1, 2]


@pytest.mark.parametrize("way", ["down", "up"])
def test_connection_that_dies_silently_in_a_transfer_is_replaced_and_the_transfer_goes_on(
    way: str, large: Callable[..., DaemonThread], start_agent: StartAgent
) -> None:
    daemon = large()
    with Proxy(daemon.url, bytes_per_s=2 * BYTES) as proxy:
        agent = start_agent(proxy.url, 1, doubled, initial_weights=None)
        until(lambda: getattr(proxy, way) > 2 * CHUNK_BYTES)
        proxy.silence()
        assert agent.join().status == "finished"
        assert proxy.accepted >= 2
        assert proxy.down < 2 * BYTES + 2 * CHUNK_BYTES
        assert proxy.up < BYTES + 2 * CHUNK_BYTES
    assert [round_id for round_id, _ in agent.trained] == [1]


def test_connection_that_dies_silently_before_the_welcome_is_replaced(
    start_daemon: StartDaemon, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_main.agent.client.PING_INTERVAL_S", 0.5)
    daemon = start_daemon(run_of(round=ALONE))
    with Proxy(daemon.url, cut_down=1, silently=True) as proxy:  # after the answer to the handshake
        assert start_agent(proxy.url, 1).join().status == "finished"
        assert proxy.accepted >= 2


# --- training that takes the processor -----------------------------------------------------

AGENT = """
import sys, time
from pathlib import Path
from fl_main.agent import Agent
from fl_main.console import configure_logging
from tests.system.agents import initial, site
from tests.system.daemons import until

url, folder, work = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def compute():  # pure Python: the network thread has to fight for every turn
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        sum(number * number for number in range(1000))

def hold():  # one call into C that lets no other thread run
    size, lasted_s = 1 << 20, 0.0
    while lasted_s < 1.0:  # more than the ping time-out
        begun = time.monotonic()
        sum(range(size))
        size, lasted_s = 2 * size, time.monotonic() - begun

def wait():
    until((folder / "gate").exists)

configure_logging()
with Agent(url, "r", "a", initial_weights=initial, state_folder=folder) as agent:
    for task in agent.tasks():
        print("training", task.round_id, flush=True)
        {"compute": compute, "hold": hold, "wait": wait}[work]()
        task.submit(site(1)(task).weights, 1)
print("ended", agent.final.status, flush=True)
"""


@pytest.fixture
def start_program(start_python: StartPython, tmp_path: Path) -> Callable[[DaemonThread, str], Process]:
    """Start an agent in a process; with the work "wait" it waits until its folder has a `gate`."""
    return lambda daemon, work: start_python("agent.log", "-c", AGENT, daemon.url, tmp_path / "state", work)


@pytest.fixture
def impatient(start_daemon: StartDaemon) -> DaemonThread:
    """A daemon that is impatient with silence, and a run of one round for one agent."""
    return start_daemon(run_of(end={"rounds": 1}, round=ALONE), limits=QUICK_PINGS)


def test_training_in_pure_python_does_not_starve_the_connection(
    impatient: DaemonThread, start_program: Callable[[DaemonThread, str], Process]
) -> None:
    assert "ended finished" in start_program(impatient, "compute").ended()
    assert joins(impatient) == 1


def test_training_that_lets_no_other_thread_run_costs_a_connection_and_nothing_else(
    impatient: DaemonThread, start_program: Callable[[DaemonThread, str], Process]
) -> None:
    log = start_program(impatient, "hold").ended()
    assert log.count("training 1") == 1
    assert "ended finished" in log


# --- sleep -------------------------------------------------------------------------------


def test_agent_that_sleeps_longer_than_the_ping_timeout_goes_on_where_it_was(
    impatient: DaemonThread, start_program: Callable[[DaemonThread, str], Process], tmp_path: Path
) -> None:
    agent = start_program(impatient, "wait")
    agent.seen("training 1")
    agent.signal(signal.SIGSTOP)
    until(lambda: not impatient.host().seats)
    agent.signal(signal.SIGCONT)
    (tmp_path / "state" / "gate").touch()
    log = agent.ended()
    assert log.count("training 1") == 1
    assert "ended finished" in log


def test_daemon_that_sleeps_longer_than_the_ping_timeout_goes_on_where_it_was(
    start_process: StartProcess, start_agent: StartAgent
) -> None:
    daemon = start_process(run_of(end={"rounds": 1}), limits=QUICK_PINGS).started()
    gates = [Gate(number, 1) for number in (1, 2)]
    agents = [start_agent(daemon.url, number, gate) for number, gate in enumerate(gates, 1)]
    for gate in gates:
        assert gate.reached.wait(20)
    daemon.signal(signal.SIGSTOP)
    for agent in agents:
        until(lambda agent=agent: "no sign of life" in agent.line)  # type: ignore[misc]
    daemon.signal(signal.SIGCONT)
    for gate in gates:
        gate.open.set()
    assert [agent.join().status for agent in agents] == ["finished"] * 2
    assert [len(agent.trained) for agent in agents] == [1, 1]
    daemon.stop()


# --- clocks ------------------------------------------------------------------------------

HOURS = 3600.0


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the wall clock of everybody in this process jump: `jump(6 * HOURS)`."""
    true, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + offset[0])

    def by(seconds: float) -> None:
        offset[0] += seconds

    return by


def test_laptop_that_wakes_on_another_network_does_not_wait_for_the_ping_timeout(
    jump: Callable[[float], None],
    start_daemon: StartDaemon,
    start_agent: StartAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fl_main.session.WAKE_PATIENCE_S", 0.5)
    daemon = start_daemon(
        run_of(end={"rounds": 1}, round=ALONE), limits={"ping_interval_s": 8.0, "ping_timeout_s": 600.0}
    )
    gate = Gate(1, 1)
    with Proxy(daemon.url) as proxy:
        agent = start_agent(proxy.url, 1, gate)
        assert gate.reached.wait(20)
        proxy.silence()
        jump(HOURS)
        until(lambda: proxy.accepted == 2)  # which takes 24 s at least if only the silence is noticed
        gate.open.set()
        assert agent.join().status == "finished"


@pytest.mark.parametrize("hours", [6.0, -6.0], ids=["forward", "back"])
def test_clock_that_jumps_ends_no_round_and_no_connection(
    hours: float, jump: Callable[[float], None], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(), limits=QUICK_PINGS)
    gates = [Gate(number, 2) for number in (1, 2)]
    with Proxy(daemon.url) as proxy:
        agents = [start_agent(proxy.url, number, gate) for number, gate in enumerate(gates, 1)]
        for gate in gates:
            assert gate.reached.wait(20)
        jump(hours * HOURS)
        before = proxy.up
        until(lambda: proxy.up > before + 200)  # both sides have looked at the clock since, and asked
        for gate in gates:
            gate.open.set()
        assert [agent.join().status for agent in agents] == ["finished"] * 2
        assert proxy.accepted == joins(daemon) == 2
    assert [round.accepted for round in daemon.db().run("r").rounds() if round.round_id] == [2] * 3


@pytest.mark.parametrize("hours", [6.0, -6.0], ids=["forward", "back"])
def test_deadline_is_not_moved_by_a_clock_that_jumps(
    hours: float, jump: Callable[[float], None], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 1}, round={"min_updates": 1, "deadline_s": 2.0}))
    gate = Gate(1, 1)
    slow, fast = start_agent(daemon.url, 1, gate), start_agent(daemon.url, 2)
    assert gate.reached.wait(20)
    jump(hours * HOURS)
    until(lambda: daemon.host().run.rounds_done == 1)  # not after six hours
    gate.open.set()
    assert slow.join().status == fast.join().status == "finished"
    assert [round.accepted for round in daemon.db().run("r").rounds() if round.round_id] == [1]


@pytest.mark.parametrize("hours", [6.0, -6.0], ids=["forward", "back"])
def test_run_goes_on_after_a_restart_with_another_time_of_day(
    hours: float, jump: Callable[[float], None], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of())
    gates = [Gate(number, 2) for number in (1, 2)]
    agents = [start_agent(daemon.url, number, gate) for number, gate in enumerate(gates, 1)]
    for gate in gates:
        assert gate.reached.wait(20)
    port = daemon.port
    daemon.stop()
    jump(hours * HOURS)
    again = start_daemon(run_of(), listen={"port": port})
    for gate in gates:
        gate.open.set()
    assert [agent.join().status for agent in agents] == ["finished"] * 2
    assert [[round_id for round_id, _ in agent.trained] for agent in agents] == [[1, 2, 3]] * 2
    assert [round.accepted for round in again.db().run("r").rounds() if round.round_id] == [2] * 3
