"""A run such as one would look at: six hospitals, one odd, one slow, one that sends nonsense once."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fl_main.db import ModelStore
from fl_main.settings import RunSettings
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

AGENTS = ("st-mary", "charite", "karolinska", "mayo", "tokyo-general", "uni-lab")
ODD, SLOW, WRONG = "uni-lab", "mayo", "charite"  # far from the others; late; once without examples
STARTED_AT = 1_793_000_000.0
ROUND_S = 60.0
DEADLINE_S = 55.0


def settings(name: str, rounds: int) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": name,
            "purpose": "Malignant or benign: six hospitals train one model on biopsies",
            "strategy": "fedavg",
            "round": {"min_agents": 4, "min_updates": 3, "quorum": 0.8, "deadline_s": DEADLINE_S},
            "end": {"rounds": rounds},
            "best": {"metric": "accuracy", "direction": "max"},
            "config": {"learning_rate": 0.1, "epochs": 2},
        }
    )


class Story:
    """Writes a run round by round, as a daemon would.

    Args:
        names: Of its agents.
    """

    def __init__(
        self,
        store: ModelStore,
        name: str = "breast-cancer",
        rounds: int = 12,
        names: tuple[str, ...] = AGENTS,
        seed: int = 0,
    ) -> None:
        self._store = store
        self._names = names
        self._chance = np.random.default_rng(seed)
        given = settings(name[:100] if name.isascii() else "story", rounds)
        self._run_id = f"run-{seed:04}"
        self._rounds = rounds
        self._values = self._noise(1.0)
        self._layout = Layout.of(self._values)
        stored = {**given.model_dump(mode="json"), "name": name}
        self._run = RunRecord(self._run_id, name, stored, given.digest, RunStatus.RUNNING, Phase.WAITING)
        self._best = 0.0
        self._updates: dict[str, UpdateRecord] = {}  # of this round, the good ones

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def is_over(self) -> bool:
        return self._run.rounds_done == self._rounds

    def begin(self) -> None:
        """The run is created, its agents join, the first of them brings a model."""
        created = EventRecord(self._run_id, "run_created", actor="ann")
        self._commit(0.0, self._run, created)
        for i, name in enumerate(self._names):
            self._commit(1.0 + i, self._agent(name), EventRecord(self._run_id, "agent_joined", 0, name))
        model_id = self._model_id(0)
        initial = self._model(model_id, 0, ModelKind.INITIAL, self._values)
        first = RoundRecord(self._run_id, 0, "done", model_id=model_id, started_s=0.0, ended_s=0.0)
        self._run = replace(self._run, model_id=model_id)
        self._commit(9.0, initial, first, self._run)

    def ask(self) -> None:
        """The next round begins."""
        number = self._run.rounds_done + 1
        at = self._start(number)
        self._run = replace(
            self._run, phase=Phase.COLLECTING, round_id=number, kind=Kind.TRAIN, run_time_s=at + 1
        )
        begun = RoundRecord(self._run_id, number, "open", base_model_id=self._run.model_id, started_s=at)
        self._commit(at, begun, self._step(number, "open"), self._run, *map(self._task, self._names))

    def answer(self, name: str) -> None:
        """An agent's update comes, or what is wrong of it."""
        number = self._run.round_id
        task = self._task(name)
        took = self._took(name)
        at = self._start(number) + took
        update = UpdateRecord(
            task.task_id,
            self._run_id,
            number,
            Kind.TRAIN,
            name,
            Verdict.ACCEPTED,
            num_examples=100 + 20 * self._names.index(name),
            metrics={"loss": self._loss(name)},
            seconds=took * 0.9,
            received_s=at,
            size=self._layout.nbytes,
        )
        answered = replace(task, status=TaskStatus.ANSWERED)
        self._run = replace(self._run, run_time_s=max(self._run.run_time_s, at))
        if name == WRONG and number % 5 == 2:
            why = "num_examples is 0; it must be at least 1"
            wrong = replace(update, verdict=Verdict.REJECTED, reason=why, num_examples=0)
            self._commit(at, wrong, answered, self._run)
        elif took > DEADLINE_S:
            late = replace(update, verdict=Verdict.DISCARDED, reason="late: round was over")
            self._commit(at, late, answered, self._run)
        else:
            model_id = f"{task.task_id}.weights"
            arrays = self._local(name)
            model = self._model(
                model_id, number, ModelKind.LOCAL, arrays, name, ((self._run.model_id or "", None),)
            )
            stored = replace(update, model_id=model_id, digests={"weights": model.payload.digest})
            self._updates[name] = stored
            accepted = EventRecord(self._run_id, "update_accepted", number, name)
            metric = self._metric(number, model_id, "train", "loss", update.metrics["loss"], name)
            self._commit(at, model, stored, answered, metric, accepted, self._run)

    def publish(self) -> None:
        """The round ends with a global model, which the agents evaluate."""
        number = self._run.round_id
        at = self._start(number) + DEADLINE_S
        counted = [name for name in self._names if self._is_good(name)]
        model_id = self._model_id(number)
        share = 1 / len(counted)
        parents = tuple((f"{self._task(name).task_id}.weights", share) for name in counted)
        self._values = self._moved()
        model = self._model(model_id, number, ModelKind.GLOBAL, self._values, parents=parents)
        accuracy = 1 - 0.45 / (number + 1) ** 0.8 - (0.02 if number % 4 == 0 else 0)
        is_best = accuracy > self._best
        self._best = max(self._best, accuracy)
        is_last = number == self._rounds
        self._run = replace(
            self._run,
            model_id=model_id,
            rounds_done=number,
            phase=Phase.ENDED if is_last else Phase.WAITING,
            status=RunStatus.FINISHED if is_last else RunStatus.RUNNING,
            reason=f"{number} rounds are done" if is_last else "",
            run_time_s=at + 4,
            kind=None,
            best_model_id=model_id if is_best else self._run.best_model_id,
            best_value=self._best,
            best_round=number if is_best else self._run.best_round,
        )
        busy_s = sum(self._took(name) for name in counted)
        done = RoundRecord(
            self._run_id,
            number,
            "done",
            started_s=self._start(number),
            ended_s=at,
            model_id=model_id,
            busy_s=busy_s,
            wasted_s=sum(map(self._took, self._names)) - busy_s,
            idle_s=12.0 * len(counted),
        )
        means = [
            self._metric(number, model_id, "train", "loss", self._loss(self._names[0])),
            self._metric(number, model_id, "evaluate", "accuracy", accuracy),
            self._metric(number, model_id, "evaluate", "loss", 1 / (number + 1)),
        ]
        middle = (len(self._names) - 1) / 2
        own = [
            self._metric(number, model_id, "evaluate", "accuracy", accuracy + 0.01 * (middle - i), name)
            for i, name in enumerate(self._names)
        ]
        own += [
            self._metric(number, model_id, "evaluate", "loss", (1 + 0.1 * (i - middle)) / (number + 1), name)
            for i, name in enumerate(self._names)
        ]
        tags = [TagRecord(self._run_id, "best", model_id)] if is_best else []
        tags += [TagRecord(self._run_id, "final", model_id)] if is_last else []
        agents = [self._agent(name, number if name == ODD else 0) for name in self._names]
        updates = [self._counted(name, number, share) for name in counted]
        published = EventRecord(self._run_id, "model_published", number, details={"updates": len(counted)})
        records: list[Record] = [
            *updates,
            self._step(number, "done", at),
            done,
            *means,
            *own,
            *tags,
            *agents,
            published,
        ]
        self._commit(at + 4, model, *records, self._run)

    def round(self) -> None:
        """One round from start to end."""
        self.ask()
        for name in sorted(self._names, key=self._took):
            self.answer(name)
        self.publish()

    def train(self, rounds: int | None = None) -> "Story":
        """The run, or so many rounds of it."""
        self.begin()
        for _ in range(self._rounds if rounds is None else rounds):
            self.round()
        return self

    # --- records --------------------------------------------------------------------------

    def _commit(self, at: float, *records: Record) -> None:
        self._store.commit(records, STARTED_AT + at)

    def _start(self, number: int) -> float:
        return 10.0 + ROUND_S * (number - 1)

    def _took(self, name: str) -> float:
        i, number = self._names.index(name), self._run.round_id
        if name == SLOW and number % 3 == 0:
            return DEADLINE_S + 3
        return 20.0 + 4 * i + 7 * math.sin(number * (i + 1))

    def _is_good(self, name: str) -> bool:
        return not (name == WRONG and self._run.round_id % 5 == 2) and self._took(name) <= DEADLINE_S

    def _loss(self, name: str) -> float:
        return (1.0 if name != ODD else 1.8) / (self._run.round_id + 1) + 0.01 * self._names.index(name)

    def _model_id(self, number: int) -> str:
        return f"{self._run_id}.g{number}"

    def _agent(self, name: str, outlying: int = 0) -> AgentRecord:
        return AgentRecord(
            self._run_id,
            name,
            name,
            {"beds": 100 + 50 * self._names.index(name), "region": "eu"},
            ("train", "evaluate"),
            "fl_main 0.1.0",
            is_present=True,
            outlying=outlying,
        )

    def _task(self, name: str) -> TaskRecord:
        number = self._run.round_id
        return TaskRecord(
            f"{self._run_id}.t{number}.{self._names.index(name)}",
            self._run_id,
            number,
            Kind.TRAIN,
            name,
            TaskStatus.OPEN,
            self._run.model_id,
            number - 1,
            number - 1,
            7,
            self._start(number),
        )

    def _step(self, number: int, status: str, ended_s: float | None = None) -> StepRecord:
        at = self._start(number)
        names = self._names
        return StepRecord(
            self._run_id, number, Kind.TRAIN, 0, status, names, names, "all", at, DEADLINE_S, ended_s=ended_s
        )

    def _counted(self, name: str, number: int, share: float) -> UpdateRecord:
        return replace(self._updates.pop(name), counted_in=number, staleness=0, share=share)

    def _metric(
        self, number: int, model_id: str, source: str, name: str, value: float, agent_id: str | None = None
    ) -> MetricRecord:
        agents = len(self._names) if agent_id is None else 1
        return MetricRecord(
            self._run_id, number, model_id, agent_id, source, name, value, 40 * agents, agents
        )

    def _model(
        self,
        model_id: str,
        number: int,
        kind: ModelKind,
        arrays: dict[str, Array],
        agent_id: str | None = None,
        parents: tuple[tuple[str, float | None], ...] = (),
    ) -> ModelRecord:
        staging = self._store.stage(model_id, self._layout)
        staging.write(bytes(pack(arrays, self._layout)))
        digest = staging.finish()
        payload = StoredPayload("weights", digest, self._layout.nbytes, self._layout, model_id)
        return ModelRecord(model_id, self._run_id, number, kind, payload, agent_id, parents)

    # --- weights --------------------------------------------------------------------------

    def _noise(self, scale: float) -> dict[str, Array]:
        draw = self._chance.standard_normal
        return {
            "conv.weight": (scale * draw((16, 9))).astype(np.float32),
            "head.weight": (scale * draw((2, 16))).astype(np.float32),
            "head.bias": (scale * draw(2)).astype(np.float32),
        }

    def _moved(self, scale: float = 0.1) -> dict[str, Array]:
        return {name: (array + add).astype(np.float32) for (name, array), add in self._pairs(scale)}

    def _pairs(self, scale: float) -> Iterator[tuple[tuple[str, Array], Array]]:
        return zip(self._values.items(), self._noise(scale).values(), strict=True)

    def _local(self, name: str) -> dict[str, Array]:
        return self._moved(0.5 if name == ODD else 0.08)
