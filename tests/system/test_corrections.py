"""Strategies whose agents keep a part of them: what is kept follows what was counted, whatever is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import TrainResult
from fl_main.agent.shelf import Shelf
from fl_main.corrections import correction_of
from fl_main.db import ModelDB
from fl_main.disk import REAL_DISK
from fl_main.training import TrainingTask
from fl_main.weights import Array
from tests.fl_main.corrections.tasks import Site, optimum
from tests.system.agents import AgentThread, assert_equal, history
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import run_of, until

SITES: dict[int, Site] = {1: (1.0, 0.0), 2: (4.0, 1.0)}
STRATEGIES = [("scaffold", {}), ("feddyn", {"alpha": 2.0}), ("fedcurv", {"lam": 0.1})]
RATE, STEPS = 0.1, 3


def zeros() -> dict[str, Array]:
    return {"w": np.zeros(4), "v": np.zeros(3, np.float32)}


def training_of(number: int) -> Callable[[TrainingTask], TrainResult]:
    a, b = SITES[number]

    def train(task: TrainingTask) -> TrainResult:
        weights = {name: array.copy() for name, array in task.weights.items()}
        correction = correction_of(task)
        for _ in range(STEPS):
            gradients = {name: a * (array - b) for name, array in weights.items()}
            correction.add_to(gradients, weights)
            for name, gradient in gradients.items():
                weights[name] -= RATE * gradient
        fisher = {name: np.full_like(array, a) for name, array in weights.items()}
        answer = correction.answer(weights, num_steps=STEPS, learning_rate=RATE, fisher=fisher)
        return TrainResult(weights, 1, **answer)

    return train


@pytest.fixture
def start_site(start_agent: StartAgent) -> Callable[..., AgentThread]:
    def start(url: str, number: int, train: Any = None, **options: Any) -> AgentThread:
        return start_agent(url, number, train or training_of(number), initial_weights=zeros, **options)

    return start


def models_of(folder: Path) -> list[str]:
    with ModelDB(folder) as db:
        return [str(row) for row in history(db.run("r"))]


@pytest.mark.parametrize(("strategy", "options"), STRATEGIES, ids=[name for name, _ in STRATEGIES])
def test_daemon_and_agents_may_be_killed_and_the_models_are_the_same(
    strategy: str,
    options: dict[str, float],
    start_process: StartProcess,
    start_daemon: StartDaemon,
    start_site: Callable[..., AgentThread],
    tmp_path: Path,
) -> None:
    run = run_of(strategy=strategy, strategy_options=options, end={"rounds": 8})
    daemon = start_process(run).started()
    agents = [start_site(daemon.url, number) for number in SITES]
    for after in (2, 4):
        until(lambda after=after: len(agents[0].trained) >= after)  # type: ignore[misc]
        daemon.kill()
        agents[1].close()  # it comes back, and goes on with what it kept
        daemon = start_process(run, port=daemon.port).started()
        agents[1] = start_site(daemon.url, 2)
    finals = [agent.join() for agent in agents]
    daemon.stop()

    calm = start_daemon(run, folder="undisturbed")
    others = [start_site(calm.url, number, state_folder=tmp_path / f"calm{number}") for number in SITES]
    for final, expected in zip(finals, [agent.join() for agent in others], strict=True):
        assert_equal(final.weights, expected.weights)
    assert models_of(tmp_path / "models") == models_of(tmp_path / "undisturbed")


def test_control_variates_of_the_sites_add_up_to_that_of_the_run(
    start_daemon: StartDaemon, start_site: Callable[..., AgentThread], tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(strategy="scaffold", end={"rounds": 40}))
    agents = [start_site(daemon.url, number) for number in SITES]
    for agent in agents:
        final = agent.join()
    np.testing.assert_allclose(final.weights["w"], optimum({str(k): site for k, site in SITES.items()}))

    kept = [kept_by(tmp_path / "state" / f"site{number}") for number in SITES]
    run = daemon.host().machine.run
    for name in zeros():
        found = sum(arrays[f"scaffold {run.run_id} control/{name}"] for arrays in kept)
        total = daemon.db().model_by_id(run.state_ids["total"]).weights()[name]
        np.testing.assert_allclose(found, total, atol=1e-5)
        control = daemon.db().model_by_id(run.state_ids["control"]).weights()[name]
        np.testing.assert_allclose(control, total / len(SITES), atol=1e-6)


def kept_by(folder: Path) -> dict[str, Array]:
    return Shelf(folder / "state", REAL_DISK, durable=False).current()


def test_a_database_that_is_made_anew_does_not_meet_what_sites_kept_in_the_old_one(
    start_daemon: StartDaemon, start_site: Callable[..., AgentThread], tmp_path: Path
) -> None:
    run = run_of(strategy="scaffold", end={"rounds": 5})
    models = []
    for folder in ("first", "anew"):
        daemon = start_daemon(run, folder=folder)
        agents = [start_site(daemon.url, number) for number in SITES]  # with the same state folders
        models.append([agent.join().weights for agent in agents])
        for agent in agents:
            agent.close()
    assert_equal(models[0][0], models[1][0])


def test_a_program_that_does_not_look_at_what_is_asked_is_told_once(
    start_daemon: StartDaemon, start_site: Callable[..., AgentThread], caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start_daemon(run_of(strategy="fedprox", strategy_options={"mu": 0.5}))

    def train(task: TrainingTask) -> TrainResult:
        return TrainResult(task.weights, 1)

    for agent in [start_site(daemon.url, 1, train), start_site(daemon.url, 2)]:
        agent.join()
    told = [record.message for record in caplog.records if "has not looked" in record.message]
    assert len(told) == 1  # of three rounds, and not to the site that does
    assert "asks the training for {'name': 'fedprox', 'mu': 0.5}" in told[0]


def test_an_update_without_what_the_strategy_needs_is_rejected_with_the_reason(
    start_daemon: StartDaemon, start_site: Callable[..., AgentThread]
) -> None:
    daemon = start_daemon(run_of(strategy="scaffold"))

    def train(task: TrainingTask) -> TrainResult:
        return TrainResult(task.weights, 1)

    agents = [start_site(daemon.url, number, train) for number in SITES]
    for agent in agents:
        assert "the payload 'control' is missing" in str(agent.failed())
