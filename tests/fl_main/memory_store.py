"""A model database in memory: applies records, and returns what a restart would find."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fl_main.store import (
    PAST,
    AgentPast,
    AgentRecord,
    EventRecord,
    MetricRecord,
    Milestone,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StepRecord,
    TagRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.training import Kind

UpdateKey = tuple[str, str, tuple[tuple[str, str], ...]]


def key_of(update: UpdateRecord) -> UpdateKey:
    """What tells a later verdict on the same update from another update."""
    return update.task_id, update.agent_id, tuple(sorted(update.digests.items()))


def _metric_key(record: MetricRecord) -> tuple[object, ...]:
    return record.round_id, record.model_id, record.source, record.agent_id, record.name


class MemoryStore:
    """One run's records; every commit keeps the rules that the real database has as constraints."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.rounds: dict[int, RoundRecord] = {}
        self.steps: dict[tuple[int, Kind, int], StepRecord] = {}
        self.last_step: StepRecord | None = None
        self.tasks: dict[str, TaskRecord] = {}
        self.updates: dict[UpdateKey, UpdateRecord] = {}
        self._answers: dict[str, dict[UpdateKey, None]] = {}  # of each task
        self.models: dict[str, ModelRecord] = {}
        self.tags: dict[str, str] = {}
        self.metrics: list[MetricRecord] = []
        self._metrics: Counter[tuple[object, ...]] = Counter()
        self.agents: dict[str, AgentRecord] = {}
        self.events: list[EventRecord] = []
        self.without: set[str] = set()  # models whose files are gone
        self._history: list[EventRecord | RunRecord] = []

    def commit(self, records: Sequence[Record]) -> None:
        """Apply records in their order."""
        for record in records:
            self._apply(record)
            if isinstance(record, EventRecord | RunRecord):
                self._history.append(record)
        for record in records:
            self._check(record)

    def _apply(self, record: Record) -> None:
        if isinstance(record, RunRecord):
            self.run = record
        elif isinstance(record, RoundRecord):
            self.rounds[record.round_id] = record
        elif isinstance(record, StepRecord):
            self.last_step = self.steps[record.round_id, record.kind, record.attempt] = record
        elif isinstance(record, TaskRecord):
            self.tasks[record.task_id] = record
        elif isinstance(record, UpdateRecord):
            self.updates[key_of(record)] = record
            self._answers.setdefault(record.task_id, {})[key_of(record)] = None
        elif isinstance(record, ModelRecord):
            assert record.model_id not in self.models, "a model is stored once"
            stored = replace(record, payload=replace(record.payload, staged=None))
            self.models[record.model_id] = stored
        elif isinstance(record, TagRecord):
            self.tags[record.tag] = record.model_id
        elif isinstance(record, MetricRecord):
            self.metrics.append(record)
            self._metrics[_metric_key(record)] += 1
        elif isinstance(record, AgentRecord):
            self.agents[record.agent_id] = record
        else:
            self.events.append(record)

    def _check(self, record: Record) -> None:
        if isinstance(record, UpdateRecord):
            accepted = [u for u in self.answers(record.task_id) if u.verdict is Verdict.ACCEPTED]
            assert len(accepted) <= 1, "a task has one accepted update"
            assert record.counted_in is None or record.verdict is Verdict.ACCEPTED
            assert record.model_id is None or record.model_id in self.models
        elif isinstance(record, RunRecord):
            for model_id in (record.model_id, record.statistics_id, *record.state_ids.values()):
                assert model_id is None or model_id in self.models
        elif isinstance(record, TaskRecord):
            assert record.model_id is None or record.model_id in self.models
        elif isinstance(record, MetricRecord):
            assert self._metrics[_metric_key(record)] == 1, "a metric is measured once by an agent"

    def answers(self, task_id: str) -> list[UpdateRecord]:
        """Return all updates that came for a task, in their order."""
        return [self.updates[key] for key in self._answers.get(task_id, ())]

    def find_task(self, task_id: str) -> tuple[TaskRecord, UpdateRecord | None] | None:
        """Return a task and its first recorded answer."""
        task = self.tasks.get(task_id)
        return (task, next(iter(self.answers(task_id)), None)) if task else None

    def milestone(self, round_id: int) -> Milestone | None:
        """Return how the run stood when a round was over and the next had not done anything."""
        found: RunRecord | None = None
        is_made = is_over = False
        for record in self._history:
            if is_made and isinstance(record, RunRecord):
                found = record
                if is_over:
                    break
            elif isinstance(record, EventRecord):
                if is_made and record.kind == "run_rolled_back":
                    break
                is_made |= record.kind in ("initial_model", "round_done") and record.round_id == round_id
                is_over |= is_made and record.kind == "step_started" and (record.round_id or 0) > round_id
        if found is None or found.model_id is None:
            return None
        ids = (found.model_id, *found.state_ids.values())
        return Milestone(
            round_id,
            found.model_id,
            found.state_ids,
            found.rounds_done,
            found.best_model_id,
            found.best_value,
            found.best_round,
            {model_id: self.models[model_id] for model_id in ids if model_id not in self.without},
            {agent_id: self._past(agent_id) for agent_id in self.agents},
        )

    def snapshot(self) -> RunSnapshot:
        """Return what the round machine needs to go on after a restart."""
        step = self.last_step
        if step is None or step.status not in ("open", "frozen"):
            step = None
        tasks = [
            task
            for task in self.tasks.values()
            if task.status in (TaskStatus.OPEN, TaskStatus.LATE) or self._is_of(task, step)
        ]
        is_finished = self.run.status is RunStatus.FINISHED
        asked = {task.task_id for task in tasks if self._is_of(task, step)}
        updates = [
            update for update in self.updates.values() if update.task_id in asked or _is_uncounted(update)
        ]
        return RunSnapshot(
            self.run,
            self.rounds.get(self.run.round_id),
            step,
            tuple(tasks),
            tuple(updates),
            self._models(tasks, updates),
            tuple(self.agents.values()),
            {agent_id: self._past(agent_id) for agent_id in self.agents if not is_finished},
        )

    def _past(self, agent_id: str) -> AgentPast:
        given = [
            task for task in self.tasks.values() if task.agent_id == agent_id and task.kind is Kind.TRAIN
        ]
        took_s = [
            update.received_s - self.tasks[update.task_id].assigned_s
            for update in self.updates.values()
            if update.agent_id == agent_id
            and update.kind is Kind.TRAIN
            and update.verdict is Verdict.ACCEPTED
        ]
        asked_s = max((task.assigned_s for task in given), default=None)
        return AgentPast(len(given), asked_s, tuple(took_s[-PAST:]))

    def _is_of(self, task: TaskRecord, step: StepRecord | None) -> bool:
        return step is not None and (
            (task.round_id, task.kind) == (step.round_id, step.kind) and task.assigned_s >= step.started_s
        )

    def _models(
        self, tasks: Sequence[TaskRecord], updates: Sequence[UpdateRecord]
    ) -> Mapping[str, ModelRecord]:
        wanted = {self.run.model_id, self.run.statistics_id, *self.run.state_ids.values()}
        wanted.update(task.model_id for task in tasks)
        wanted.update(update.model_id for update in updates)
        locals_ = [self.models[update.model_id] for update in updates if update.model_id]
        wanted.update(model.parents[0][0] for model in locals_ if model.parents)
        return {model_id: model for model_id, model in self.models.items() if model_id in wanted}


def _is_uncounted(update: UpdateRecord) -> bool:
    return update.verdict is Verdict.ACCEPTED and update.counted_in is None and update.kind is Kind.TRAIN
