"""Runs that train some arrays of a model: the others never leave the agents, and are the same everywhere."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main import run_local
from fl_main.agent import Evaluation, TrainResult
from fl_main.errors import RefusedError, SettingsError, WeightsError
from fl_main.training import TrainingTask
from fl_main.weights import Array
from tests.system.agents import assert_equal
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, fl, run_of, until
from tests.system.proxy import Proxy

BASE_VALUES = 1 << 18
ADAPTERS = ("lora.a", "lora.b")
SETTINGS: dict[str, Any] = {"compression": {"arrays": ["lora.*"]}}


def whole() -> dict[str, Array]:
    """A megabyte of pretrained weights, and forty bytes of adapters."""
    base = np.random.default_rng(0).standard_normal(BASE_VALUES).astype(np.float32)
    return {"base": base, "lora.a": np.zeros(8, np.float32), "lora.b": np.zeros(1, np.float64)}


def one_more(weights: Mapping[str, Array]) -> dict[str, Array]:
    return {name: weights[name] + 1 for name in ADAPTERS}


def expected(rounds: int) -> dict[str, Array]:
    return whole() | {"lora.a": np.full(8, rounds, np.float32), "lora.b": np.full(1, float(rounds))}


def train_whole(task: TrainingTask) -> TrainResult:
    return TrainResult({**task.weights, **one_more(task.weights)}, 1)


def train_adapters(task: TrainingTask) -> TrainResult:
    assert_equal({"base": task.weights["base"]}, {"base": whole()["base"]})
    return TrainResult(one_more(task.weights), 1)


def evaluate(weights: Mapping[str, Array]) -> Evaluation:
    return Evaluation({"size": float(sum(array.size for array in weights.values()))}, 1)


def start_run(start_daemon: StartDaemon, **changes: Any) -> DaemonThread:
    return start_daemon(run_of(**SETTINGS | changes))


def test_only_what_is_trained_travels_and_programs_see_whole_models(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    daemon = start_run(start_daemon, evaluate={"every": 1})
    with Proxy(daemon.url) as proxy:
        agents = [
            start_agent(proxy.url, number, train, initial_weights=whole, evaluate=evaluate)
            for number, train in enumerate([train_whole, train_adapters], 1)
        ]
        for agent in agents:
            assert_equal(agent.join().weights, expected(3))
        assert proxy.up + proxy.down < 4 * BASE_VALUES / 10
    run = daemon.db().run("r")
    adapters = {name: expected(3)[name] for name in ADAPTERS}
    assert_equal(daemon.db().model("r:final").weights(), adapters)
    assert run.rounds()[-1].evaluate["size"].value == BASE_VALUES + 9
    assert (run.facts.frozen["arrays"], run.facts.frozen["size"]) == (1, 4 * BASE_VALUES)
    shown = fl("db", "show", "r", "--folder", daemon.folder).stdout
    assert f"1 arrays of {4 * BASE_VALUES} bytes stay at the agents, sha256:" in shown
    assert "agent_refused" not in [event.kind for event in run.events()]


@pytest.mark.parametrize(
    "more",
    [
        {"codec": "float16", "download": "float16", "lossless": "zstd"},  # whole numbers stay what they are
        {"form": "delta", "lossless": "zstd"},
    ],
)
def test_codecs_deltas_and_packing_go_with_it(
    more: dict[str, str], start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_run(start_daemon, compression=SETTINGS["compression"] | more)
    agents = [start_agent(daemon.url, number, train_whole, initial_weights=whole) for number in (1, 2)]
    for agent in agents:
        assert_equal(agent.join().weights, expected(3))


def test_initial_file_says_what_is_frozen_and_an_agent_with_other_values_is_refused(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    np.savez(tmp_path / "all.npz", allow_pickle=False, **whole())
    daemon = start_run(start_daemon, initial={"file": str(tmp_path / "all.npz")})
    other = start_agent(daemon.url, 1, initial_weights=lambda: whole() | {"base": whole()["base"] + 1})
    with pytest.raises(RefusedError, match=r"frozen arrays have other values .* same pretrained checkpoint"):
        other.join()
    until(lambda: "agent_refused" in [event.kind for event in daemon.db().run("r").events()])
    agents = [start_agent(daemon.url, number, train_whole, initial_weights=whole()) for number in (2, 3)]
    for agent in agents:
        assert_equal(agent.join().weights, expected(3))


def test_run_can_begin_with_the_adapters_of_another_ones_whole_model(
    start_daemon: StartDaemon, start_agent: StartAgent, tmp_path: Path
) -> None:
    one = {"min_agents": 1, "min_updates": 1}
    daemon = start_daemon(run_of(round=one, end={"rounds": 1}))
    start_agent(daemon.url, 1, train_whole, initial_weights=whole).join()
    final = daemon.db().model("r:final").model_id
    daemon.stop()
    again = start_daemon(run_of(name="s", round=one, end={"rounds": 1}, initial={"model": final}, **SETTINGS))
    agent = start_agent(again.url, 2, train_whole, run="s", initial_weights=whole)
    assert_equal(agent.join().weights, expected(2))


def test_frozen_arrays_of_the_first_agent_count_also_after_a_restart(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_run(start_daemon)
    first = start_agent(daemon.url, 1, train_whole, initial_weights=whole)
    until(lambda: daemon.host().run.frozen)
    first.close()
    daemon.stop()
    again = start_daemon()
    with pytest.raises(RefusedError, match=r"1 frozen arrays of 4 bytes have other names"):
        start_agent(again.url, 2, initial_weights=whole() | {"base": np.zeros(1, np.float32)}).join()


def test_agent_without_a_model_is_told_what_it_needs(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_run(start_daemon)
    with pytest.raises(RefusedError, match=r"^the run trains only arrays of .* give it initial_weights"):
        start_agent(daemon.url, 1, initial_weights=None).join()


def test_wildcards_that_match_nothing_are_told_by_the_aggregator(
    start_daemon: StartDaemon, start_agent: StartAgent
) -> None:
    daemon = start_run(start_daemon, compression={"arrays": ["*adapter*"]})
    with pytest.raises(RefusedError, match=r"no array matches .*the model has 'lora\.b', 'base'"):
        start_agent(daemon.url, 1, initial_weights=whole).join()


def test_wildcards_that_match_nothing_of_an_initial_file_are_told_at_once(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    np.savez(tmp_path / "all.npz", allow_pickle=False, **whole())
    initial = {"file": str(tmp_path / "all.npz")}
    with pytest.raises(SettingsError, match=r"^run r: initial: no array matches .*has 'base', 'lora"):
        start_run(start_daemon, initial=initial, compression={"arrays": ["*adapter*"]})


def test_agent_that_polls_takes_part_too(start_daemon: StartDaemon, start_agent: StartAgent) -> None:
    daemon = start_run(start_daemon)
    agents = [
        start_agent(daemon.url, number, train_whole, initial_weights=whole, connection="poll", poll_s=0.1)
        for number in (1, 2)
    ]
    for agent in agents:
        assert_equal(agent.join().weights, expected(3))


def test_frozen_array_that_is_trained_all_the_same_is_told_once(
    start_daemon: StartDaemon, start_agent: StartAgent, caplog: pytest.LogCaptureFixture
) -> None:
    def train_all(task: TrainingTask) -> TrainResult:
        return TrainResult({name: array + 1 for name, array in task.weights.items()}, 1)

    daemon = start_run(start_daemon, round={"min_agents": 1, "min_updates": 1})
    with caplog.at_level(logging.WARNING, "fl_main.agent"):
        final = start_agent(daemon.url, 1, train_all, initial_weights=whole).join()
    assert_equal(final.weights, expected(3))
    assert [record.message for record in caplog.records if "is frozen" in record.message] == [
        "array 'base' was changed by the training, but is frozen in this run (compression.arrays): "
        "the change is not sent, and every task begins with the array as it was"
    ]


def test_run_local_does_the_same() -> None:
    ran = run_local(
        train_adapters,
        {"north": None, "south": None},
        whole(),
        rounds=2,
        evaluate=lambda weights, _: evaluate(weights),
        settings=SETTINGS,
    )
    assert_equal(ran.weights, expected(2))
    assert ran.metrics[-1]["evaluate_size"] == BASE_VALUES + 9
    with pytest.raises(WeightsError, match="no array matches"):
        run_local(train_adapters, {"north": None}, {"base": whole()["base"]}, settings=SETTINGS)
