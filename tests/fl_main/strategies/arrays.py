"""Sets of arrays in memory that a fold reads and writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fl_main.deltas import subtract
from fl_main.strategies import Contribution, Strategy
from fl_main.strategies.fold import Answer, Folded, fold, state_layout
from fl_main.weights import Array, Layout, Role, pack, views


@dataclass(slots=True)
class Memory:
    """A source and a sink."""

    layout: Layout
    data: bytearray = field(default_factory=bytearray)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(self.data), "read beyond the end"
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, data: memoryview) -> None:
        self.data += data

    @property
    def arrays(self) -> dict[str, Array]:
        return views(self.layout, bytes(self.data))


def memory(arrays: Mapping[str, Array], roles: Mapping[str, Role] | None = None) -> Memory:
    layout = Layout.of(arrays, roles)
    return Memory(layout, pack(arrays, layout))


def _sent(
    model: Mapping[str, Array], origin: Memory, roles: Mapping[str, Role] | None, as_deltas: bool
) -> Memory:
    return memory(subtract(origin.arrays, model, origin.layout) if as_deltas else model, roles)


@dataclass(slots=True)
class Result:
    """What came of a fold."""

    model: Memory
    state: dict[str, Memory]
    folded: Folded

    @property
    def arrays(self) -> dict[str, Array]:
        return self.model.arrays


def folded(
    strategy: Strategy,
    models: Sequence[Mapping[str, Array]],
    counts: Sequence[int] | None = None,
    *,
    base: Mapping[str, Array] | None = None,
    roles: Mapping[str, Role] | None = None,
    state: Mapping[str, Memory] | None = None,
    channels: Sequence[Mapping[str, Memory]] | None = None,
    facts: Sequence[Contribution] | None = None,
    origins: Sequence[Mapping[str, Array]] | None = None,
    as_deltas: bool = False,
    version: int = 1,
    block_bytes: int = 1 << 20,
) -> Result:
    """Fold models given as arrays; agents are named in their order.

    Each was trained on its origin, or else on the base; as deltas they travel as differences from it.
    """
    counts = counts or [1] * len(models)
    facts = facts or [Contribution(f"agent-{i:03}", count) for i, count in enumerate(counts)]
    extra = channels or [{}] * len(models)
    start = memory(base or models[0], roles)
    began = [memory(origin, roles) for origin in origins] if origins else [start] * len(models)
    answers = [
        Answer(fact, {"weights": _sent(model, origin, roles, as_deltas), **more}, origin, as_deltas)
        for fact, model, more, origin in zip(facts, models, extra, began, strict=True)
    ]
    sink = Memory(start.layout)
    after = {name: Memory(state_layout(start.layout)) for name in strategy.state}
    found = fold(strategy, answers, start, state or {}, sink, after, version=version, block_bytes=block_bytes)
    assert len(sink.data) == sink.layout.nbytes, "the fold writes a whole model"
    assert all(len(kept.data) == kept.layout.nbytes for kept in after.values())
    return Result(sink, after, found)
