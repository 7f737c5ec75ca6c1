"""A connection that breaks costs only what was under way: transfers go on where they stopped."""

from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fl_main.agent import Agent, AgentState, Evaluation, Task, TrainResult
from fl_main.training import TrainingTask
from tests.system.agents import AgentThread, assert_equal, doubled, first_weights
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until
from tests.system.proxy import Proxy

VALUES = 1 << 20
BYTES = 8 * VALUES


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    """A run of one round of a model of 8 MB, for one agent."""
    return start_daemon(
        run_of(
            initial=first_weights(tmp_path, VALUES),
            end={"rounds": 1},
            round={"min_agents": 1, "min_updates": 1},
        )
    )


def through(proxy: Proxy, start_agent: StartAgent) -> AgentThread:
    return start_agent(proxy.url, 1, doubled, initial_weights=None)


def test_model_that_is_cut_in_the_middle_goes_on_there(daemon: DaemonThread, start_agent: StartAgent) -> None:
    with Proxy(daemon.url, cut_down=BYTES // 2) as proxy:
        final = through(proxy, start_agent).join()
        assert proxy.cuts == 1
        assert 2 * BYTES < proxy.down < 2 * BYTES + (3 << 20)  # the base and the final model
    assert_equal(final.weights, daemon.db().model("r:final").weights())


def test_update_that_is_cut_in_the_middle_goes_on_there(
    daemon: DaemonThread, start_agent: StartAgent
) -> None:
    with Proxy(daemon.url, cut_up=BYTES // 2) as proxy:
        agent = through(proxy, start_agent)
        final = agent.join()
        assert proxy.cuts == 1
        assert BYTES < proxy.up < BYTES + (5 << 20)  # no more than one window was under way
    assert [round_id for round_id, _ in agent.trained] == [1]
    assert_equal(final.weights, daemon.db().model("r:final").weights())


def test_update_that_is_cut_goes_on_there_after_a_restart_of_both(
    daemon: DaemonThread, start_agent: StartAgent, start_daemon: StartDaemon
) -> None:
    with Proxy(daemon.url, cut_up=BYTES // 2, for_long=True) as proxy:
        agent = through(proxy, start_agent)
        until(lambda: proxy.cuts)
        daemon.stop()
        agent.close()
    again = start_daemon()
    with Proxy(again.url) as proxy:
        agent = through(proxy, start_agent)
        final = agent.join()
        assert proxy.up < BYTES
    assert agent.trained == []
    assert_equal(final.weights, again.db().model("r:final").weights())


def test_what_an_agent_holds_is_not_fetched_again(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(
        run_of(
            initial=first_weights(tmp_path, VALUES),
            round={"min_agents": 1, "min_updates": 1},
            evaluate={"every": 1},
            statistics=True,
        )
    )
    sums = {"sums": np.random.default_rng(1).standard_normal(VALUES // 4)}
    with Proxy(daemon.url) as proxy:

        def doubled_behind_a_cut(task: TrainingTask) -> TrainResult:
            proxy.cut()  # it joins again with its task, and later gets another one
            return doubled(task)

        agent = start_agent(
            proxy.url,
            1,
            doubled_behind_a_cut,
            initial_weights=None,
            statistics=lambda: sums,
            evaluate=lambda weights: Evaluation({"size": float(weights["w"].size)}, 1),
        )
        final = agent.join()
        needed = 4 * BYTES + BYTES // 4  # the first model, one of each round, and the sums
        assert needed < proxy.down < needed + (1 << 20)
    assert [round_id for round_id, _ in agent.trained] == [1, 2, 3]
    assert_equal(final.weights, daemon.db().model("r:final").weights())
    assert_equal(final.statistics, sums)


def test_first_model_is_not_fetched_by_the_agent_that_sent_it(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(round={"min_agents": 1, "min_updates": 1}, end={"rounds": 1}))
    weights = {"w": np.random.default_rng(0).standard_normal(VALUES)}
    with Proxy(daemon.url) as proxy:
        final = start_agent(proxy.url, 1, doubled, initial_weights=weights).join()
        assert BYTES < proxy.down < BYTES + (1 << 20)  # the final model
    assert_equal(final.weights, {"w": 2 * weights["w"]})


def test_agent_that_misses_a_round_while_it_fetches_takes_part_in_the_next(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(
        run_of(
            initial=first_weights(tmp_path, VALUES),
            end={"rounds": 3},
            round={"min_agents": 2, "min_updates": 1, "rejoin_s": 0.0},
        )
    )
    with Proxy(daemon.url, cut_down=BYTES // 2, for_long=True) as proxy:
        slow = through(proxy, start_agent)
        until(lambda: daemon.host().seats)
        until(lambda: slow.agent.state is not AgentState.CONNECTING)
        fast = start_agent(daemon.url, 2, doubled, initial_weights=None)
        until(lambda: proxy.cuts)
        until(lambda: daemon.host().run.rounds_done == 1)
        proxy.is_closed = False
        assert slow.join().status == fast.join().status == "finished"
    assert [round_id for round_id, _ in slow.trained] == [2, 3]
    kinds = [event.kind for event in daemon.db().run("r").events()]
    assert kinds.count("agent_joined") == 3


def test_task_is_given_to_the_program_once_however_often_the_connection_breaks(
    daemon: DaemonThread, tmp_path: Path
) -> None:
    with (
        Proxy(daemon.url) as proxy,
        Agent(proxy.url, "r", "site1", state_folder=tmp_path / "state", progress=False) as agent,
    ):
        client = agent._connected.client
        for _ in range(3):  # the task is ready, but the program is busy with something else
            until(lambda: client._inbox.has_next)
            proxy.cut()
            until(lambda: agent.state is AgentState.CONNECTING)
            until(lambda: agent.state is not AgentState.CONNECTING)
        given = []
        for task in agent.tasks():
            given.append(task.round_id)
            task.submit({"w": task.weights["w"]}, 1)
    assert given == [1]
    assert agent.final is not None


def test_task_that_is_cancelled_before_the_program_takes_it_is_not_given(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(round={"min_updates": 1, "quorum": 0.5}))
    done = Event()

    def train_quickly(task: Task) -> TrainResult:
        if task.round_id == 2:
            assert done.wait(20)
        return TrainResult(task.weights, 1)

    with Agent(daemon.url, "r", "slow", state_folder=tmp_path / "state", progress=False) as agent:
        quick = start_agent(daemon.url, "quick", train_quickly)
        until(lambda: daemon.host().run.rounds_done == 1)
        given = []
        for task in agent.tasks():
            given.append(task.round_id)
            done.set()
            task.submit(task.weights, 1)
    quick.join()
    assert 1 not in given


def test_model_whose_file_is_missing_is_waited_for_and_told_of(
    start_daemon: StartDaemon, start_agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_main.aggregator.sessions.RETRY_S", 0.02)
    daemon = start_daemon(run_of(end={"rounds": 1}, round={"min_agents": 1, "min_updates": 1}))
    final = start_agent(daemon.url, 1).join()
    file = daemon.db().model("r:final").path
    daemon.stop()
    file.rename(file.with_suffix(".away"))
    again = start_daemon()
    late = start_agent(again.url, 2)
    until(lambda: "is missing" in again.host().journal.trouble)
    assert late.is_running
    file.with_suffix(".away").rename(file)
    assert_equal(late.join().weights, final.weights)
    assert again.host().journal.trouble == ""
