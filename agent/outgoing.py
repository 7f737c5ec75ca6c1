"""An update in the form in which it travels: as it is, as a difference, encoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fl_main.compression import Codec, chance_of, left_of
from fl_main.compression.words import from_words
from fl_main.deltas import subtract
from fl_main.messages import Assign
from fl_main.sources import Held, Source
from fl_main.weights import Array, Layout, Weights, pieces

# Returns the number and the arrays of what updates before this one left out.
ResidualOf = Callable[[], tuple[int, Mapping[str, Array]]]


@dataclass(frozen=True, slots=True)
class Residual:
    """What a lossy codec leaves out of an update: the next one begins with it once this one is counted.

    Attributes:
        basis: The number of the residual that was added to the update before.
        layout: Of its arrays.
        data: Returns its bytes in pieces, given the encoded update.
    """

    basis: int
    layout: Layout
    data: Callable[[Source], Iterator[memoryview]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One set of arrays on its way into the outbox.

    Attributes:
        layout: Of what travels.
        data: Its bytes in pieces; they can be taken once.
    """

    layout: Layout
    data: Iterable[memoryview]
    residual: Residual | None = None

    @classmethod
    def of(cls, weights: Weights, layout: Layout) -> "Outgoing":
        """Return arrays as they are."""
        return cls(layout, pieces(weights, layout))


def outgoing(
    assign: Assign, base: Weights, local: Weights, layout: Layout, residual_of: ResidualOf
) -> Outgoing:
    """Return a local model in the form that its task asks for.

    Args:
        assign: The task.
        base: What the training began with.
        local: What came of it; it must not change until it is written.
        layout: Of both.
        residual_of: Asked if the task says that errors are fed back.

    Raises:
        SettingsError: If the task asks for a codec that there is not.
    """
    codec = from_words(assign.codec)
    is_delta = assign.form == "delta"
    if codec is None:
        return Outgoing.of(subtract(base, local, layout) if is_delta else local, layout)
    basis, left = residual_of() if assign.feeds_back else (0, {})
    signal = codec.signal(
        Held(local, layout), Held(base, layout) if is_delta else None, _held(left, codec, layout)
    )
    residual = None
    if assign.feeds_back:
        residual = Residual(basis, codec.left_layout(layout), lambda stored: left_of(codec, signal, stored))
    return Outgoing(codec.layout(layout), codec.encode(signal, chance_of(assign.seed)), residual)


def _held(left: Mapping[str, Array], codec: Codec, layout: Layout) -> Source | None:
    return Held(left, codec.left_layout(layout)) if left else None
