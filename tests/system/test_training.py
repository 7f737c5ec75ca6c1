"""Whole runs through the daemon: what comes out is what the same functions give in one process."""

import contextlib
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent import Agent, Evaluation, Task, TrainResult, UpdateRejectedError
from fl_main.local import run_local
from fl_main.training import TrainingTask
from tests.system.agents import assert_equal, initial
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import run_of, until

MOMENTUM = "tests.system.momentum:Momentum"


def train(task: TrainingTask) -> TrainResult:
    """Use everything that a task can bring; what it gives follows from that alone."""
    noise = np.random.default_rng(task.seed)
    pull = {name: values.mean() for name, values in task.channels.get("momentum", {}).items()}
    steps = int(task.state["steps"]) + 1 if task.state else 1
    weights = {
        name: (array * 0.5 + pull.get(name, 0.0) + steps + noise.standard_normal(array.shape)).astype(
            array.dtype
        )
        for name, array in task.weights.items()
    }
    drift = {name: noise.standard_normal(array.shape) for name, array in task.weights.items()}
    num_examples = int(task.statistics["count"]) if task.statistics else 1
    return TrainResult(
        weights,
        num_examples + steps,
        {"loss": np.float32(1 / steps)},
        num_steps=steps,
        channels={"drift": drift},
        state={"steps": np.array(steps)},
    )


def settings(**changes: Any) -> dict[str, Any]:
    return run_of(
        **{"strategy": MOMENTUM, "strategy_options": {"beta": 0.7}, "statistics": True, "end": {"rounds": 4}}
        | changes
    )


def expected(rounds: int = 4) -> dict[str, Any]:
    local = run_local(
        train,
        {"site1": 1, "site2": 2},
        initial(),
        rounds=rounds,
        statistics=lambda number: {"count": np.array(number)},
        strategy=MOMENTUM,
        strategy_options={"beta": 0.7},
    )
    return dict(local.weights)


def options(number: int) -> dict[str, Any]:
    return {"statistics": lambda: {"count": np.array(number)}}


def test_strategy_with_state_and_channels_gives_what_run_local_gives(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(settings())
    agents = [start_agent(daemon.url, number, train, **options(number)) for number in (1, 2)]
    for agent in agents:
        assert_equal(agent.join().weights, expected())
    updates = [u for u in daemon.db().run("r").updates() if u.kind == "train"]
    assert all(set(update.digests) == {"weights", "drift"} for update in updates)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_strategy_with_state_gives_the_same_after_a_restart_in_the_middle(
    number: signal.Signals, start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    weights: dict[str, Any] = initial()
    np.savez(tmp_path / "initial.npz", **weights)
    run = settings(initial={"file": str(tmp_path / "initial.npz")}, end={"rounds": 6})
    daemon = start_process(run).started()
    agents = [start_agent(daemon.url, n, train, **options(n)) for n in (1, 2)]
    until(lambda: len(agents[0].trained) >= 3)
    if number is signal.SIGKILL:
        daemon.kill()
    else:
        daemon.stop(number)
    daemon = start_process(run, port=daemon.port).started()
    for agent in agents:
        assert_equal(agent.join().weights, expected(6))
    daemon.stop()


def test_update_without_what_the_strategy_needs_is_rejected(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(settings(statistics=False, round={"max_failed_rounds": 1}))

    def without_steps(task: Task) -> TrainResult:
        result = train(task)
        result.num_steps = None
        return result

    def without_channel(task: Task) -> TrainResult:
        result = train(task)
        result.channels = {}
        return result

    agents = [start_agent(daemon.url, 1, without_steps), start_agent(daemon.url, 2, without_channel)]
    assert "needs 'num_steps' with every update" in str(agents[0].failed())
    assert str(agents[1].failed()) == "the payload 'drift' is missing"


def test_state_of_an_agent_becomes_current_only_when_its_update_counted(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 4}, round={"min_updates": 1}))
    start_agent(daemon.url, 2)
    seen: list[tuple[int, int]] = []
    with Agent(daemon.url, "r", "site1", state_folder=tmp_path / "state", progress=False) as agent:
        for task in agent.tasks():
            seen.append((task.round_id, int(task.state.get("round", 0))))
            num_examples = 0 if task.round_id == 2 else 1
            with contextlib.suppress(UpdateRejectedError):
                task.submit(task.weights, num_examples, state={"round": np.array(task.round_id)})
    assert seen == [(1, 0), (2, 1), (3, 1), (4, 3)]


def test_every_model_is_evaluated_where_its_metrics_belong(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    def train_to(task: Task) -> TrainResult:
        return TrainResult({"w": np.float64(task.round_id)}, 1, {"loss": 100.0})

    def measure(number: int) -> Any:
        return lambda weights: Evaluation(
            {"loss": abs(float(weights["w"]) - 2) + number}, num_examples=number
        )

    daemon = start_daemon(run_of(evaluate={"every": 1}))
    agents = [
        start_agent(
            daemon.url, number, train_to, initial_weights={"w": np.float64(0)}, evaluate=measure(number)
        )
        for number in (1, 3)
    ]
    for agent in agents:
        assert float(agent.join().weights["w"]) == 3
    with daemon.db() as db:
        run = db.run("r")
        means = [
            (row.round_id, row.evaluate["loss"].value, row.train["loss"].value) for row in run.rounds()[1:]
        ]
        mean = (1 * 1 + 3 * 3) / 4
        assert means == [(1, mean + 1, 100), (2, mean, 100), (3, mean + 1, 100)]
        assert run.rounds()[1].evaluate["loss"].num_examples == 4
        assert run.best
        assert run.best.round_id == 2
        assert {
            (m.agent_id, m.value) for m in run.metrics("evaluate", "loss") if m.round_id == 3 and m.agent_id
        } == {
            ("site1", 2.0),
            ("site3", 4.0),
        }
