"""Small histories to store: one run, a few agents, models of ten numbers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fl_main.db import ModelStore
from fl_main.deltas import subtract
from fl_main.store import (
    AgentRecord,
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RoundRecord,
    RunRecord,
    RunStatus,
    StepRecord,
    StoredPayload,
    TagRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.training import Kind
from fl_main.weights import Array, Layout, pack

RUN_ID = "run-1"
RUN = RunRecord(
    RUN_ID,
    "hearts",
    {"name": "hearts", "round": {"deadline_s": 1.5}},
    "sha256:" + "0" * 64,
    RunStatus.RUNNING,
    Phase.WAITING,
)


def weights(value: float) -> dict[str, Array]:
    """A model that is told by one number."""
    return {"layer/w": np.full((3, 3), value, np.float32), "bias": np.array([value, 0.5, -1.0])}


LAYOUT = Layout.of(weights(0.0))


def stage(store: ModelStore, name: str, value: float, channel: str = "weights") -> StoredPayload:
    return stage_arrays(store, name, weights(value), channel)


def stage_arrays(
    store: ModelStore, name: str, arrays: dict[str, Array], channel: str = "weights"
) -> StoredPayload:
    staging = store.stage(name, LAYOUT)
    staging.write(bytes(pack(arrays, LAYOUT)))
    return StoredPayload(channel, staging.finish(), LAYOUT.nbytes, LAYOUT, name)


def model(
    model_id: str, payload: StoredPayload, round_id: int = 1, kind: ModelKind = ModelKind.LOCAL, **more: Any
) -> ModelRecord:
    return ModelRecord(model_id, RUN_ID, round_id, kind, payload, **more)


def agent(agent_id: str, is_present: bool = True) -> AgentRecord:
    return AgentRecord(RUN_ID, agent_id, f"site {agent_id}", {"beds": 3}, ("train",), "fl_main", is_present)


def task(task_id: str, agent_id: str, round_id: int = 1, **more: Any) -> TaskRecord:
    base = TaskRecord(
        task_id,
        RUN_ID,
        round_id,
        Kind.TRAIN,
        agent_id,
        TaskStatus.OPEN,
        None,
        0,
        0,
        2**63 - 1,
        float(round_id),
    )
    return replace(base, **more)


def update(task_id: str, agent_id: str, round_id: int = 1, **more: Any) -> UpdateRecord:
    base = UpdateRecord(
        task_id,
        RUN_ID,
        round_id,
        Kind.TRAIN,
        agent_id,
        Verdict.ACCEPTED,
        num_examples=10,
        metrics={"loss": 0.25},
    )
    return replace(base, **more)


def step(round_id: int, invited: tuple[str, ...], **more: Any) -> StepRecord:
    base = StepRecord(RUN_ID, round_id, Kind.TRAIN, 0, "open", invited, invited, "all", float(round_id), 60.0)
    return replace(base, **more)


def round_record(round_id: int, **more: Any) -> RoundRecord:
    return replace(RoundRecord(RUN_ID, round_id, "open", started_s=float(round_id)), **more)


def metric(
    model_id: str, round_id: int, name: str, value: float, agent_id: str | None = None
) -> MetricRecord:
    source = "train" if name == "loss" else "evaluate"
    return MetricRecord(
        RUN_ID, round_id, model_id, agent_id, source, name, value, 20, 2 if agent_id is None else 1
    )


def begin(store: ModelStore, agents: str = "ab") -> None:
    """A run with its agents and an initial model `initial`."""
    initial = model("initial", stage(store, f"{RUN_ID}.initial", 0.0), 0, ModelKind.INITIAL)
    store.commit([RUN, EventRecord(RUN_ID, "run_created", actor="ann")], 100.0)
    store.commit([*map(agent, agents)], 101.0)
    store.commit(
        [initial, round_record(0, status="done", model_id="initial"), replace(RUN, model_id="initial")], 102.0
    )


def ask(store: ModelStore, round_id: int, base: str, agents: str = "ab") -> None:
    """Round `round_id` begins: tasks `t<round><agent>` are out."""
    records: list[Record] = [
        round_record(round_id, base_model_id=base),
        step(round_id, tuple(agents)),
        *(task(f"t{round_id}{name}", name, round_id, model_id=base) for name in agents),
        replace(RUN, phase=Phase.COLLECTING, round_id=round_id, kind=Kind.TRAIN, model_id=base),
    ]
    store.commit(records, 100.0 + 10 * round_id)


def answer(
    store: ModelStore, round_id: int, name: str, value: float, at: float | None = None
) -> UpdateRecord:
    """An agent's update is stored: model `m<round><agent>`."""
    task_id, model_id = f"t{round_id}{name}", f"m{round_id}{name}"
    payload = stage(store, f"{task_id}.weights", value)
    found = update(
        task_id, name, round_id, digests={"weights": payload.digest}, model_id=model_id, size=payload.size
    )
    records: list[Record] = [
        model(model_id, payload, round_id, agent_id=name),
        found,
        task(task_id, name, round_id, status=TaskStatus.ANSWERED),
        metric(model_id, round_id, "loss", value, name),
        EventRecord(RUN_ID, "update_accepted", round_id, name),
    ]
    store.commit(records, at or 101.0 + 10 * round_id)
    return found


def answer_delta(store: ModelStore, task_id: str, name: str, value: float, base: str) -> UpdateRecord:
    """What a task of round 1 made of a model that is told by 0.5 is stored as a delta: `d-<task>`."""
    delta = subtract(weights(0.5), weights(value), LAYOUT)
    payload, model_id = stage_arrays(store, f"{task_id}.weights", delta), f"d-{task_id}"
    digests = {"weights": payload.digest}
    found = update(task_id, name, digests=digests, model_id=model_id, size=payload.size, received_s=7.0)
    store.commit(
        [
            model(model_id, payload, agent_id=name, parents=((base, None),), form="delta"),
            found,
            task(task_id, name, status=TaskStatus.ANSWERED, model_id=base),
        ],
        150.0,
    )
    return found


def publish(store: ModelStore, round_id: int, updates: list[UpdateRecord], value: float) -> str:
    """The round's global model `g<round>` is stored and tagged, its updates are counted."""
    model_id, base = f"g{round_id}", f"g{round_id - 1}" if round_id > 1 else "initial"
    share = 1.0 / len(updates)
    parents = tuple((found.model_id or "", share) for found in updates)
    payload = stage(store, f"{RUN_ID}.{round_id}.train", value)
    frozen = tuple(found.task_id for found in updates)
    invited = tuple(found.agent_id for found in updates)
    records: list[Record] = [
        model(model_id, payload, round_id, ModelKind.GLOBAL, parents=parents),
        *(replace(found, counted_in=round_id, staleness=0, share=share) for found in updates),
        metric(model_id, round_id, "loss", value),
        metric(model_id, round_id, "accuracy", 1 - value),
        TagRecord(RUN_ID, "final", model_id),
        step(round_id, invited, status="done", frozen=frozen, ended_s=round_id + 0.5),
        round_record(round_id, status="done", base_model_id=base, model_id=model_id, ended_s=round_id + 0.5),
        replace(RUN, round_id=round_id, model_id=model_id, rounds_done=round_id, run_time_s=round_id + 0.5),
    ]
    store.commit(records, 105.0 + 10 * round_id)
    return model_id


def train(store: ModelStore, rounds: int = 2, agents: str = "ab") -> None:
    """A run with some whole rounds."""
    begin(store, agents)
    base = "initial"
    for round_id in range(1, rounds + 1):
        ask(store, round_id, base, agents)
        found = [answer(store, round_id, name, round_id + i / 10) for i, name in enumerate(agents)]
        base = publish(store, round_id, found, 1 / (round_id + 1))


@contextmanager
def tampering(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection that no rule of ours holds back."""
    with closing(sqlite3.connect(folder / "fl.db")) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        yield connection
        connection.commit()
