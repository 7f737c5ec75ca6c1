"""Whole runs in a database: `run_local`'s sites and machine, whose records and models are stored."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fl_main.db import ModelStore
from fl_main.events import AgentJoined, Event
from fl_main.ledger import Outcome
from fl_main.local import LocalTask
from fl_main.local.defaults import rounds_of
from fl_main.local.driver import Driver
from fl_main.local.sites import Program
from fl_main.rounds import RoundMachine
from fl_main.settings.files import parse_run
from fl_main.store import AgentRecord, ModelRecord, Record
from fl_main.strategies import compose
from fl_main.training import NamedArrays, TrainResult
from fl_main.weights import Array, Role

SITES = {
    name: number
    for number, name in enumerate(
        ["trusted", "amy", "bob", "cia", "dan", "eve", "fay", "gus", "hal", "ida"], 1
    )
}
WEIGHTS = NamedArrays(
    {
        "layer/w": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
        "bias": np.array([0.5, -1.0, 2.0]),
        "norm/mean": np.array([1.0, 2.0], np.float32),
        "norm/count": np.array(5, np.int64),
    },
    {"norm/mean": Role.BUFFER, "norm/count": Role.BUFFER},
)


class Recorder(Driver):
    """A local run, each of whose transactions goes into a store."""

    def __init__(self, store: ModelStore, run_id: str, late: Mapping[str, float], *driver: Any) -> None:
        super().__init__(*driver)
        self._late = late
        self._store = store
        self._staged = 0
        stated = self._settings.model_dump(mode="json")
        self._machine.run = replace(self._machine.run, run_id=run_id, settings=stated)
        self._machine.adopt = self._begin_with  # type: ignore[method-assign,assignment]

    def _begin_with(self, model: ModelRecord) -> Outcome:
        run_id = self._machine.run.run_id
        named = replace(model, model_id=f"{run_id}.initial", run_id=run_id)
        return RoundMachine.adopt(self._machine, named)

    def _schedule(self, delay_s: float, happening: Callable[[], Event]) -> None:
        if isinstance(happening, partial) and happening.func is AgentJoined:
            delay_s = self._late.get(happening.args[0], delay_s)
        super()._schedule(delay_s, happening)

    def _take(self, outcome: Outcome) -> None:
        if outcome.records:
            self._store.commit([self._stored_as(record) for record in outcome.records], 100.0 + self._at)
        super()._take(outcome)

    def _stored_as(self, record: Record) -> Record:
        """Stage a model's arrays, as a daemon has done by then."""
        if isinstance(record, AgentRecord):
            return replace(record, software="tests")
        if not isinstance(record, ModelRecord):
            return replace(record, run_id=self._machine.run.run_id)
        self._staged += 1
        staging = self._store.stage(f"{record.run_id}.{self._staged}", record.payload.layout)
        staging.write(bytes(self._files[record.payload.digest].data))
        assert staging.finish() == record.payload.digest
        payload = replace(record.payload, staged=staging.name)
        return replace(record, run_id=self._machine.run.run_id, payload=payload)


def train(task: LocalTask, up: tuple[str, ...] = (), num_steps: int = 3) -> TrainResult:
    """What stands for training: some numbers that follow from the site, the model and the seed."""
    chance = np.random.default_rng(task.seed)

    def noise(array: Array) -> Array:
        return (chance.standard_normal(array.shape) / 10).astype(array.dtype)

    trained = {name: array for name, array in task.weights.items() if name in task.trained}
    weights = {name: array - array / (5 + task.data) + noise(array) for name, array in trained.items()}
    weights["norm/mean"] = task.weights["norm/mean"] + np.float32(task.data)
    weights["norm/count"] = task.weights["norm/count"] + task.data
    channels = {
        name: {key: noise(array).astype(array.dtype) for key, array in trained.items()} for name in up
    }
    metrics = {"loss": 1.0 / (task.data + task.round_id), "a_k": 2.0}
    return TrainResult(
        NamedArrays(weights, WEIGHTS.roles),
        10 * task.data,
        num_steps=num_steps,
        metrics=metrics,
        channels=channels,
    )


def record(
    store: ModelStore,
    strategy: Any = "fedavg",
    options: Mapping[str, Any] | None = None,
    *,
    name: str = "hearts",
    rounds: int = 3,
    sites: Mapping[str, int] = SITES,
    seconds: Callable[[str, int], float] | None = None,
    settings: Mapping[str, Any] | None = None,
    training: Callable[..., TrainResult] = train,
    late: Mapping[str, float] | None = None,
) -> None:
    """Do a whole run and store it.

    Args:
        sites: What each is told by: its number.
        settings: Further ones; `round` says what a round needs, all sites unless it does.
        late: Virtual seconds after which some sites join for the first time.
        training: Called with the task, the strategy's extra channels and the optimizer's steps.
    """
    made = compose(strategy, options or {})
    stated = {
        "name": name,
        "strategy": strategy,
        "strategy_options": dict(options or {}),
        "evaluate": {"every": 0},
        "best": {"source": "train"},
        "end": {"rounds": rounds},
        **(settings or {}),
        "round": rounds_of(len(sites), settings or {}),
    }
    num_steps = 1 if strategy == "fedsgd" else 3

    def trained(task: LocalTask) -> TrainResult:
        return training(task, made.up, num_steps)

    checked = parse_run(stated, "test")
    Recorder(store, f"run-{name}", late or {}, checked, Program(trained), sites, WEIGHTS, seconds).run()
