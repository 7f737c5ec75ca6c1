"""Models encoded and decoded in memory."""

from collections.abc import Mapping

import numpy as np

from fl_main.compression import Codec, Signal, chance_of, left_of
from fl_main.sources import Held, Source
from fl_main.weights import Array, Layout, Role, views
from tests.fl_main.strategies.arrays import Memory


def held(arrays: Mapping[str, Array], roles: Mapping[str, Role] | None = None) -> Held:
    return Held(arrays, Layout.of(arrays, roles))


def encoded(codec: Codec, signal: Signal, seed: int = 1) -> Memory:
    model = signal.vector.model
    return Memory(codec.layout(model), bytearray().join(codec.encode(signal, chance_of(seed))))


def left(codec: Codec, signal: Signal, stored: Source) -> Memory:
    return Memory(codec.left_layout(signal.vector.model), bytearray().join(left_of(codec, signal, stored)))


def arrays_of(source: Source) -> dict[str, Array]:
    """Read all of a source at once."""
    data = bytearray(source.layout.nbytes)
    source.read_into(0, memoryview(data))
    return views(source.layout, data)


def there_and_back(
    codec: Codec, arrays: Mapping[str, Array], roles: Mapping[str, Role] | None = None, seed: int = 1
) -> dict[str, Array]:
    """Return a model as it is once it was encoded and decoded."""
    model = held(arrays, roles)
    return arrays_of(codec.decoded(encoded(codec, codec.signal(model), seed), model.layout))


def as_float64(array: Array) -> Array:
    return array.astype(np.float64)
