"""Federated training of several sites in one call, without a daemon.

The same round machine, strategies and fold as the daemon's, driven in memory: for the first
minutes, for tests, for debugging a training function before it goes to the sites. Where sites
are told how long they take, time is virtual: a fleet of slow and fast ones is tried in seconds.
"""

import heapq
import logging
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fl_main.compression import Codec, Signal, chance_of, left_of
from fl_main.compression.words import from_words
from fl_main.deltas import subtract
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.errors import FLError, RunFailedError, SettingsError, WeightsError
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
    Steered,
    StepFolded,
    TaskDeclined,
    TimePassed,
    UpdateOffered,
    UpdateReceived,
    UpdateSpoiled,
)
from fl_main.frozen import FrozenArrays, divided
from fl_main.ledger import Outcome
from fl_main.personal import PrivateArrays, private_of
from fl_main.plan import next_step
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.settings_files import parse_run
from fl_main.sources import Memory, Source
from fl_main.store import (
    MetricRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RoundRecord,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StoredPayload,
    TaskRecord,
    UpdateRecord,
    Verdict,
)
from fl_main.strategies import strategy_of
from fl_main.strategies.fold import Answer as FoldAnswer
from fl_main.strategies.fold import as_channel, fold, fold_free, fold_sum, state_layout
from fl_main.training import Asked, Evaluation, Kind, NamedArrays, TrainResult, as_metrics, evaluation_of
from fl_main.weights import Array, Layout, Role, as_arrays, pack, views

logger = logging.getLogger("fl_main.local")


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task of `run_local`; see `fl_main.training.TrainingTask`.

    Attributes:
        site: The name of the site whose turn it is.
        data: What was given for that site.
    """

    site: str
    data: Any
    run_id: str
    round_id: int
    base_round: int
    weights: Mapping[str, Array]
    trained: tuple[str, ...]
    config: Mapping[str, Any]
    correction: Mapping[str, Any]
    seed: int
    statistics: Mapping[str, Array]
    channels: Mapping[str, Mapping[str, Array]]
    state: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class LocalRound:
    """What came of a round.

    Attributes:
        time_s: Virtual seconds since the beginning.
        weights: The new global model.
        staleness: Of the updates that are part of it, in the order in which they were combined.
        busy_s: Seconds that sites spent on updates that were accepted; since the round before.
        wasted_s: Seconds that they spent on what came to nothing.
        idle_s: Seconds that they had nothing to do.
        bytes_up: What sites sent, as it would travel; since the round before.
        bytes_down: What they were sent: a model goes once to each site.
    """

    round_id: int
    time_s: float
    weights: Mapping[str, Array]
    staleness: Sequence[int]
    busy_s: float
    wasted_s: float
    idle_s: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What came of a run.

    Attributes:
        weights: The final model.
        metrics: One row per round: its means over the sites, `train_…` and `evaluate_…`.
        rounds: Global models made.
        time_s: Virtual seconds that it took, where sites were told how long they take.
        bytes_up: What sites sent in all, as it would travel: encoded, if the settings say so.
        bytes_down: What they were sent in all: a model goes once to each site.
    """

    weights: Mapping[str, Array]
    metrics: Sequence[Mapping[str, float]]
    rounds: int
    time_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


def run_local(
    train: Callable[[LocalTask], TrainResult],
    sites: Mapping[str, Any],
    initial_weights: Mapping[str, Any],
    *,
    rounds: int = 10,
    config: Mapping[str, Any] | None = None,
    evaluate: Callable[..., Evaluation] | None = None,
    statistics: Callable[[Any], Mapping[str, Any]] | None = None,
    strategy: str | Sequence[str | Mapping[str, Any]] = "",
    strategy_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    seconds: Callable[[str, int], float] | None = None,
    on_round: Callable[[LocalRound], None] | None = None,
) -> LocalRun:
    """Train one model over several sites, in this process.

    Args:
        train: The function that `Agent.run` takes; `task.data` holds the site's data.
        sites: Data of each site, by its name; passed on as it is.
        initial_weights: The model to start from.
        rounds: Global models to make.
        config: Passed to the training function as `task.config`.
        evaluate: Measures a global model on a site's data, after every round: `evaluate(weights, data)`;
            a parameter `state` gets what the site kept.
        statistics: Returns sums and counts of a site's data, to be added up before round 1.
        strategy: Its name in the settings, or a list of steps; default: what the mode has by default.
        strategy_options: The options of one name.
        seed: The tasks' seeds follow from it.
        settings: Further settings of a run, as in its file: `{"mode": "async"}`. Without others,
            a sync round needs an update of every site, and one update is enough in other modes.
        seconds: Returns how long a site takes for its n-th task (0, 1, …): virtual seconds, in
            which deadlines and the order of updates are those of such a fleet.
        on_round: Called with each new global model.

    Raises:
        SettingsError: If the strategy is unknown, a setting is out of range, or there is no site.
        WeightsError: If what a function of yours gave back are no arrays or numbers.
        RunFailedError: If a round cannot be completed: the reason names the site.
    """
    if not sites:
        raise SettingsError("sites: there is none; at least one is needed")
    if seconds is not None and not callable(seconds):
        raise SettingsError("run_local: seconds must be a function of a site's name and a number")
    stated: dict[str, Any] = {
        "name": "local",
        "strategy_options": dict(strategy_options or {}),
        "seed": seed,
        "statistics": statistics is not None,
        "config": dict(config or {}),
        "evaluate": {"every": 1 if evaluate else 0},
        **({"strategy": strategy if isinstance(strategy, str) else list(strategy)} if strategy else {}),
        **(settings or {}),
        "end": {"rounds": rounds, **(settings or {}).get("end", {})},
        "round": _rounds_of(len(sites), settings or {}),
    }
    checked = parse_run(stated, "run_local")
    driver = _LocalDriver(checked, train, sites, evaluate, statistics, seconds, on_round)
    return driver.run(initial_weights)


def _rounds_of(sites: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `round`: a sync round needs every site unless the settings say otherwise."""
    waits_for_all = settings.get("mode", "sync") == "sync"
    defaults: dict[str, Any] = {"min_agents": sites, "min_updates": sites if waits_for_all else 1}
    if "round" not in settings:
        defaults["max_failed_rounds"] = 1
    return {**defaults, **settings.get("round", {})}


@dataclass(slots=True)
class _Traffic:
    """Bytes that would travel.

    Attributes:
        held: Digest of the model that each site fetched last.
    """

    up: int = 0
    down: int = 0
    held: dict[str, str] = field(default_factory=dict)

    def fetch(self, site: str, payload: StoredPayload) -> None:
        """Let a site have a model, if it does not have it."""
        if self.held.get(site) != payload.digest:
            self.held[site] = payload.digest
            self.down += payload.size


class _States:
    """What sites keep with their updates: current once these were counted, as at an agent."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Mapping[str, Array]]] = {}  # by site and task, oldest first

    def put(self, site: str, task_id: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays for the case that a task's update is counted."""
        self._kept.setdefault(site, {})[task_id] = FrozenArrays(arrays).arrays

    def promote(self, site: str, task_id: str) -> None:
        """Make the arrays kept with a task current, unless newer ones are, and forget older ones."""
        kept = self._kept.get(site, {})
        if task_id in kept:
            tasks = list(kept)
            newer = {task: kept[task] for task in tasks[tasks.index(task_id) + 1 :]}
            self._kept[site] = {"": kept[task_id], **newer}

    def drop(self, site: str, task_id: str) -> None:
        """Forget what was kept with an update that will not be counted."""
        self._kept.get(site, {}).pop(task_id, None)

    def current(self, site: str) -> Mapping[str, Array]:
        """Return the arrays kept with the last update that was counted."""
        return self._kept.get(site, {}).get("", {})


class _LocalDriver:
    """Carries out what the round machine asks for, one site after the other."""

    def __init__(
        self,
        settings: RunSettings,
        train: Callable[[LocalTask], TrainResult],
        sites: Mapping[str, Any],
        evaluate: Callable[..., Evaluation] | None,
        statistics: Callable[[Any], Mapping[str, Any]] | None,
        seconds: Callable[[str, int], float] | None = None,
        on_round: Callable[[LocalRound], None] | None = None,
    ) -> None:
        self._settings = settings
        self._train = train
        self._sites = sites
        self._evaluate = evaluate
        self._statistics = statistics
        self._seconds = seconds
        self._on_round = on_round
        self._at = 0.0
        self._coming: list[tuple[float, int, Callable[[], Event]]] = []  # a heap: when, in which order
        self._scheduled = 0
        self._done: dict[str, int] = {}  # tasks, by site
        self._staleness: list[int] = []
        self._told = 0  # the last round that somebody was told of
        self._files: dict[str, Memory] = {}
        self._states = _States()
        self._private = PrivateArrays("", {})
        self._metrics: dict[int, dict[str, float]] = {}
        self._roles: dict[str, Role] = {}  # of the arrays of the first weights, where training does not say
        self._frozen = FrozenArrays({})  # what the run does not train
        self._complaint = ""  # why an update did not count
        self._has_told = False  # of something that is asked for and that nobody looks at
        self._left: dict[str, Memory] = {}  # by site: what codecs left out of its updates so far
        self._left_then: dict[str, Memory] = {}  # by site: the same, if its open update is accepted
        self._on_the_way: dict[str, Offered] = {}  # by task
        self._traffic = _Traffic()
        self._told_traffic = _Traffic()
        strategy = strategy_of(settings)
        run = RunRecord("local", settings.name, {}, settings.digest, RunStatus.PAUSED, Phase.WAITING)
        self._machine = RoundMachine(settings, strategy, RunSnapshot(run))

    def run(self, initial_weights: Mapping[str, Any]) -> LocalRun:
        """Join every site, then work until nothing is left to do."""
        self._roles = dict(getattr(initial_weights, "roles", {}))
        first = private_of(as_arrays(initial_weights), self._roles)
        self._private = PrivateArrays(self._machine.run.run_id, FrozenArrays(first).arrays)
        initial = self._keep(self._trained_of(initial_weights))
        self._roles |= {spec.name: spec.role for spec in initial.layout.arrays}
        self._take(self._machine.adopt(ModelRecord("initial", "local", 0, ModelKind.INITIAL, initial)))
        kinds = (
            [Kind.TRAIN] + [Kind.EVALUATE] * bool(self._evaluate) + [Kind.STATISTICS] * bool(self._statistics)
        )
        for name in self._sites:
            self._schedule(0.0, partial(AgentJoined, name, name, tuple(kinds)))
        self._schedule(0.0, partial(Steered, "resume", "run_local"))  # nothing begins before all are here
        self._go_on()
        record = self._machine.run
        if record.status is not RunStatus.FINISHED:
            waits = f"it waits for {self._machine.need(next_step(record, self._settings).kind)}"
            ended = record.reason or waits
            reason = f"{ended}; {self._complaint}" if self._complaint else ended
            raise RunFailedError(f"the run ended after {record.rounds_done} rounds: {reason}")
        metrics = list(self._metrics.values())
        final, traffic = self._whole(record.model_id), self._traffic
        return LocalRun(final, metrics, record.rounds_done, self._at, traffic.up, traffic.down)

    def _trained_of(self, initial_weights: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the run trains of the first weights; the others are kept for all sites."""
        if not (patterns := self._settings.compression.arrays):
            return initial_weights
        roles = getattr(initial_weights, "roles", {})
        arrays = as_arrays(initial_weights).items()
        shared = {name: array for name, array in arrays if roles.get(name) is not Role.PRIVATE}
        trained, frozen = divided(shared, patterns)
        self._frozen = FrozenArrays(frozen)
        return NamedArrays(trained, {name: role for name, role in roles.items() if name in trained})

    def _go_on(self) -> None:
        """Let things happen in the order of their time until nothing is left, or the run is over."""
        while self._coming and not self._machine.run.status.is_over:
            wakeup_s = self._machine.next_wakeup()
            if wakeup_s is not None and wakeup_s < self._coming[0][0]:
                self._at = max(self._at, wakeup_s)
                event: Event = TimePassed()
            else:
                self._at, _, happening = heapq.heappop(self._coming)
                event = happening()
            self._take(self._machine.handle(event, self._at))

    def _schedule(self, delay_s: float, happening: Callable[[], Event]) -> None:
        self._scheduled += 1
        heapq.heappush(self._coming, (self._at + delay_s, self._scheduled, happening))

    def _take(self, outcome: Outcome) -> None:
        for record in outcome.records:
            self._note(record)
        for effect in outcome.effects:
            self._perform(effect)

    def _note(self, record: Record) -> None:
        if isinstance(record, MetricRecord) and record.agent_id is None:
            row = self._metrics.setdefault(record.round_id, {"round": record.round_id})
            row[f"{record.source}_{record.name}"] = record.value
        elif isinstance(record, UpdateRecord) and record.counted_in is not None and record.kind is Kind.TRAIN:
            self._staleness.append(record.staleness or 0)
            self._states.promote(record.agent_id, record.task_id)
        elif isinstance(record, UpdateRecord) and record.verdict is not Verdict.ACCEPTED:
            self._states.drop(record.agent_id, record.task_id)
        elif isinstance(record, RoundRecord) and record.status == "done" and record.round_id > self._told:
            self._tell_round(record)

    def _tell_round(self, record: RoundRecord) -> None:
        self._told = record.round_id
        staleness, self._staleness = self._staleness, []
        if self._on_round is not None:
            weights = self._whole(record.model_id)
            effort = (record.busy_s, record.wasted_s, record.idle_s)
            self._on_round(
                LocalRound(record.round_id, self._at, weights, staleness, *effort, *self._traffic_since())
            )

    def _traffic_since(self) -> tuple[int, int]:
        """Return bytes up and down since this was asked last."""
        now, then = self._traffic, self._told_traffic
        self._told_traffic = _Traffic(now.up, now.down)
        return now.up - then.up, now.down - then.down

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Assign):
            self._schedule(self._time_of(effect.task), lambda: self._work(effect.task))
        elif isinstance(effect, Receive):
            self._on_the_way[effect.offer.task_id] = effect.offer
            self._schedule(0.0, lambda: self._received(effect.offer))
        elif isinstance(effect, Fold):
            self._schedule(0.0, lambda: self._fold(effect))
        elif isinstance(effect, Answer):
            self._heard(effect)
        elif isinstance(effect, Prune):
            self._drop_files()

    def _heard(self, answer: Answer) -> None:
        left = self._left_then.pop(answer.agent_id, None)
        if answer.verdict is not Verdict.ACCEPTED:
            self._complaint = f"{answer.agent_id}: {answer.reason}"
        elif left is not None:
            self._left[answer.agent_id] = left

    def _time_of(self, task: TaskRecord) -> float:
        """Return how long a site takes for a task; only training takes time."""
        if self._seconds is None or task.kind is not Kind.TRAIN:
            return 0.0
        number = self._done.get(task.agent_id, 0)
        self._done[task.agent_id] = number + 1
        stated = self._seconds(task.agent_id, number)
        if isinstance(stated, numbers.Real) and 0 <= (seconds := float(stated)) < math.inf:
            return seconds
        asked = f"seconds({task.agent_id!r}, {number})"
        raise SettingsError(f"run_local: {asked} gave {stated!r}, which is no duration")

    def _received(self, offer: Offered) -> Event:
        del self._on_the_way[offer.task_id]
        for channel, payload in offer.payloads.items():
            check = self._machine.check_of(offer.task_id, payload)
            if wrong := check.first_wrong(0, self._files[payload.digest].data):
                return UpdateSpoiled(offer, f"{channel}: {wrong}")
        return UpdateReceived(offer)

    def _drop_files(self) -> None:
        """Let go what the machine does not refer to any more, but what is on its way to it."""
        used = {model.payload.digest for model in self._machine.models.values()}
        for offer in self._on_the_way.values():
            used.update(payload.digest for payload in offer.payloads.values())
        self._files = {digest: file for digest, file in self._files.items() if digest in used}

    def _work(self, task: TaskRecord) -> Event:
        offer = self._answered(task, self._sites[task.agent_id])
        if isinstance(offer, TaskDeclined):
            return offer
        self._traffic.up += sum(payload.size for payload in offer.payloads.values())
        return UpdateOffered(offer)

    def _answered(self, task: TaskRecord, data: Any) -> Offered | TaskDeclined:
        if task.kind is Kind.STATISTICS and self._statistics:
            sums = self._keep(self._statistics(data))
            return Offered(task.task_id, task.agent_id, 0, payloads={"weights": sums})
        if task.kind is Kind.EVALUATE and self._evaluate:
            measured = self._evaluated(self._evaluate, task, data)
            metrics = as_metrics(measured.metrics)
            return Offered(task.task_id, task.agent_id, measured.num_examples, metrics=metrics)
        return self._trained(task, data)

    def _evaluated(self, evaluate: Callable[..., Evaluation], task: TaskRecord, data: Any) -> Evaluation:
        kept = self._states.current(task.agent_id)
        return evaluation_of(evaluate, self._fetched(task), data, state=lambda: self._private.others(kept))

    def _fetched(self, task: TaskRecord) -> Mapping[str, Array]:
        """Return a task's model as a site sees it."""
        self._traffic.fetch(task.agent_id, self._machine.models[task.model_id or ""].payload)
        private = self._private.of(self._states.current(task.agent_id))
        return {**self._whole(task.model_id), **private}

    def _trained(self, task: TaskRecord, data: Any) -> Offered | TaskDeclined:
        asked = Asked(self._machine.strategy.correction())
        result = self._train(
            LocalTask(
                task.agent_id,
                data,
                task.run_id,
                task.round_id,
                task.model_round,
                self._fetched(task),
                self._machine.layout.trained if self._machine.layout else (),
                {**self._settings.config, **task.config},
                asked,
                task.seed,
                self._arrays_of(self._machine.run.statistics_id),
                {
                    name: self._arrays_of(self._machine.run.state_ids.get(name))
                    for name in self._machine.strategy.down
                    if name in self._machine.run.state_ids  # as the daemon does: none in round 1
                },
                self._private.others(self._states.current(task.agent_id)),
            )
        )
        if (said := asked.warning) and not self._has_told:
            self._has_told = True
            logger.warning("%s", said)
        if not isinstance(result, TrainResult):
            self._complaint = f"{task.agent_id}: train returned {type(result).__name__}, not a TrainResult"
            return TaskDeclined(task.task_id, task.agent_id, "error", self._complaint)
        self._keep_own(task, result)
        trained = NamedArrays(self._frozen.without(result.weights), self._roles_of(result.weights))
        local, base = self._keep(trained), self._source(task.model_id)
        try:
            payloads = {"weights": self._as_sent(local, base, task.agent_id, task.seed)}
        except WeightsError as error:  # values that no codec can encode
            self._complaint = f"{task.agent_id}: {error}"
            return TaskDeclined(task.task_id, task.agent_id, "error", self._complaint)
        payloads |= {
            name: self._keep(as_channel(self._frozen.without(as_arrays(arrays)), base.layout), name)
            for name, arrays in result.channels.items()
        }
        return Offered(
            task.task_id,
            task.agent_id,
            result.num_examples,
            result.num_steps,
            as_metrics(result.metrics),
            payloads,
        )

    def _keep_own(self, task: TaskRecord, result: TrainResult) -> None:
        """Keep what a site keeps with its update: private arrays, and what its training wants."""
        private = private_of(result.weights, self._roles_of(result.weights))
        current = self._states.current(task.agent_id)
        kept = self._private.to_keep(current, private, result.state)
        if kept is not None:
            self._states.put(task.agent_id, task.task_id, kept)

    def _roles_of(self, weights: Mapping[str, Any]) -> dict[str, Role]:
        """Return the roles of an update's arrays: what was private at first stays so, as at an agent."""
        private = {name: role for name, role in self._roles.items() if role is Role.PRIVATE}
        return {**self._roles, **getattr(weights, "roles", {}), **private}

    def _as_sent(self, local: StoredPayload, base: Source, site: str, seed: int) -> StoredPayload:
        """Return a local model in the form in which it would travel."""
        if local.layout != base.layout:  # the round machine says what is wrong with it
            return local
        file, codec, is_delta = self._files[local.digest], self._machine.codec, self._settings.form == "delta"
        if codec is not None:
            signal = codec.signal(file, base if is_delta else None, self._left.get(site))
            return self._stored(self._encoded(codec, signal, site, seed))
        if is_delta:
            delta = subtract(_arrays_in(base), _arrays_in(file), local.layout)
            return self._stored(Memory(local.layout, pack(delta, local.layout)))
        return local

    def _encoded(self, codec: Codec, signal: Signal, site: str, seed: int) -> Memory:
        model = signal.vector.model
        sent = Memory(codec.layout(model), bytearray().join(codec.encode(signal, chance_of(seed))))
        if self._settings.compression.feeds_back:
            left = bytearray().join(left_of(codec, signal, sent))
            self._left_then[site] = Memory(codec.left_layout(model), left)
        return sent

    def _answer(self, update: UpdateRecord) -> FoldAnswer:
        base_id = self._machine.base_of(update)
        payloads: dict[str, Source] = {
            channel: self._files[digest] for channel, digest in update.digests.items()
        }
        if codec := from_words(self._machine.codec_of(update)):
            payloads["weights"] = codec.decoded(payloads["weights"], self._source(base_id).layout)
        return FoldAnswer(
            self._machine.contribution_of(update),
            payloads,
            self._source(base_id) if base_id else None,
            is_delta=self._machine.is_delta(update),
        )

    def _fold(self, effect: Fold) -> Event:
        answers = [self._answer(update) for update in effect.updates]
        try:
            return self._folded(effect, answers)
        except FLError as error:
            return FoldFailed(effect, str(error))

    def _folded(self, effect: Fold, answers: list[FoldAnswer]) -> StepFolded:
        layout = answers[0].payloads["weights"].layout
        sink = Memory(layout)
        if effect.kind is Kind.STATISTICS:
            fold_sum(answers, layout, sink)
            return StepFolded(effect, self._stored(sink))
        strategy = strategy_of(self._settings)
        if self._settings.payload == "free":
            data = fold_free(strategy, answers)
            return StepFolded(effect, self._stored(Memory(Layout.free(len(data)), bytearray(data))))
        record = self._machine.run
        base = self._source(record.model_id)
        before = {name: self._source(state_id) for name, state_id in record.state_ids.items()}
        after = {name: Memory(state_layout(base.layout)) for name in strategy.state}
        version, agents = record.rounds_done + 1, self._machine.trainers()
        folded = fold(strategy, answers, base, before, sink, after, version=version, agents=agents)
        states = {name: self._stored(memory) for name, memory in after.items()}
        return StepFolded(
            effect, self._stored(sink), states, folded.shares, folded.notes, self._download(sink)
        )

    def _download(self, model: Memory) -> StoredPayload | None:
        """Keep a new global model as it would travel, beside it; None if it travels as it is."""
        codec = self._machine.download_codec
        if codec is None:
            return None
        data = bytearray().join(codec.encode(codec.signal(model), chance_of(0)))  # it draws nothing
        return self._stored(Memory(codec.layout(model.layout), data))

    def _source(self, model_id: str | None) -> Source:
        """Return a model's arrays, decoded if it is kept as it travels."""
        model = self._machine.models[model_id or ""]
        file, codec = self._files[model.payload.digest], from_words(model.codec)
        layout = self._machine.layout
        return file if codec is None or layout is None else codec.decoded(file, layout)

    def _whole(self, model_id: str | None) -> Mapping[str, Array]:
        """Return a model as programs see it."""
        return self._frozen.merged(self._arrays_of(model_id))

    def _arrays_of(self, model_id: str | None) -> Mapping[str, Array]:
        return _arrays_in(self._source(model_id)) if model_id else {}

    def _keep(self, values: Mapping[str, Any], channel: str = "weights") -> StoredPayload:
        """Keep what would leave the site: arrays have the roles that they know."""
        arrays, known = as_arrays(values), getattr(values, "roles", {})
        layout = Layout.of(arrays, {n: r for n, r in known.items() if n in arrays}).without_private()
        return self._stored(Memory(layout, pack(arrays, layout)), channel)

    def _stored(self, memory: Memory, channel: str = "weights") -> StoredPayload:
        digest = file_digest(memory.layout, DigestAlgorithm.BLAKE3)
        digest.update(memory.data)
        name = tagged(digest)
        self._files[name] = memory
        return StoredPayload(channel, name, len(memory.data), memory.layout)


def _arrays_in(source: Source) -> dict[str, Array]:
    if isinstance(source, Memory):
        return views(source.layout, source.data)
    data = bytearray(source.layout.nbytes)
    source.read_into(0, memoryview(data))
    return views(source.layout, data)
