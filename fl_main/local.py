"""Federated training of several sites in one call, without a daemon.

The same round machine, strategies and fold as the daemon's, driven in memory: for the first
minutes, for tests, for debugging a training function before it goes to the sites.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fl_main.errors import FLError, RunFailedError, SettingsError
from fl_main.events import (
    AgentJoined,
    Answer,
    Assign,
    Effect,
    Event,
    Fold,
    FoldFailed,
    Offered,
    Prune,
    Receive,
    StepFolded,
    TaskDeclined,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.ledger import Outcome
from fl_main.rounds import RoundMachine
from fl_main.settings import EndSettings, EvaluateSettings, RoundSettings, RunSettings
from fl_main.store import (
    MetricRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StoredPayload,
    TaskRecord,
    Verdict,
)
from fl_main.strategies import Contribution, strategy_of
from fl_main.strategies.fold import Answer as FoldAnswer
from fl_main.strategies.fold import as_channel, fold, fold_sum, state_layout
from fl_main.training import Evaluation, Kind, TrainResult, as_metrics
from fl_main.weights import Array, FiniteCheck, Layout, Role, as_arrays, file_digest, pack, tagged, views


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task of `run_local`; see `fl_main.training.TrainingTask`.

    Attributes:
        site: The name of the site whose turn it is.
        data: What was given for that site.
    """

    site: str
    data: Any
    round_id: int
    weights: Mapping[str, Array]
    config: Mapping[str, Any]
    seed: int
    statistics: Mapping[str, Array]
    channels: Mapping[str, Mapping[str, Array]]
    state: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What came of a run.

    Attributes:
        weights: The final model.
        metrics: One row per round: its means over the sites, `train_…` and `evaluate_…`.
        rounds: Global models made.
    """

    weights: Mapping[str, Array]
    metrics: Sequence[Mapping[str, float]]
    rounds: int


def run_local(
    train: Callable[[LocalTask], TrainResult],
    sites: Mapping[str, Any],
    initial_weights: Mapping[str, Any],
    *,
    rounds: int = 10,
    config: Mapping[str, Any] | None = None,
    evaluate: Callable[[Mapping[str, Array], Any], Evaluation] | None = None,
    statistics: Callable[[Any], Mapping[str, Any]] | None = None,
    strategy: str = "fedavg",
    strategy_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LocalRun:
    """Train one model over several sites, in this process.

    Args:
        train: The function that `Agent.run` takes; `task.data` holds the site's data.
        sites: Data of each site, by its name; passed on as it is.
        initial_weights: The model to start from.
        rounds: Global models to make.
        config: Passed to the training function as `task.config`.
        evaluate: Measures a global model on a site's data, after every round.
        statistics: Returns sums and counts of a site's data, to be added up before round 1.
        strategy: Its name in the settings.
        strategy_options: Its options.
        seed: The tasks' seeds follow from it.

    Raises:
        SettingsError: If the strategy is unknown, a setting is out of range, or there is no site.
        WeightsError: If what a function of yours gave back are no arrays or numbers.
        RunFailedError: If a round cannot be completed: the reason names the site.
    """
    if not sites:
        raise SettingsError("sites: there is none; at least one is needed")
    try:
        settings = _settings(sites, rounds, config, evaluate, statistics, strategy, strategy_options, seed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(f"run_local: {place}: {first['msg']}") from None
    return _LocalDriver(settings, train, sites, evaluate, statistics).run(initial_weights)


def _settings(
    sites: Mapping[str, Any],
    rounds: int,
    config: Mapping[str, Any] | None,
    evaluate: object,
    statistics: object,
    strategy: str,
    strategy_options: Mapping[str, Any] | None,
    seed: int,
) -> RunSettings:
    return RunSettings(
        name="local",
        strategy=strategy,
        strategy_options=dict(strategy_options or {}),
        seed=seed,
        statistics=statistics is not None,
        config=dict(config or {}),
        end=EndSettings(rounds=rounds),
        evaluate=EvaluateSettings(every=1 if evaluate else 0),
        round=RoundSettings(min_agents=len(sites), min_updates=len(sites), max_failed_rounds=1),
    )


@dataclass(slots=True)
class _Memory:
    """Arrays in memory that the fold reads and writes."""

    layout: Layout
    data: bytearray = field(default_factory=bytearray)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, data: memoryview) -> None:
        self.data += data


class _LocalDriver:
    """Carries out what the round machine asks for, one site after the other."""

    def __init__(
        self,
        settings: RunSettings,
        train: Callable[[LocalTask], TrainResult],
        sites: Mapping[str, Any],
        evaluate: Callable[[Mapping[str, Array], Any], Evaluation] | None,
        statistics: Callable[[Any], Mapping[str, Any]] | None,
    ) -> None:
        self._settings = settings
        self._train = train
        self._sites = sites
        self._evaluate = evaluate
        self._statistics = statistics
        self._files: dict[str, _Memory] = {}
        self._states: dict[str, Mapping[str, Array]] = {}
        self._metrics: dict[int, dict[str, float]] = {}
        self._roles: dict[str, Role] = {}  # of the model's arrays, where training does not say
        self._complaint = ""  # why an update did not count
        strategy = strategy_of(settings)
        run = RunRecord("local", settings.name, {}, settings.digest, RunStatus.RUNNING, Phase.WAITING)
        self._machine = RoundMachine(settings, strategy, RunSnapshot(run, None, None, (), (), {}, ()))

    def run(self, initial_weights: Mapping[str, Any]) -> LocalRun:
        """Join every site, then work until nothing is left to do."""
        initial = self._keep(initial_weights)
        self._roles = {spec.name: spec.role for spec in initial.layout.arrays}
        self._take(self._machine.adopt(ModelRecord("initial", "local", 0, ModelKind.INITIAL, initial)))
        kinds = (
            [Kind.TRAIN] + [Kind.EVALUATE] * bool(self._evaluate) + [Kind.STATISTICS] * bool(self._statistics)
        )
        for name in self._sites:
            self._handle(AgentJoined(name, name, tuple(kinds)))
        record = self._machine.run
        if record.status is not RunStatus.FINISHED:
            reason = f"{record.reason}; {self._complaint}" if self._complaint else record.reason
            raise RunFailedError(f"the run ended after {record.rounds_done} rounds: {reason}")
        final = self._machine.models[record.model_id or ""].payload
        return LocalRun(self._weights(final), list(self._metrics.values()), record.rounds_done)

    def _handle(self, event: Event) -> None:
        self._take(self._machine.handle(event, 0.0))

    def _take(self, outcome: Outcome) -> None:
        todo = [outcome]
        while todo:
            current = todo.pop(0)
            for record in current.records:
                self._note(record)
            events = (event for effect in current.effects if (event := self._perform(effect)))
            todo.extend(self._machine.handle(event, 0.0) for event in events)

    def _note(self, record: Record) -> None:
        if isinstance(record, MetricRecord) and record.agent_id is None:
            row = self._metrics.setdefault(record.round_id, {"round": record.round_id})
            row[f"{record.source}_{record.name}"] = record.value

    def _perform(self, effect: Effect) -> Event | None:
        if isinstance(effect, Assign):
            return self._work(effect.task)
        if isinstance(effect, Receive):
            return self._received(effect.offer)
        if isinstance(effect, Fold):
            return self._fold(effect)
        if isinstance(effect, Answer) and effect.verdict is not Verdict.ACCEPTED:
            self._complaint = f"{effect.agent_id}: {effect.reason}"
        if isinstance(effect, Prune):
            self._drop_files()
        return None

    def _received(self, offer: Offered) -> Event:
        for channel, payload in offer.payloads.items():
            if bad := FiniteCheck(payload.layout).first_bad(0, self._files[payload.digest].data):
                return UpdateSpoiled(offer, f"{channel}: array {bad!r} has values that are NaN or infinite")
        return UpdateReceived(offer)

    def _drop_files(self) -> None:
        """Let go what the machine does not refer to any more; nothing is under way now."""
        used = {model.payload.digest for model in self._machine.models.values()}
        self._files = {digest: file for digest, file in self._files.items() if digest in used}

    def _work(self, task: TaskRecord) -> Event:
        data = self._sites[task.agent_id]
        if task.kind is Kind.STATISTICS and self._statistics:
            sums = self._keep(self._statistics(data))
            return UpdateOffered(Offered(task.task_id, task.agent_id, 0, payloads={"weights": sums}))
        if task.kind is Kind.EVALUATE and self._evaluate:
            measured = self._evaluate(self._weights(self._model(task.model_id)), data)
            metrics = as_metrics(measured.metrics)
            return UpdateOffered(Offered(task.task_id, task.agent_id, measured.num_examples, metrics=metrics))
        return self._trained(task, data)

    def _trained(self, task: TaskRecord, data: Any) -> Event:
        result = self._train(
            LocalTask(
                task.agent_id,
                data,
                task.round_id,
                self._weights(self._model(task.model_id)),
                self._settings.config,
                task.seed,
                self._arrays_of(self._machine.run.statistics_id),
                {
                    name: self._arrays_of(self._machine.run.state_ids.get(name))
                    for name in self._machine.strategy.down
                    if name in self._machine.run.state_ids  # as the daemon does: none in round 1
                },
                self._states.get(task.agent_id, {}),
            )
        )
        if not isinstance(result, TrainResult):
            self._complaint = f"{task.agent_id}: train returned {type(result).__name__}, not a TrainResult"
            return TaskDeclined(task.task_id, task.agent_id, "error", self._complaint)
        if result.state is not None:
            self._states[task.agent_id] = as_arrays(result.state)
        payloads = {"weights": self._keep(result.weights, roles=self._roles)}
        model = self._model(task.model_id).layout
        payloads |= {
            name: self._keep(as_channel(as_arrays(arrays), model), name)
            for name, arrays in result.channels.items()
        }
        return UpdateOffered(
            Offered(
                task.task_id,
                task.agent_id,
                result.num_examples,
                result.num_steps,
                as_metrics(result.metrics),
                payloads,
            )
        )

    def _fold(self, effect: Fold) -> Event:
        answers = [
            FoldAnswer(
                Contribution(u.agent_id, u.num_examples, u.num_steps, 0, u.metrics),
                {channel: self._files[digest] for channel, digest in u.digests.items()},
            )
            for u in effect.updates
        ]
        try:
            return self._folded(effect, answers)
        except FLError as error:
            return FoldFailed(effect, str(error))

    def _folded(self, effect: Fold, answers: list[FoldAnswer]) -> StepFolded:
        layout = answers[0].payloads["weights"].layout
        sink = _Memory(layout)
        if effect.kind is Kind.STATISTICS:
            fold_sum(answers, layout, sink)
            return StepFolded(effect, self._stored(sink))
        strategy = strategy_of(self._settings)
        record = self._machine.run
        base = self._files[self._model(record.model_id).digest]
        before = {name: self._files[self._model(i).digest] for name, i in record.state_ids.items()}
        after = {name: _Memory(state_layout(base.layout)) for name in strategy.state}
        folded = fold(strategy, answers, base, before, sink, after)
        states = {name: self._stored(memory) for name, memory in after.items()}
        return StepFolded(effect, self._stored(sink), states, folded.shares, folded.notes)

    def _model(self, model_id: str | None) -> StoredPayload:
        return self._machine.models[model_id or ""].payload

    def _arrays_of(self, model_id: str | None) -> Mapping[str, Array]:
        return self._weights(self._model(model_id)) if model_id else {}

    def _weights(self, payload: StoredPayload) -> dict[str, Array]:
        return views(payload.layout, self._files[payload.digest].data)

    def _keep(
        self, values: Mapping[str, Any], channel: str = "weights", roles: Mapping[str, Role] | None = None
    ) -> StoredPayload:
        """Keep what would leave the site: arrays have the roles they know, or else those given."""
        arrays = as_arrays(values)
        known = {**(roles or {}), **getattr(values, "roles", {})}
        layout = Layout.of(arrays, {n: r for n, r in known.items() if n in arrays}).without_private()
        return self._stored(_Memory(layout, pack(arrays, layout)), channel)

    def _stored(self, memory: _Memory, channel: str = "weights") -> StoredPayload:
        digest = file_digest(memory.layout)
        digest.update(memory.data)
        name = tagged(digest)
        self._files[name] = memory
        return StoredPayload(channel, name, len(memory.data), memory.layout)
