"""Private arrays and personal models at real agents: kept through restarts, never on the wire."""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fl_main.agent import Evaluation, NamedArrays, Role, TrainResult
from fl_main.db import ModelDB
from fl_main.personal import Ditto, personal_of, side_by_side
from fl_main.training import TrainingTask
from fl_main.weights import Array
from tests.system.agents import AgentThread
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import fl, run_of, until

ROLES = {"head": Role.PRIVATE}


def whole() -> NamedArrays:
    return NamedArrays({"body": np.zeros(4), "head": np.zeros(2)}, ROLES)


def trained(number: int, seen: list[float] | None = None) -> Callable[[TrainingTask], TrainResult]:
    """Training that adds its number to the head in every round, and knows where it should be."""

    def train(task: TrainingTask) -> TrainResult:
        if seen is not None:
            seen.append(float(task.weights["head"][0]))
        weights = {"body": task.weights["body"] + number, "head": task.weights["head"] + number}
        return TrainResult(weights, 1)  # which of them is private it has said once

    return train


def test_private_arrays_stay_at_the_agent_and_outlive_its_process(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_process(run_of(end={"rounds": 6})).started()
    seen: list[float] = []

    def start(number: int) -> AgentThread:
        train = trained(number, seen if number == 1 else None)
        return start_agent(daemon.url, number, train, initial_weights=whole)

    agents = {number: start(number) for number in (1, 2)}
    until(lambda: len(seen) >= 2)
    daemon.kill()
    agents[1].close()
    daemon = start_process(run_of(end={"rounds": 6}), port=daemon.port).started()
    agents[1] = start(1)
    finals = [agents[number].join() for number in (1, 2)]
    daemon.stop()

    # In each round the head begins where the last counted update left it, also where a task is done twice.
    assert sorted(set(seen)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for number, final in enumerate(finals, 1):
        np.testing.assert_array_equal(final.weights["body"], np.full(4, 6 * 1.5))
        np.testing.assert_array_equal(final.weights["head"], np.full(2, 6.0 * number))
    with ModelDB(daemon.models) as db:
        models = [model for kind in ("initial", "local", "global") for model in db.run("r").models(kind)]
        assert len(models) >= 1 + 12 + 6
        assert all(set(model.weights()) == {"body"} for model in models)
    stored = [path.read_bytes() for path in daemon.models.rglob("*") if path.is_file()]
    assert stored
    assert not any(b'"head"' in data for data in stored)


def test_an_update_that_is_not_counted_leaves_the_private_arrays_as_they_were(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(round={"max_failed_rounds": 3}))
    seen: list[float] = []
    has_failed = Event()

    def other(task: TrainingTask) -> TrainResult:
        result = trained(2)(task)
        if task.round_id == 2 and not has_failed.is_set():
            has_failed.set()
            result.num_examples = 0  # rejected, so that the round fails and is tried again
        return result

    agents = [
        start_agent(daemon.url, 1, trained(1, seen), initial_weights=whole),
        start_agent(daemon.url, 2, other, initial_weights=whole, keep_going=True),
    ]
    for agent in agents:
        agent.join()
    assert seen == [0.0, 1.0, 1.0, 2.0]


def test_private_arrays_that_an_update_leaves_out_stay_beside_what_the_program_keeps(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(run_of(end={"rounds": 3}))
    seen: list[float] = []

    def train(task: TrainingTask) -> TrainResult:
        seen.append(float(task.weights["head"][0]))
        head = {"head": task.weights["head"] + 1} if task.round_id == 1 else {}
        return TrainResult(
            {"body": task.weights["body"], **head}, 1, state={"round": np.array(task.round_id)}
        )

    agents = [
        start_agent(daemon.url, number, function, initial_weights=whole)
        for number, function in ((1, train), (2, trained(2)))
    ]
    for agent in agents:
        agent.join()
    assert seen == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("takes_state", [True, False])
def test_personal_and_global_metrics_are_in_the_database_side_by_side(
    start_daemon: StartDaemon, start_agent: StartAgent, takes_state: bool
) -> None:
    daemon = start_daemon(run_of(evaluate={"every": 1}))
    agents = []
    for number, data in ((1, 2.0), (2, 4.0)):

        def train(task: TrainingTask, data: float = data) -> TrainResult:
            personal = {"w": np.full(1, data)}
            return TrainResult({"w": task.weights["w"] + 1}, 1, state=Ditto(task, 0.0).state(personal))

        def measure(weights: Mapping[str, Array], data: float = data) -> Evaluation:
            return Evaluation({"error": abs(float(weights["w"][0]) - data)}, 1)

        def both(weights: Mapping[str, Array], state: Mapping[str, Array], measure=measure) -> Evaluation:  # type: ignore[no-untyped-def]
            return side_by_side(measure, weights, personal_of(state))

        evaluate = both if takes_state else measure
        agents.append(
            start_agent(daemon.url, number, train, initial_weights={"w": np.zeros(1)}, evaluate=evaluate)
        )
    for agent in agents:
        agent.join()
    means = [entry.evaluate for entry in daemon.db().run("r").rounds() if entry.round_id]
    assert [mean["error"].value for mean in means] == [2.0, 1.0, 1.0]  # w = 1, 2, 3 against 2 and 4
    if not takes_state:
        return
    assert [(mean["personal_error"].value, mean["personal_error"].agents) for mean in means] == [(0.0, 2)] * 3
    shown = fl("db", "rounds", "r", "--folder", daemon.folder, "--csv").stdout
    assert "evaluate_error" in shown
    assert "evaluate_personal_error" in shown
