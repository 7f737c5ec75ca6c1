"""The models of a local run, by their ids in its round machine."""

from collections.abc import Mapping

from fl_main.compression.words import from_words
from fl_main.local.files import Files
from fl_main.rounds import RoundMachine
from fl_main.sources import Memory, Source
from fl_main.store import StoredPayload
from fl_main.weights import Array, views


class Models:
    """What the round machine calls models, as arrays.

    Attributes:
        files: Where they are kept.
    """

    def __init__(self, machine: RoundMachine, files: Files) -> None:
        self.files = files
        self._machine = machine

    def payload(self, model_id: str | None) -> StoredPayload:
        """Return a model as it travels."""
        return self._machine.models[model_id or ""].payload

    def source(self, model_id: str | None) -> Source:
        """Return a model's arrays, decoded if it is kept as it travels."""
        model = self._machine.models[model_id or ""]
        file, codec = self.files[model.payload.digest], from_words(model.codec)
        layout = self._machine.layout
        return file if codec is None or layout is None else codec.decoded(file, layout)

    def arrays(self, model_id: str | None) -> Mapping[str, Array]:
        """Return a model's arrays by name; of no model, none."""
        return arrays_in(self.source(model_id)) if model_id else {}


def arrays_in(source: Source) -> dict[str, Array]:
    """Return the arrays of a source."""
    if isinstance(source, Memory):
        return views(source.layout, source.data)
    data = bytearray(source.layout.nbytes)
    source.read_into(0, memoryview(data))
    return views(source.layout, data)
