"""The fold: stored updates in, the next global model out, block by block.

Nothing here knows whether a block comes from a file or from memory, and nothing grows with
the number of updates: one buffer serves them all (a rule that asks for a `stack` gets smaller
blocks instead). Parameters go through the strategy. Buffers and integers do not: an adaptive
optimizer on a running variance could make it negative.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import StrategyError, UpdateRejectedError
from fl_main.precision import decoded, stored_as
from fl_main.sources import Sink, Source
from fl_main.strategies.base import Contribution, Strategy, Values
from fl_main.strategies.fedavg import fold_mean, running_shares
from fl_main.weights import Array, ArraySpec, DType, Layout, Segment, is_finite

BLOCK_BYTES = 512 << 10  # two of them fit a core's second-level cache
MEASURE_BYTES = 512 << 10  # of a measuring pass: sums have the same bits only if the cuts are the same
STACK_BYTES = 32 << 20  # what a stack of all updates may take
ROUNDING = 1e-9  # by which shares that add up to 1 may miss it


@dataclass(frozen=True, slots=True)
class Answer:
    """One update as the fold takes it: its facts, and where its arrays are, by channel.

    Attributes:
        origin: The model that it was trained on; needed where the strategy wants another form.
        is_delta: Whether its float parameters are differences from the origin's.
    """

    facts: Contribution
    payloads: Mapping[str, Source]
    origin: Source | None = None
    is_delta: bool = False


@dataclass(frozen=True, slots=True)
class Folded:
    """What the strategy says of a fold.

    Attributes:
        shares: Each update's part of the new model, None where that has no meaning.
        notes: What was measured of each update.
    """

    shares: tuple[float | None, ...]
    notes: tuple[Mapping[str, float], ...]


def state_layout(layout: Layout) -> Layout:
    """Return the layout of a strategy's state, and of extra channels, for models of `layout`.

    One array per float parameter, in the precision that the fold computes in.
    """
    return Layout(
        (ArraySpec(spec.name, spec.dtype.computed, spec.shape) for spec in layout.arrays if spec.is_trained),
        ordered=True,
    )


def as_channel(arrays: Mapping[str, Array], model: Layout) -> dict[str, Array]:
    """Return the arrays of an extra channel in the precision and order of `state_layout`.

    Arrays with other names come back as they are: the round machine says what is wrong with them.
    """
    layout = state_layout(model)
    if {spec.name for spec in layout.arrays} != arrays.keys():
        return dict(arrays)
    return {spec.name: arrays[spec.name].astype(spec.dtype.stored, copy=False) for spec in layout.arrays}


def fold(
    strategy: Strategy,
    answers: Sequence[Answer],
    base: Source,
    state: Mapping[str, Source],
    sink: Sink,
    state_sinks: Mapping[str, Sink],
    *,
    version: int = 1,
    agents: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> Folded:
    """Combine updates into the next global model.

    Args:
        strategy: A fresh instance.
        answers: At least one, in the order in which they count.
        base: The global model as it is now.
        state: The strategy's arrays before; one that is missing is zeros.
        sink: Takes the new model's data.
        state_sinks: Take the strategy's arrays after, by name.
        version: Which global model of the run this will be, from 1 on.
        agents: How many agents of the run may train; at least those that sent these updates.
        block_bytes: How much of an update is held at a time while they are combined.

    Raises:
        UpdateRejectedError: If the updates cannot be combined, or the result is not finite.
        StrategyError: If the strategy says of the updates what cannot be.
    """
    if len(answers) < strategy.min_updates:
        raise UpdateRejectedError(too_few(len(answers), strategy))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when it is written
        agents = max(agents, len({answer.facts.agent for answer in answers}))
        cursor = _Cursor(answers, base, state, version, agents, wants_deltas=strategy.wants == "deltas")
        return _folded(strategy, answers, cursor, sink, state_sinks, block_bytes)


def _folded(
    strategy: Strategy,
    answers: Sequence[Answer],
    cursor: "_Cursor",
    sink: Sink,
    state_sinks: Mapping[str, Sink],
    block_bytes: int,
) -> Folded:
    _begin(strategy, answers)
    most = STACK_BYTES // len(answers) if strategy.stacks else max(block_bytes, MEASURE_BYTES)
    for number in range(strategy.passes):
        for block in cursor.blocks(min(MEASURE_BYTES, most)):
            if block.segment.is_trained:
                strategy.measure(number, block)
    shares = _checked_shares(strategy, len(answers))
    for block in cursor.blocks(min(block_bytes, most)):
        if block.segment.is_trained:
            strategy.combine(block)
            for name in strategy.state:
                state_sinks[name].write(_encoded(block.state[name], block.segment.dtype.computed))
            sink.write(_encoded(block.out, block.segment.dtype))
        elif strategy.takes_buffers and block.segment.dtype.is_float:
            strategy.combine_buffer(block)
            sink.write(_encoded(block.out, block.segment.dtype))
        elif strategy.takes_buffers:
            sink.write(_encoded(block.median(strategy.integers_of()), block.segment.dtype))
        else:
            sink.write(_encoded(block.average(shares), block.segment.dtype))
    notes = tuple(strategy.notes()) or ({},) * len(answers)
    if len(notes) != len(answers):
        raise StrategyError(f"the strategy gives {len(notes)} notes for {len(answers)} updates")
    return Folded(shares or (None,) * len(answers), notes)


def _begin(strategy: Strategy, answers: Sequence[Answer]) -> None:
    """Begin with updates without a fault: those in a database may be older than the check for it.

    Raises:
        UpdateRejectedError: If one has one.
    """
    for answer in answers:
        if said := strategy.fault(answer.facts):
            raise UpdateRejectedError(f"{answer.facts.agent}: {said}")
    strategy.begin([answer.facts for answer in answers])


def too_few(updates: int, strategy: Strategy) -> str:
    """Say that a strategy cannot combine so few updates."""
    text = f"{updates} updates, but the strategy needs {strategy.min_updates}"
    return f"{text}: {strategy.why_least}" if strategy.why_least else text


def fold_free(strategy: Strategy, answers: Sequence[Answer]) -> bytes:
    """Combine payloads of free layout; they are in memory together, as trees are small.

    Raises:
        UpdateRejectedError: If they cannot be combined.
    """
    if len(answers) < strategy.min_updates:
        raise UpdateRejectedError(too_few(len(answers), strategy))
    _begin(strategy, answers)
    payloads = []
    for source in (answer.payloads["weights"] for answer in answers):
        data = bytearray(source.layout.nbytes)
        source.read_into(0, memoryview(data))
        payloads.append(bytes(data))
    return strategy.combine_free(payloads)


def _checked_shares(strategy: Strategy, updates: int) -> tuple[float, ...]:
    shares = tuple(strategy.shares())
    if shares and (len(shares) != updates or not min(shares) >= 0 or not sum(shares) < math.inf):
        raise StrategyError(f"the strategy's shares of {updates} updates cannot be: {list(shares)[:10]}")
    return shares


def fold_sum(answers: Sequence[Answer], layout: Layout, sink: Sink) -> None:
    """Add up the arrays of all answers, in float64 where they are floats: the statistics step.

    Raises:
        UpdateRejectedError: If their layouts differ, or a sum does not fit its type.
    """
    if any(answer.payloads["weights"].layout != layout for answer in answers):
        raise UpdateRejectedError("the arrays to be added up are not alike")
    for segment in layout.segments:
        dtype = np.dtype("<f8") if segment.dtype.is_float else np.dtype("<i8")
        for start, size in _cuts(segment, BLOCK_BYTES):
            total: Array = np.zeros(size, dtype)
            rough = np.zeros(size)  # tells when integers wrapped around
            raw: Array = np.empty(size, segment.dtype.stored)
            for answer in answers:
                answer.payloads["weights"].read_into(
                    segment.offset + start * segment.dtype.stored.itemsize, _bytes(raw)
                )
                values = decoded(raw, segment.dtype)
                with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused below
                    total += values if segment.dtype.is_float else raw.astype(dtype)
                    rough += values
            if not _fits(total, rough, segment.dtype):
                raise UpdateRejectedError(f"a sum is too large for {segment.dtype}")
            sink.write(_encoded(total, segment.dtype))


def _fits(total: Array, rough: NDArray[np.float64], dtype: DType) -> bool:
    if dtype.is_float:
        return bool(is_finite(stored_as(total, dtype), dtype).all())
    if dtype is DType.BOOL:
        return True
    limits = np.iinfo(dtype.stored)
    return bool((rough >= float(limits.min)).all() and (rough < float(limits.max) + 1).all())


class _Cursor:
    """Walks over the blocks of a fold in buffers that it reuses; see `strategies.base.Block`.

    Fresh memory costs several times a copy into memory that is already there.
    """

    segment: Segment

    def __init__(
        self,
        answers: Sequence[Answer],
        base: Source,
        state: Mapping[str, Source],
        version: int,
        agents: int,
        *,
        wants_deltas: bool,
    ) -> None:
        self._answers = answers
        self._wants_deltas = wants_deltas
        self._base = base
        self._state_sources = state
        self.version = version
        self.is_first = not state
        self.agents = agents
        self.place = 0
        self._state_layout = state_layout(base.layout)
        self._scratch: dict[tuple[str, np.dtype[Any]], Array] = {}

    def blocks(self, block_bytes: int) -> Iterator["_Cursor"]:
        """Move to each block in turn."""
        trained = 0
        for segment in self._base.layout.segments:
            self.segment = segment
            self._dtype = segment.dtype.computed.stored
            state_start = _state_place(self._base.layout, self._state_layout, segment)
            for start, size in _cuts(segment, block_bytes):
                self._size = size
                self.place = trained + start
                self._offset = segment.offset + start * segment.dtype.stored.itemsize
                self._state_offset = state_start + start * self._dtype.itemsize
                self._seen_base: Values | None = None
                self._seen_state: _State | None = None
                yield self
            trained += segment.size if segment.is_trained else 0

    @property
    def out(self) -> Array:
        return self._buffer("out", self._dtype)

    @property
    def base(self) -> Values:
        if self._seen_base is None:
            self._seen_base = decoded(self._raw_base(), self.segment.dtype)
        return self._seen_base

    @property
    def state(self) -> Mapping[str, Values]:
        if self._seen_state is None:
            self._seen_state = _State(self._state_sources, self._state_offset, self._size, self._dtype)
        return self._seen_state

    def updates(self, channel: str = "weights") -> Iterator[Values]:
        if channel == "weights":
            for answer, raw in zip(self._answers, self._raw_updates(), strict=True):
                yield self._as_wanted(answer, decoded(raw, self.segment.dtype))
            return
        values = self._buffer(f"channel {channel}", self._dtype)
        for answer in self._answers:
            answer.payloads[channel].read_into(self._state_offset, _bytes(values))
            yield values

    def _as_wanted(self, answer: Answer, values: Values) -> Values:
        """Return the values of parameters as models or as differences, whichever the strategy wants."""
        if answer.is_delta == self._wants_deltas or not self.segment.is_trained:
            return values
        if answer.origin is None:
            raise StrategyError(f"the model that {answer.facts.agent} started from is not at hand")
        raw = self._buffer("origin", self.segment.dtype.stored)
        answer.origin.read_into(self._offset, _bytes(raw))
        origin = decoded(raw, self.segment.dtype)
        if not self._wants_deltas:
            return np.add(values, origin, out=values)
        return np.subtract(values, origin, out=values)

    def stack(self, channel: str = "weights") -> Values:
        rows = np.empty((len(self._answers), self._size), self._dtype)
        for row, values in zip(rows, self.updates(channel), strict=True):
            row[:] = values
        return rows

    def average(self, shares: Sequence[float]) -> Array:
        """Return the mean of buffers or integers: by the strategy's shares, else by examples."""
        counts = shares or [float(answer.facts.num_examples) for answer in self._answers]
        if not any(counts):  # no update has a part: all of it is the base's
            return self.base if self.segment.dtype.is_float else self._raw_base()
        steps = running_shares(counts)
        if not self.segment.dtype.is_float:
            return _integer_mean(self._raw_updates(), steps, self._size)
        fold_mean(self.updates(), steps, self.out)
        self._move_back(1 - math.fsum(counts) if shares else 0.0)
        return self.out

    def median(self, places: Sequence[int]) -> Array:
        """Return the lower median of integers or booleans over the updates at these places, or over all."""
        rows = np.empty((len(self._answers), self._size), self.segment.dtype.stored)
        for row, raw in zip(rows, self._raw_updates(), strict=True):
            row[:] = raw
        chosen = np.sort(rows[list(places)] if places else rows, axis=0)
        found: Array = chosen[(len(chosen) - 1) // 2]
        return found

    def _move_back(self, rest: float) -> None:
        """Let the base have the part that a strategy's shares leave to it."""
        if rest > ROUNDING:
            self.out[:] += self.out.dtype.type(rest) * (self.base - self.out)

    def _raw_base(self) -> Array:
        raw = self._buffer("base", self.segment.dtype.stored)
        self._base.read_into(self._offset, _bytes(raw))
        return raw

    def _raw_updates(self) -> Iterator[Array]:
        raw = self._buffer("raw", self.segment.dtype.stored)
        view = _bytes(raw)
        for answer in self._answers:
            answer.payloads["weights"].read_into(self._offset, view)
            yield raw

    def _buffer(self, use: str, dtype: np.dtype[Any]) -> Array:
        values = self._scratch.get((use, dtype))
        if values is None or values.size < self._size:
            values = self._scratch[use, dtype] = np.empty(self._size, dtype)
        return values[: self._size]


class _State(dict[str, Values]):
    """A strategy's arrays of one block, read when first asked for; zeros before the first round."""

    def __init__(self, sources: Mapping[str, Source], offset: int, size: int, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._sources = sources
        self._offset = offset
        self._size = size
        self._dtype = dtype

    def __missing__(self, name: str) -> Values:
        values: Values = np.zeros(self._size, self._dtype)
        if name in self._sources:
            self._sources[name].read_into(self._offset, _bytes(values))
        self[name] = values
        return values


def _integer_mean(raws: Iterator[Array], steps: Sequence[float], size: int) -> Array:
    """Average integers, rounded half to even, and bools by majority.

    They are averaged as differences from the first, so that large equal ones stay equal.
    """
    first = next(raws).copy()
    origin = first.astype(np.float64)
    mean = np.zeros(size)
    for raw, step in zip(raws, steps[1:], strict=True):
        mean += step * (raw.astype(np.float64) - origin - mean)
    if first.dtype == np.bool_:
        return np.asarray(origin + mean > 0.5)
    exact = np.abs(origin) + np.abs(mean) < 2**53  # beyond, a float64 does not hold every integer
    result = np.where(exact, np.rint(np.where(exact, origin + mean, 0)), 0).astype(first.dtype)
    limits = np.iinfo(first.dtype)
    for index in np.flatnonzero(~exact):
        value = int(first[index]) + round(float(mean[index]))
        result[index] = min(max(value, limits.min), limits.max)
    return np.asarray(result)


def _cuts(segment: Segment, block_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (first value, number of values) of the blocks of a segment."""
    step = max(1, block_bytes // segment.dtype.stored.itemsize)
    for start in range(0, segment.size, step):
        yield start, min(step, segment.size - start)


def _state_place(layout: Layout, state: Layout, segment: Segment) -> int:
    """Return where a segment of the model begins in a state file: both keep the same order."""
    for spec in layout.arrays:
        if spec.size and layout.offsets[spec.name] == segment.offset and spec.is_trained:
            return state.offsets[spec.name]
    return 0


def _encoded(values: Array, dtype: DType) -> memoryview:
    """Return computed values as stored bytes.

    Raises:
        UpdateRejectedError: If one is not finite.
    """
    if not dtype.is_float:
        return _bytes(np.ascontiguousarray(values.astype(dtype.stored, copy=False)))
    stored = stored_as(values, dtype)
    if not is_finite(stored, dtype).all():
        raise UpdateRejectedError("the combined model has values that are NaN or infinite")
    return _bytes(np.ascontiguousarray(stored))


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
