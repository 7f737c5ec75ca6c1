"""The fold over stored updates: from the store's files to a staged model. It blocks: call it in a thread.

A daemon folds so, and whoever folds again what is stored (`fl_main.db.whatif`).
"""

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from fl_main.compression import chance_of, download_codec_of
from fl_main.compression.words import from_words
from fl_main.errors import StoreError
from fl_main.events import Fold, StepFolded
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.sources import Sink, Source
from fl_main.store import DataFile, StoredPayload, UpdateRecord
from fl_main.strategies import strategy_of
from fl_main.strategies.base import Contribution
from fl_main.strategies.fold import Answer, fold, fold_free, fold_sum, state_layout
from fl_main.training import Kind
from fl_main.weights import Layout

OPEN_FILES = 128  # each is a descriptor, and a thousand updates are folded together


class Staging(Source, Sink, Protocol):
    """What a fold writes, and then reads to encode it: a part of `StagingFile`, whose methods they are."""

    @property
    def name(self) -> str:
        """What `StoredPayload.staged` calls it."""

    def finish(self) -> str:
        """Close what is complete and return its tagged digest."""

    def close(self) -> None:
        """Close what is not."""


class Files(Protocol):
    """Where a fold reads from and writes to: a part of `Store`, whose methods they are."""

    def stage(self, name: str, layout: Layout) -> Staging:
        """Open a staging file."""

    def read(self, digest: str, layout: Layout) -> DataFile:
        """Open a stored payload."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One update as the store has it.

    Attributes:
        codec: Of its weights.
        origin: The model that it was trained on, if that is stored.
        origin_codec: Of that.
    """

    facts: Contribution
    payloads: tuple[StoredPayload, ...]
    codec: str
    origin: StoredPayload | None
    origin_codec: str
    is_delta: bool


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """All that a fold needs to know of its run, which may go on meanwhile.

    Attributes:
        staging: What the names of its staging files begin with: no other fold's do.
        version: Which global model of the run it will be, from 1 on.
        agents: How many agents of the run may train.
        base: The run's model, once there is one.
        state: The strategy's arrays before, by name.
    """

    effect: Fold
    staging: str
    version: int
    agents: int
    updates: tuple[Stored, ...]
    base: StoredPayload | None
    state: dict[str, StoredPayload]


def fold_plan(machine: RoundMachine, effect: Fold) -> FoldPlan:
    """Return what a fold that the run waits for is made of."""
    run, models = machine.run, machine.models
    return FoldPlan(
        effect,
        staging_name(run.run_id, effect),
        run.rounds_done + 1,
        machine.trainers(),
        tuple(_stored(machine, update) for update in effect.updates),
        models[run.model_id].payload if run.model_id else None,
        {name: models[model_id].payload for name, model_id in run.state_ids.items()},
    )


def _stored(machine: RoundMachine, update: UpdateRecord) -> Stored:
    base = machine.models.get(machine.base_of(update) or "") if update.kind is Kind.TRAIN else None
    return Stored(
        machine.contribution_of(update),
        tuple(machine.payloads_of(update)),
        machine.codec_of(update),
        base.payload if base else None,
        base.codec if base else "",
        machine.is_delta(update),
    )


def fold_step(store: Files, settings: RunSettings, plan: FoldPlan) -> StepFolded:
    """Fold a frozen step's updates into a staged model.

    Raises:
        UpdateRejectedError: If the updates cannot be combined.
        StoreError: If a file cannot be read or written.
    """
    with contextlib.closing(_OpenFiles(store)) as files, contextlib.ExitStack() as opened:
        return _Folding(store, settings, plan, files, opened).result()


def staging_name(run_id: str, effect: Fold) -> str:
    """Return what the names of a fold's staging files begin with: no other fold's do."""
    return f"{run_id}-{effect.round_id}-{effect.kind}-{effect.attempt}"


class _OpenFiles:
    """The stored files that a fold reads, of which so many are open at a time."""

    def __init__(self, store: Files) -> None:
        self._store = store
        self._open: OrderedDict[str, DataFile] = OrderedDict()

    def read_into(self, payload: StoredPayload, offset: int, buffer: memoryview) -> None:
        """Read a part of a file, opened if it is not."""
        file = self._open.pop(payload.digest, None) or self._store.read(payload.digest, payload.layout)
        self._open[payload.digest] = file
        while len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        file.read_into(offset, buffer)

    def close(self) -> None:
        """Close all."""
        for file in self._open.values():
            file.close()


@dataclass(frozen=True, slots=True)
class _Payload:
    """A stored payload as the fold's source."""

    files: _OpenFiles
    payload: StoredPayload

    @property
    def layout(self) -> Layout:
        """Where each array lies."""
        return self.payload.layout

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        self.files.read_into(self.payload, offset, buffer)


class _Folding:
    """One fold, and the staging files that it has open."""

    def __init__(
        self,
        store: Files,
        settings: RunSettings,
        plan: FoldPlan,
        files: _OpenFiles,
        opened: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._files = files
        self._settings = settings
        self._plan = plan
        self._effect = plan.effect
        self._opened = opened

    def result(self) -> StepFolded:
        """Fold as the step's kind and the run's layout ask for."""
        answers = [self._answer(update) for update in self._plan.updates]
        if self._effect.kind is Kind.STATISTICS:
            return self._sums(answers)
        if self._settings.payload == "free":
            return self._free_model(answers)
        return self._model(answers)

    def _answer(self, update: Stored) -> Answer:
        return Answer(
            update.facts,
            {
                payload.channel: self._source(payload, update.codec if payload.channel == "weights" else "")
                for payload in update.payloads
            },
            self._source(update.origin, update.origin_codec) if update.origin else None,
            is_delta=update.is_delta,
        )

    def _sums(self, answers: list[Answer]) -> StepFolded:
        layout = answers[0].payloads["weights"].layout
        sink = self._stage("weights", layout)
        fold_sum(answers, layout, sink)
        return StepFolded(self._effect, _staged(sink, layout, "weights"))

    def _free_model(self, answers: list[Answer]) -> StepFolded:
        data = fold_free(strategy_of(self._settings), answers)
        layout = Layout.free(len(data))
        sink = self._stage("weights", layout)
        sink.write(memoryview(data))
        return StepFolded(self._effect, _staged(sink, layout, "weights"))

    def _model(self, answers: list[Answer]) -> StepFolded:
        if self._plan.base is None:
            raise StoreError("there is no model to fold updates into")
        strategy, base = strategy_of(self._settings), self._source(self._plan.base)
        before = {name: self._source(payload) for name, payload in self._plan.state.items()}
        sink, layout = self._stage("weights", base.layout), state_layout(base.layout)
        after = {name: self._stage(name, layout) for name in strategy.state}
        plan = self._plan
        folded = fold(strategy, answers, base, before, sink, after, version=plan.version, agents=plan.agents)
        model = _staged(sink, base.layout, "weights")
        return StepFolded(
            self._effect,
            model,
            {name: _staged(staging, layout, name) for name, staging in after.items()},
            folded.shares,
            folded.notes,
            self._download(sink),
        )

    def _download(self, model: Staging) -> StoredPayload | None:
        """Write the new model as it is to travel, beside it; None if it travels as it is.

        Raises:
            WeightsError: If it has values that the codec cannot say.
        """
        codec = download_codec_of(self._settings.compression)
        if codec is None:
            return None
        layout = codec.layout(model.layout)
        sink = self._stage("download", layout)
        for piece in codec.encode(codec.signal(model), chance_of(0)):  # it rounds to the nearest
            sink.write(piece)
        return _staged(sink, layout, "weights")

    def _source(self, payload: StoredPayload, words: str = "") -> Source:
        """Return stored arrays as those of the run's model that they stand for."""
        codec, source = from_words(words), _Payload(self._files, payload)
        if codec is None or self._plan.base is None:
            return source
        return codec.decoded(source, self._plan.base.layout)

    def _stage(self, channel: str, layout: Layout) -> Staging:
        staging = self._store.stage(f"{self._plan.staging}.{channel}", layout)
        self._opened.callback(staging.close)
        return staging


def _staged(staging: Staging, layout: Layout, channel: str) -> StoredPayload:
    return StoredPayload(channel, staging.finish(), layout.nbytes, layout, staging.name)
