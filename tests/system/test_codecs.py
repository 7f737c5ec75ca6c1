"""Runs whose models travel encoded: what comes out is what the same functions give in one process."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_main.db import ModelDB, verify_database
from fl_main.db.transfer.export import export_model
from fl_main.deltas import add
from fl_main.local import run_local
from fl_main.store import ModelKind
from fl_main.training import TrainingTask, TrainResult
from fl_main.weights import Array
from tests.system.agents import assert_equal
from tests.system.conftest import StartAgent, StartDaemon, StartProcess
from tests.system.daemons import fl, run_of

SITES = {f"site{number}": number for number in (1, 2, 3)}
ROUNDS = 4


def first() -> dict[str, Array]:
    noise = np.random.default_rng(7)
    return {"w": noise.standard_normal((40, 30)).astype(np.float32), "b": np.zeros(5), "n": np.arange(3)}


def train(task: TrainingTask) -> TrainResult:
    noise = np.random.default_rng(task.seed)
    weights = {
        name: (array + 0.1 * noise.standard_normal(array.shape)).astype(array.dtype)
        for name, array in task.weights.items()
    }
    return TrainResult(weights, num_examples=task.seed % 5 + 1)


COMPRESSIONS: dict[str, dict[str, Any]] = {
    "delta": {"form": "delta"},
    "float16": {"codec": "float16"},
    "float16-delta": {"codec": "float16", "form": "delta"},
    "bfloat16": {"codec": "bfloat16", "download": "bfloat16"},
    "download": {"download": "float16"},
    "int8": {"codec": "int8", "download": "int8"},
    "int8-feedback": {"codec": "int8", "block": 16, "error_feedback": True},
    "qsgd": {"codec": "qsgd", "levels": 7, "download": "float16"},
    "top-k": {"codec": "top-k", "fraction": 0.1, "download": "int8"},
    "random-k": {"codec": "random-k", "fraction": 0.1},
    "random-k-feedback": {"codec": "random-k", "fraction": 0.1, "error_feedback": True},
}


def settings(compression: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changes = {"end": {"rounds": ROUNDS}, "round": {"min_agents": 3, "min_updates": 3}} | changes
    return run_of(compression=compression, **changes)


def expected(compression: dict[str, Any]) -> dict[str, Array]:
    return dict(
        run_local(train, SITES, first(), rounds=ROUNDS, settings={"compression": compression}).weights
    )


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
def test_every_codec_gives_what_run_local_gives(
    compression: dict[str, Any], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_daemon(settings(compression))
    agents = [start_agent(daemon.url, number, train, initial_weights=first) for number in SITES.values()]
    for agent in agents:
        assert_equal(agent.join().weights, expected(compression))
    with daemon.db() as db:
        assert_equal(db.model("r:final").weights(), expected(compression))
    assert verify_database(daemon.folder) == []


def refused_once(number: int) -> Callable[[TrainingTask], TrainResult]:
    """Return a site's training; of the third site the second update counts no example."""
    tasks = itertools.count(1)

    def trained(task: TrainingTask) -> TrainResult:
        result = train(task)
        return replace(result, num_examples=0) if next(tasks) == 2 and number == 3 else result

    return trained


@pytest.mark.parametrize("name", ["top-k", "int8-feedback"])
def test_what_updates_of_a_failed_round_left_out_is_forgotten_everywhere(
    name: str, start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    """The second round fails: what the first two sites sent in it was accepted, and is not counted."""
    changes = {
        "round": {"min_agents": 3, "min_updates": 3, "max_failed_rounds": 2},
    }
    local = {number: refused_once(number) for number in SITES.values()}
    expected = run_local(
        lambda task: local[task.data](task),
        SITES,
        first(),
        rounds=ROUNDS,
        settings={"compression": COMPRESSIONS[name], **changes},
    )
    daemon = start_daemon(settings(COMPRESSIONS[name], **changes))
    agents = [
        start_agent(daemon.url, number, refused_once(number), initial_weights=first, keep_going=True)
        for number in SITES.values()
    ]
    for agent in agents:
        assert_equal(agent.join().weights, dict(expected.weights))


def test_codecs_go_through_processes_to_the_database_and_its_commands(
    start_process: StartProcess, start_agent: StartAgent
) -> None:
    compression = COMPRESSIONS["top-k"]
    daemon = start_process(settings(compression)).started()
    agents = [start_agent(daemon.url, number, train, initial_weights=first) for number in SITES.values()]
    for agent in agents:
        assert_equal(agent.join().weights, expected(compression))
    said = fl("status", "--settings", daemon.settings, "--url", daemon.url).stdout
    assert "updates travel as delta, encoded by top-k fraction=0.1, with error feedback: " in said
    assert "models travel encoded by int8 block=512 rounding=nearest: " in said
    daemon.stop()
    rounds = fl("db", "rounds", "-d", daemon.models).stdout
    assert "delta, top-k fraction=0.1" in rounds
    plain = sum(array.nbytes for array in first().values())
    [*_, last] = json.loads(fl("db", "rounds", "-d", daemon.models, "--json").stdout)
    assert last["plain_bytes"] == 3 * plain
    assert last["bytes"] < last["plain_bytes"] / 3
    _check_decoding(daemon.models)


def _check_decoding(folder: Any) -> None:
    with ModelDB(folder) as db:
        run = db.run("r")
        local = run.models(ModelKind.LOCAL, ROUNDS)[0]
        download = db.model_by_id(local.base_id or "")
        whole = db.model_by_id(download.parents[0].model_id)
        assert (download.kind, whole.kind) == (ModelKind.DOWNLOAD, ModelKind.GLOBAL)
        assert download.size < whole.size / 2
        for name, array in download.weights().items():
            assert array.dtype == whole.weights()[name].dtype
            np.testing.assert_allclose(array, whole.weights()[name], atol=0.02)
        assert "w" not in local.as_stored()  # but the codec's own arrays
        assert_equal(local.weights(), add(download.weights(), local.decoded(), whole.layout))
        target = export_model(local, folder.parent / "local.npz")
        with np.load(target) as exported:
            assert_equal(dict(exported), local.weights())


def test_evaluations_are_of_the_global_model_though_agents_have_it_encoded(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    from fl_main.agent import Evaluation

    daemon = start_daemon(settings({"download": "int8"}, evaluate={"every": 1}))

    def evaluate(weights: Any) -> Evaluation:
        return Evaluation({"mean": float(weights["w"].mean())}, 1)

    agents = [
        start_agent(daemon.url, number, train, initial_weights=first, evaluate=evaluate)
        for number in SITES.values()
    ]
    for agent in agents:
        agent.join()
    with daemon.db() as db:
        measured = {metric.model_id for metric in db.run("r").metrics("evaluate")}
        assert measured == {model.model_id for model in db.run("r").models(ModelKind.GLOBAL)}


def test_value_that_the_codec_cannot_say_is_one_clear_error(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    def large(task: TrainingTask) -> TrainResult:
        return TrainResult({**task.weights, "w": task.weights["w"] + 1e6}, 1)

    daemon = start_daemon(settings({"codec": "float16"}))
    agents = [start_agent(daemon.url, number, large, initial_weights=first) for number in SITES.values()]
    assert "too large for float16" in str(agents[0].failed())


def test_run_goes_on_after_a_restart_with_codecs(
    start_process: StartProcess, start_agent: StartAgent, tmp_path: Any
) -> None:
    np.savez(tmp_path / "initial.npz", **first())  # type: ignore[arg-type]
    compression = COMPRESSIONS["top-k"]
    run = settings(compression, initial={"file": str(tmp_path / "initial.npz")})
    daemon = start_process(run).started()
    agents = [start_agent(daemon.url, number, train, initial_weights=first) for number in SITES.values()]
    daemon.seen(r"round done|round_done|round=2")
    daemon.kill()
    daemon = start_process(run, port=daemon.port).started()
    for agent in agents:
        assert_equal(agent.join().weights, expected(compression))
    daemon.stop()
