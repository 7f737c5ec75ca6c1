"""`fl run pause`, `resume` and `stop` at every moment of a run."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from fl_main.agent import AgentState, Evaluation, Task, TrainResult
from fl_main.aggregator.operator import Order, OrderFailedError, ask
from fl_main.db import verify_database
from fl_main.store import Phase, RunStatus
from tests.system.agents import AgentThread, initial, site
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until
from tests.system.test_restart import models_of
from tests.system.test_stops import folds

MOMENTS = ["initialise", "statistics", "train", "fold", "evaluate"]


class Site:
    """Everything that an agent can be asked for; one kind of task lasts until the test lets it go on.

    Attributes:
        reached: Whether that kind was asked for.
        open: Lets it go on.
    """

    def __init__(self, number: int, held: str = "") -> None:
        self.number = number
        self.reached, self.open = Event(), Event()
        self._held = held
        self._is_known = False

    def _hold(self, kind: str) -> None:
        if kind == self._held:
            self.reached.set()
            assert self.open.wait(30)

    def initial_weights(self) -> dict[str, Any]:
        if self._is_known:  # asked for the layout before
            self._hold("initialise")
        self._is_known = True
        return initial()

    def statistics(self) -> dict[str, Any]:
        self._hold("statistics")
        return {"count": np.array(self.number, np.int64)}

    def train(self, task: Task) -> TrainResult:
        self._hold("train")
        return site(self.number)(task)

    def evaluate(self, weights: Any) -> Evaluation:
        self._hold("evaluate")
        return Evaluation({"loss": float(weights["w"].sum())}, num_examples=self.number)

    def started(self, start_agent: StartAgent, url: str, folder: Path) -> AgentThread:
        return start_agent(
            url,
            self.number,
            self.train,
            initial_weights=self.initial_weights,
            statistics=self.statistics,
            evaluate=self.evaluate,
            state_folder=folder / f"site{self.number}",
        )


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A run that has every kind of step, and folds that wait for a file `gate`."""
    return run_of(
        statistics=True,
        evaluate={"every": 1},
        end={"rounds": 2},
        strategy="tests.system.slow:Slow",
        strategy_options={"folder": str(tmp_path), "block": 1},
        **changes,
    )


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    return start_daemon(settings(tmp_path))


def order(daemon: DaemonThread, what: Order) -> dict[str, Any]:
    """Give an order as `fl run` does, and return the run as the answer says that it stands."""
    token = (daemon.folder / "operator.token").read_text().strip()
    found = daemon.call(ask(daemon.url, token, what, run="r"))
    return {key: found[key] for key in ("status", "reason", "phase")}


@pytest.fixture
def at(
    daemon: DaemonThread, start_agent: StartAgent, tmp_path: Path
) -> Callable[[str], tuple[list[AgentThread], Callable[[], None]]]:
    """Bring the run to a moment; return its agents and what lets it go on from there."""

    def bring(moment: str) -> tuple[list[AgentThread], Callable[[], None]]:
        sites = [Site(number, moment) for number in (1, 2)]
        if moment != "fold":
            (tmp_path / "gate").touch()
        agents = [held.started(start_agent, daemon.url, tmp_path / "state") for held in sites]
        if moment == "fold":
            until(lambda: folds(tmp_path), "for the fold")
        else:
            until(lambda: any(held.reached.is_set() for held in sites), f"for {moment}")

        def go_on() -> None:
            (tmp_path / "gate").touch()
            for held in sites:
                held.open.set()

        return agents, go_on

    return bring


@pytest.fixture
def plain(start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path) -> list[str]:
    """What counts in the same run when nobody steers it."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "gate").touch()
    daemon = start_daemon(settings(tmp_path / "plain"), folder="undisturbed")
    for agent in [Site(number).started(start_agent, daemon.url, tmp_path / "plain") for number in (1, 2)]:
        agent.join()
    daemon.stop()
    return models_of(tmp_path / "undisturbed")


# --- pause and resume --------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
def test_paused_run_ends_its_step_and_goes_on_from_there(
    moment: str,
    daemon: DaemonThread,
    at: Callable[[str], tuple[list[AgentThread], Callable[[], None]]],
    plain: list[str],
) -> None:
    agents, go_on = at(moment)
    paused = order(daemon, "pause")
    assert paused["status"] == "paused"
    assert order(daemon, "pause") == paused  # twice is as good as once
    before = daemon.host().run
    go_on()
    until(lambda: not [agent for agent in agents if agent.agent.state is not AgentState.WAITING])
    until(lambda: daemon.host().run.phase is not Phase.AGGREGATING)
    daemon.call(daemon.host().journal.flush())
    assert daemon.host().run.status is RunStatus.PAUSED
    assert daemon.host().run.run_time_s == before.run_time_s  # its time stands still
    assert daemon.host().run.round_id == before.round_id
    assert order(daemon, "resume")["status"] == "running"
    for agent in agents:
        assert agent.join().status == "finished"
    assert models_of(daemon.folder) == plain
    assert list(verify_database(daemon.folder)) == []


def test_run_may_be_paused_before_any_agent_is_there(
    daemon: DaemonThread, start_agent: StartAgent, tmp_path: Path, plain: list[str]
) -> None:
    assert order(daemon, "pause")["status"] == "paused"
    (tmp_path / "gate").touch()
    agents = [Site(number).started(start_agent, daemon.url, tmp_path / "state") for number in (1, 2)]
    until(lambda: len(daemon.host().seats) == 2)
    for agent in agents:
        until(lambda agent=agent: "paused by " in agent.line, "to be told")  # type: ignore[misc]
    assert not daemon.host().machine.tasks
    order(daemon, "resume")
    for agent in agents:
        assert agent.join().status == "finished"
    assert models_of(daemon.folder) == plain


@pytest.mark.parametrize("moment", ["train", "fold"])
def test_paused_run_stays_paused_over_a_restart_of_the_daemon(
    moment: str,
    daemon: DaemonThread,
    at: Callable[[str], tuple[list[AgentThread], Callable[[], None]]],
    start_daemon: StartDaemon,
    plain: list[str],
) -> None:
    agents, go_on = at(moment)
    order(daemon, "pause")
    if moment == "fold":
        go_on()  # in this process a thread that folds keeps its daemon's database
    port = daemon.port
    daemon.stop()
    again = start_daemon(listen={"port": port})
    until(lambda: len(again.host().seats) == 2)
    go_on()
    until(lambda: not [agent for agent in agents if agent.agent.state is not AgentState.WAITING])
    until(lambda: again.host().run.phase is not Phase.AGGREGATING)
    assert again.host().run.status is RunStatus.PAUSED
    assert again.host().run.rounds_done == (moment == "fold")
    order(again, "resume")
    for agent in agents:
        assert agent.join().status == "finished"
    assert models_of(again.folder) == plain


# --- stop --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_run_ends_at_once_and_may_be_taken_up_again(
    moment: str,
    is_paused: bool,
    daemon: DaemonThread,
    at: Callable[[str], tuple[list[AgentThread], Callable[[], None]]],
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    agents, go_on = at(moment)
    if is_paused:
        order(daemon, "pause")
    stopped = order(daemon, "stop")
    assert stopped["reason"].startswith("stopped by ")
    assert stopped == {"status": "stopped", "phase": "ended", "reason": stopped["reason"]}
    assert order(daemon, "stop") == stopped
    go_on()
    for agent in agents:
        final = agent.join()
        assert (final.status, final.reason) == ("stopped", stopped["reason"])
    models = daemon.db().run("r").models("global")
    assert [model.round_id for model in models] == ([1] if moment == "evaluate" else [])

    assert order(daemon, "resume")["status"] == "running"
    again = [Site(number).started(start_agent, daemon.url, tmp_path / "state") for number in (1, 2)]
    for agent in again:
        assert agent.join().status == "finished"
    run = daemon.db().run("r")
    assert run.facts.rounds_done == 2
    counted = [update.task_id for update in run.updates() if update.counted_in is not None]
    assert len(counted) == len(set(counted))
    assert list(verify_database(daemon.folder)) == []


def test_run_may_be_resumed_while_the_fold_of_its_stopped_round_lasts(
    daemon: DaemonThread,
    at: Callable[[str], tuple[list[AgentThread], Callable[[], None]]],
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    agents, go_on = at("fold")
    order(daemon, "stop")
    for agent in agents:
        assert agent.join().status == "stopped"
    order(daemon, "resume")
    again = [Site(number).started(start_agent, daemon.url, tmp_path / "state") for number in (1, 2)]
    until(lambda: folds(tmp_path) == 2, "for the fold of the next round beside the old one")
    go_on()
    for agent in again:
        assert agent.join().status == "finished"
    run = daemon.db().run("r")
    assert [(row.round_id, row.status) for row in run.rounds()] == [
        (0, "done"),
        (1, "failed"),
        (2, "done"),
        (3, "done"),
    ]
    assert {update.round_id for update in run.updates() if update.counted_in is not None} == {0, 2, 3}
    staging = daemon.folder / "models" / ".staging"
    until(lambda: not list(staging.iterdir()), "for the old fold's files to be deleted")


# --- what cannot be done -----------------------------------------------------------------


def test_order_that_a_finished_run_cannot_follow_is_refused(
    daemon: DaemonThread, start_agent: StartAgent, tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    for agent in [Site(number).started(start_agent, daemon.url, tmp_path / "state") for number in (1, 2)]:
        agent.join()
    with pytest.raises(OrderFailedError, match="is finished: 2 rounds are done; a finished run"):
        order(daemon, "resume")
    with pytest.raises(OrderFailedError, match="is finished: 2 rounds are done; there is nothing to pause"):
        order(daemon, "pause")
    assert order(daemon, "stop")["status"] == "finished"
