"""Local models in the form in which they would travel: as they are, as differences, encoded."""

from collections import defaultdict
from collections.abc import Container

from fl_main.compression import Codec, Signal, chance_of, left_of
from fl_main.deltas import subtract
from fl_main.local.kept import Residuals
from fl_main.local.models import Models, arrays_in
from fl_main.rounds import RoundMachine
from fl_main.sources import Memory
from fl_main.store import StoredPayload, TaskRecord
from fl_main.weights import pack


class Sender:
    """Sends for all sites.

    Attributes:
        residuals: By site: what codecs left out of its updates.
    """

    def __init__(self, machine: RoundMachine, models: Models) -> None:
        self.residuals: defaultdict[str, Residuals] = defaultdict(Residuals)
        self._machine = machine
        self._models = models

    def as_sent(self, task: TaskRecord, local: StoredPayload, uncounted: Container[str]) -> StoredPayload:
        """Return what travels of a local model.

        Args:
            task: Of which it came.
            local: It.
            uncounted: The site's tasks of which it was told, with this one, that they will be counted.

        Raises:
            WeightsError: If it has values that the run's codec cannot say.
        """
        base, files = self._models.source(task.model_id), self._models.files
        if local.layout != base.layout:  # the round machine says what is wrong with it
            return local
        file, codec, is_delta = files[local.digest], self._machine.codec, self._machine.form == "delta"
        if codec is not None:
            left = self.residuals[task.agent_id].newest(uncounted)
            signal = codec.signal(file, base if is_delta else None, left)
            return files.keep(self._encoded(codec, signal, task, left))
        if is_delta:
            delta = subtract(arrays_in(base), arrays_in(file), local.layout)
            return files.keep(Memory(local.layout, pack(delta, local.layout)))
        return local

    def _encoded(self, codec: Codec, signal: Signal, task: TaskRecord, basis: Memory | None) -> Memory:
        model = signal.vector.model
        sent = Memory(codec.layout(model), bytearray().join(codec.encode(signal, chance_of(task.seed))))
        if self._machine.settings.compression.feeds_back:
            left = Memory(codec.left_layout(model), bytearray().join(left_of(codec, signal, sent)))
            self.residuals[task.agent_id].put(task.task_id, basis, left)
        return sent
