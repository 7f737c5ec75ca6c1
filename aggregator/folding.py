"""The fold over stored updates: from the store's files to a staged model. Runs in a thread."""

import contextlib

from fl_main.events import Fold, StepFolded
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import DataFile, StagingFile, Store, StoredPayload, UpdateRecord
from fl_main.strategies import strategy_of
from fl_main.strategies.fold import Answer, fold, fold_free, fold_sum, state_layout
from fl_main.training import Kind
from fl_main.weights import Layout


def fold_step(store: Store, settings: RunSettings, machine: RoundMachine, effect: Fold) -> StepFolded:
    """Fold a frozen step's updates into a staged model.

    The machine is only read: while a step is frozen, what is read of it does not change.

    Raises:
        UpdateRejectedError: If the updates cannot be combined.
        StoreError: If a file cannot be read or written.
    """
    with contextlib.ExitStack() as opened:
        return _Folding(store, settings, machine, effect, opened).result()


def staging_name(run_id: str, effect: Fold) -> str:
    """Return what the names of a fold's staging files begin with: no other fold's do."""
    return f"{run_id}-{effect.round_id}-{effect.kind}-{effect.attempt}"


class _Folding:
    """One fold and the files that it has open."""

    def __init__(
        self,
        store: Store,
        settings: RunSettings,
        machine: RoundMachine,
        effect: Fold,
        opened: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._settings = settings
        self._machine = machine
        self._effect = effect
        self._opened = opened
        self._origins: dict[str, DataFile] = {}

    def result(self) -> StepFolded:
        """Fold as the step's kind and the run's layout ask for."""
        answers = [self._answer(update) for update in self._effect.updates]
        if self._effect.kind is Kind.STATISTICS:
            return self._sums(answers)
        if self._settings.payload == "free":
            return self._free_model(answers)
        return self._model(answers)

    def _answer(self, update: UpdateRecord) -> Answer:
        payloads = self._machine.payloads_of(update)
        return Answer(
            self._machine.contribution_of(update),
            {payload.channel: self._read(payload) for payload in payloads},
            self._origin(update),
            is_delta=self._machine.is_delta(update),
        )

    def _origin(self, update: UpdateRecord) -> DataFile | None:
        """Return the model that an update was trained on; opened once however many were."""
        model = self._machine.models.get(self._machine.base_of(update) or "")
        if model is None or update.kind is not Kind.TRAIN:
            return None
        if model.model_id not in self._origins:
            self._origins[model.model_id] = self._read(model.payload)
        return self._origins[model.model_id]

    def _sums(self, answers: list[Answer]) -> StepFolded:
        layout = answers[0].payloads["weights"].layout
        sink = self._stage("weights", layout)
        fold_sum(answers, layout, sink)
        return StepFolded(self._effect, _staged(sink, layout, "weights"))

    def _free_model(self, answers: list[Answer]) -> StepFolded:
        data = fold_free(strategy_of(self._settings), answers)
        layout = Layout.free(len(data))
        sink = self._stage("weights", layout)
        sink.write(data)
        return StepFolded(self._effect, _staged(sink, layout, "weights"))

    def _model(self, answers: list[Answer]) -> StepFolded:
        strategy, run, models = strategy_of(self._settings), self._machine.run, self._machine.models
        base = self._read(models[run.model_id or ""].payload)
        before = {name: self._read(models[model_id].payload) for name, model_id in run.state_ids.items()}
        sink, layout = self._stage("weights", base.layout), state_layout(base.layout)
        after = {name: self._stage(name, layout) for name in strategy.state}
        folded = fold(strategy, answers, base, before, sink, after)
        return StepFolded(
            self._effect,
            _staged(sink, base.layout, "weights"),
            {name: _staged(staging, layout, name) for name, staging in after.items()},
            folded.shares,
            folded.notes,
        )

    def _read(self, payload: StoredPayload) -> DataFile:
        file = self._store.read(payload.digest, payload.layout)
        self._opened.callback(file.close)
        return file

    def _stage(self, channel: str, layout: Layout) -> StagingFile:
        name = staging_name(self._machine.run.run_id, self._effect)
        staging = self._store.stage(f"{name}.{channel}", layout)
        self._opened.callback(staging.close)
        return staging


def _staged(staging: StagingFile, layout: Layout, channel: str) -> StoredPayload:
    return StoredPayload(channel, staging.finish(), layout.nbytes, layout, staging.name)
