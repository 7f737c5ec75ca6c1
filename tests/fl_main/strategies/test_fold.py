"""The fold: what every kind of array becomes, and what strategies can ask of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.errors import StrategyError, UpdateRejectedError
from fl_main.strategies import Block, Contribution, FedAvg, FedBuff, Strategy
from fl_main.strategies import fold as fold_module
from fl_main.strategies.base import Values
from fl_main.strategies.fold import Answer, fold, fold_sum, state_layout
from fl_main.weights import Array, ArraySpec, DType, Layout, Role
from tests.fl_main.strategies.arrays import Memory, folded, memory

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)


def mean_of(
    *values: object, counts: Sequence[int] | None = None, dtype: Any = "f4", role: Role | None = None
) -> Any:
    models = [{"w": np.array([value], dtype)} for value in values]
    roles = {"w": role} if role else None
    return folded(FedAvg(), models, counts, roles=roles).arrays["w"][0].item()


# --- what every kind of array becomes ----------------------------------------------------


def test_integers_are_averaged_and_rounded_half_to_even() -> None:
    assert mean_of(1, 2, dtype="i4") == 2  # 1.5
    assert mean_of(2, 3, dtype="i4") == 2  # 2.5
    assert mean_of(-1, -2, dtype="i4") == -2
    assert mean_of(1, 2, counts=[3, 1], dtype="i8") == 1  # 1.25
    assert mean_of(0, 255, counts=[1, 9], dtype="u1") == 230  # 229.5


def test_large_equal_integers_stay_equal() -> None:
    for value in (2**63 - 1, 2**53 + 1, -(2**63)):
        assert mean_of(value, value, value, counts=[3, 5, 7], dtype="i8") == value
    assert mean_of(2**64 - 1, 2**64 - 1, dtype="u8") == 2**64 - 1


def test_large_integers_are_averaged_within_their_limits() -> None:
    assert mean_of(2**62, 2**62 + 4, dtype="i8") == 2**62  # a float64 holds multiples of 1024 there
    assert mean_of(2**63 - 1, 0, dtype="u8") == pytest.approx(2**62, abs=1024)


def test_bools_go_by_majority_of_examples() -> None:
    assert mean_of(True, False, counts=[2, 1], dtype="?") is True
    assert mean_of(True, False, False, counts=[2, 1, 2], dtype="?") is False
    assert mean_of(True, False, dtype="?") is False  # no majority


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", BFLOAT16])
def test_floats_are_averaged_in_every_precision(dtype: Any) -> None:
    assert mean_of(1.0, 2.0, counts=[1, 3], dtype=dtype) == 1.75
    assert mean_of(1.0, 2.0, counts=[1, 3], dtype=dtype, role=Role.BUFFER) == 1.75


def test_bfloat16_is_rounded_half_to_even() -> None:
    # 1 + 1/256 lies halfway between 1 and 1 + 1/128: to the even one; so does 1 + 3/256.
    assert mean_of(1.0, 1.0078125, dtype=BFLOAT16) == 1.0
    assert mean_of(1.0078125, 1.015625, dtype=BFLOAT16) == 1.015625


def test_half_precision_is_summed_in_single() -> None:
    # 60000 + 60000 overflows a float16; their mean does not.
    assert mean_of(60000.0, 60000.0, 60000.0, dtype="f2") == 60000.0


def test_integers_before_floats_do_not_disturb_them() -> None:
    models = [
        {"n": np.full(4, i, "i8"), "w": np.full(3, 0.25 + i, "f4"), "k": np.full(9, i, "i4")} for i in (0, 1)
    ]
    found = folded(FedAvg(), models).arrays
    assert found["w"].tolist() == [0.75] * 3
    assert found["n"].tolist() == [0] * 4
    assert found["k"].tolist() == [0] * 9


def test_buffers_do_not_go_through_the_strategy() -> None:
    class Twice(FedAvg):
        def combine(self, block: Block) -> None:
            super().combine(block)
            block.out[:] *= 2

    models = [{"w": np.array([1.0]), "var": np.array([1.0]), "n": np.array([4])}] * 2
    found = folded(Twice(), models, roles={"var": Role.BUFFER}).arrays
    assert (found["w"][0], found["var"][0], found["n"][0]) == (2.0, 1.0, 4)


def test_empty_arrays_and_scalars_pass() -> None:
    model: dict[str, Array] = {
        "e": np.zeros((0, 3), "f4"),
        "s": np.array(2.0),
        "n": np.array(3),
        "z": np.zeros(0, "i8"),
    }
    found = folded(FedAvg(), [model, model])
    assert found.model.data == memory(model).data


def test_a_model_without_arrays_passes() -> None:
    assert folded(FedAvg(), [{}, {}]).model.data == b""


# --- what must not come out --------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", BFLOAT16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("role", [Role.PARAMETER, Role.BUFFER])
def test_a_result_that_is_not_finite_is_refused(dtype: Any, bad: float, role: Role) -> None:
    with pytest.raises(UpdateRejectedError, match="NaN or infinite"):
        mean_of(1.0, bad, dtype=dtype, role=role)


def test_every_nan_of_single_precision_is_refused_in_bfloat16() -> None:
    class Nan(FedAvg):
        def combine(self, block: Block) -> None:
            block.out.view(np.uint32)[:] = 0xFFFFFFFF  # rounded up, its bits would be those of 0

    with pytest.raises(UpdateRejectedError, match="NaN"):
        folded(Nan(), [{"w": np.zeros(3, BFLOAT16)}])


def test_a_result_too_large_for_its_type_is_refused() -> None:
    class Grow(FedAvg):
        def combine(self, block: Block) -> None:
            block.out[:] = 1e6

    with pytest.raises(UpdateRejectedError, match="infinite"):
        folded(Grow(), [{"w": np.zeros(3, "f2")}])


def test_state_that_is_not_finite_is_refused() -> None:
    class Explode(FedAvg):
        state = ("velocity",)

        def combine(self, block: Block) -> None:
            super().combine(block)
            block.state["velocity"][:] = math.inf

    with pytest.raises(UpdateRejectedError, match="NaN or infinite"):
        folded(Explode(), [{"w": np.zeros(3)}])


def test_too_few_updates_are_refused() -> None:
    class Pair(FedAvg):
        min_updates = 2

    with pytest.raises(UpdateRejectedError, match="1 updates, but the strategy needs 2"):
        folded(Pair(), [{"w": np.zeros(1)}])


@pytest.mark.parametrize("shares", [[1.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_shares_that_cannot_be_are_the_strategys_fault(shares: list[float]) -> None:
    class Odd(FedAvg):
        def shares(self) -> Sequence[float]:
            return shares

    with pytest.raises(StrategyError, match="shares of 2 updates"):
        folded(Odd(), [{"w": np.zeros(1)}] * 2)


def test_notes_must_be_one_for_each_update() -> None:
    class Odd(FedAvg):
        def notes(self) -> Sequence[Mapping[str, float]]:
            return [{"norm": 1.0}]

    with pytest.raises(StrategyError, match="1 notes for 2 updates"):
        folded(Odd(), [{"w": np.zeros(1)}] * 2)


# --- strategies with state, stacks, channels, measures -----------------------------------


class Momentum(Strategy):
    """x ← x + v with v ← β v + (mean − x), plain means: Hsu et al. 2019, FedAvgM."""

    state = ("velocity",)

    def begin(self, contributions: Sequence[Contribution]) -> None:
        self.count = len(contributions)

    def combine(self, block: Block) -> None:
        velocity = block.state["velocity"]
        velocity *= 0.5
        for values in block.updates():
            velocity += (values - block.base) / self.count
        block.out[:] = block.base + velocity


MIXED: dict[str, np.dtype[Any]] = {
    "a": np.dtype("f8"),
    "b": np.dtype("f4"),
    "c": np.dtype("f2"),
    "d": BFLOAT16,
    "n": np.dtype("i8"),
}


def constant(value: float, size: int = 5) -> dict[str, Array]:
    return {name: np.full(size, value).astype(dtype) for name, dtype in MIXED.items()}


@pytest.mark.parametrize("block_bytes", [1, 24, 1 << 20])
def test_state_is_carried_between_folds_of_a_mixed_model(block_bytes: int) -> None:
    # Updates always lie 1 above the base: v = 1, 1.5, 1.75; x = 1, 2.5, 4.25.
    base, state = constant(0.0), dict[str, Memory]()
    for velocity, place in [(1.0, 1.0), (1.5, 2.5), (1.75, 4.25)]:
        updates = [{name: (array + 1).astype(array.dtype) for name, array in base.items()}] * 2
        result = folded(Momentum(), updates, base=base, state=state, block_bytes=block_bytes)
        base, state = result.arrays, result.state
        for name in "abcd":
            assert base[name].astype("f8").tolist() == [place] * 5
            assert state["velocity"].arrays[name].tolist() == [velocity] * 5
        base["n"] = np.zeros(5, "i8")
    assert {name: str(array.dtype) for name, array in state["velocity"].arrays.items()} == {
        "a": "float64",
        "b": "float32",
        "c": "float32",
        "d": "float32",
    }


def test_state_belongs_to_float_parameters_only() -> None:
    layout = Layout.of(constant(0.0), {"b": Role.BUFFER})
    assert [spec.name for spec in state_layout(layout).arrays] == ["a", "d", "c"]


@given(st.lists(st.sampled_from(list(DType)), max_size=6), st.integers(0, 3))
def test_the_state_of_any_layout_from_the_wire_is_aligned(dtypes: list[DType], size: int) -> None:
    ordered = sorted(dtypes, key=lambda dtype: -dtype.stored.itemsize)
    rows = [[str(number), str(dtype), [size], "parameter"] for number, dtype in enumerate(ordered)]
    layout = Layout.from_wire(rows)
    kept = state_layout(layout)
    assert len(kept.arrays) == sum(dtype.is_float for dtype in dtypes)
    assert Layout.from_wire(kept.to_wire()) == kept  # it can travel, too


class Median(Strategy):
    """The median of each coordinate: Yin et al. 2018."""

    stacks = True

    def combine(self, block: Block) -> None:
        block.out[:] = np.median(block.stack(), axis=0)


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_a_median_sees_all_updates_at_once(block_bytes: int) -> None:
    models = [{"w": np.array([i, 10.0 * i, -i], "f4"), "n": np.array([2 * i])} for i in (1, 2, 9)]
    found = folded(Median(), models, [1, 1, 2], block_bytes=block_bytes)
    assert found.arrays["w"].tolist() == [2.0, 20.0, -2.0]
    assert found.arrays["n"].tolist() == [10]  # not a parameter: by examples, (2 + 4 + 36) / 4 = 10.5
    assert found.folded.shares == (None, None, None)


class Scaffold(Strategy):
    """Only the server's side of SCAFFOLD: Karimireddy et al. 2020, equation 5."""

    state = ("out", "control")  # a name of the fold's own must not collide
    down = ("control",)
    up = ("control", "out")

    def begin(self, contributions: Sequence[Contribution]) -> None:
        self.count = len(contributions)

    def combine(self, block: Block) -> None:
        block.out[:] = 0
        for values in block.updates():
            block.out[:] += values / self.count
        for name in ("control", "out"):
            for change in block.updates(name):
                block.state[name][:] += change / self.count


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_channels_come_with_the_updates(block_bytes: int) -> None:
    models = [constant(2.0), constant(4.0)]
    kept = state_layout(Layout.of(models[0]))

    def channel(value: float) -> Memory:
        return memory({spec.name: np.full(5, value, spec.dtype.stored) for spec in kept.arrays})

    channels = [
        {"control": channel(1.0), "out": channel(8.0)},
        {"control": channel(3.0), "out": channel(0.0)},
    ]
    assert all(found.layout.arrays for found in channels[0].values())
    start = {"control": Memory(kept, bytearray(kept.nbytes))}
    ordered = [
        {name: Memory(kept, _in_order(found, kept)) for name, found in some.items()} for some in channels
    ]
    result = folded(Scaffold(), models, channels=ordered, state=start, block_bytes=block_bytes)
    for name in "abcd":
        assert result.arrays[name].astype("f8").tolist() == [3.0] * 5
        assert result.state["control"].arrays[name].tolist() == [2.0] * 5
        assert result.state["out"].arrays[name].tolist() == [4.0] * 5


def _in_order(found: Memory, layout: Layout) -> bytearray:
    arrays = found.arrays
    return bytearray(b"".join(arrays[spec.name].tobytes() for spec in layout.arrays))


class Clipped(Strategy):
    """Leaves out updates that lie too far from the base; two passes, the second looks at the first."""

    passes = 2

    def begin(self, contributions: Sequence[Contribution]) -> None:
        self.squares = np.zeros(len(contributions))
        self.seen = [0, 0]

    def measure(self, number: int, block: Block) -> None:
        self.seen[number] += block.base.size
        if number == 0:
            for index, values in enumerate(block.updates()):
                self.squares[index] += float(np.sum((values - block.base) ** 2))

    def shares(self) -> Sequence[float]:
        kept = self.squares <= 2 * np.median(self.squares)
        return [float(share) for share in kept / kept.sum()]

    def notes(self) -> Sequence[Mapping[str, float]]:
        return [{"norm": float(norm)} for norm in np.sqrt(self.squares)]

    def combine(self, block: Block) -> None:
        block.out[:] = sum(
            share * values for share, values in zip(self.shares(), block.updates(), strict=True)
        )


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_measures_decide_what_counts_and_buffers_follow(block_bytes: int) -> None:
    def model(value: float) -> dict[str, Array]:
        return {
            "w": np.full(4, value),
            "v": np.full(4, value, "f4"),
            "mean": np.array([value]),
            "n": np.array([9]),
        }

    strategy = Clipped()
    result = folded(
        strategy,
        [model(1.0), model(-1.0), model(100.0)],
        base=model(0.0),
        roles={"mean": Role.BUFFER},
        block_bytes=block_bytes,
    )
    # norms over the eight parameters: sqrt(8), sqrt(8), 100 sqrt(8)
    assert [note["norm"] for note in result.folded.notes] == pytest.approx([8**0.5, 8**0.5, 100 * 8**0.5])
    assert result.folded.shares == (0.5, 0.5, 0.0)
    assert strategy.seen == [8, 8]
    assert result.arrays["w"].tolist() == [0.0] * 4
    assert result.arrays["mean"].tolist() == [0.0]


class Places(FedAvg):
    """Notes where each block lies, how large it is, and what is made of it."""

    passes = 2

    def __init__(self) -> None:
        super().__init__()
        self.measured: list[tuple[int, int, int]] = []
        self.combined: list[tuple[int, int, int]] = []

    def measure(self, number: int, block: Block) -> None:
        self.measured.append((number, block.place, block.base.size))

    def combine(self, block: Block) -> None:
        super().combine(block)
        self.combined.append((block.version, block.place, block.base.size))


@pytest.mark.parametrize("block_bytes", [24, 64, 1 << 30])
def test_measuring_passes_cut_a_model_in_the_same_way_whatever_the_blocks(
    block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_module, "MEASURE_BYTES", 32)
    strategy = Places()
    model = {"a": np.zeros(5), "n": np.zeros(7, "i8"), "b": np.zeros(3, "f4"), "c": np.zeros(9, "f4")}
    folded(strategy, [model], version=7, block_bytes=block_bytes)
    # 32 bytes: 4 values of a, then 1; 8 of the 12 of b and c, then 4. The integers are no parameters.
    cuts = [(0, 4), (4, 1), (5, 8), (13, 4)]
    assert strategy.measured == [(number, *cut) for number in (0, 1) for cut in cuts]
    places = [place for version, place, _ in strategy.combined if version == 7]
    assert places == sorted(places)
    assert sum(size for _, _, size in strategy.combined) == 17


def test_a_block_may_be_read_twice_and_changed() -> None:
    class Careless(Strategy):
        def combine(self, block: Block) -> None:
            for values in block.updates():
                values[:] = 99.0
            block.out[:] = _first(block.updates())

    assert folded(Careless(), [{"w": np.array([3.0])}]).arrays["w"].tolist() == [3.0]


def _first(values: Iterator[Values]) -> Values:
    return next(values)


# --- sums --------------------------------------------------------------------------------


def summed(*models: Mapping[str, Array]) -> dict[str, Array]:
    layout = Layout.of(models[0])
    sink = Memory(layout)
    answers = [Answer(Contribution("a", 1), {"weights": memory(model)}) for model in models]
    fold_sum(answers, layout, sink)
    return sink.arrays


def test_sums_and_counts_are_added_up() -> None:
    one: dict[str, Array] = {
        "n": np.array(3),
        "sum": np.array([0.5, 1.0]),
        "seen": np.array([True, False]),
        "k": np.array([1], "u1"),
    }
    two: dict[str, Array] = {
        "n": np.array(4),
        "sum": np.array([0.25, -1.0]),
        "seen": np.array([False, False]),
        "k": np.array([254], "u1"),
    }
    found = summed(one, two)
    assert (found["n"].item(), found["sum"].tolist(), found["k"].tolist()) == (7, [0.75, 0.0], [255])
    assert found["seen"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "dtype"), [(200, "u1"), (-100, "i1"), (2**62, "i8"), (-(2**62) - 1, "i8"), (2**63, "u8")]
)
def test_a_sum_too_large_for_its_type_is_refused(value: int, dtype: str) -> None:
    with pytest.raises(UpdateRejectedError, match="too large"):
        summed(*[{"n": np.array([value], dtype)}] * 3)


def test_single_precision_is_summed_in_double() -> None:
    # In float32, 2**24 + 1 + 1 would stay 2**24.
    assert summed(*({"s": np.array([v], "f4")} for v in (2.0**24, 1.0, 1.0)))["s"].item() == 2**24 + 2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", BFLOAT16])
def test_a_sum_of_floats_too_large_for_their_type_is_refused(dtype: Any) -> None:
    big = 6e4 if dtype == "f2" else 1.7e308 if dtype == "f8" else 3e38
    with pytest.raises(UpdateRejectedError, match=r"^a sum is too large for B?F\d\d$"):
        summed(*[{"s": np.array([big], dtype)}] * 2)


def test_sums_of_other_arrays_are_refused() -> None:
    with pytest.raises(UpdateRejectedError, match="not alike"):
        summed({"n": np.array(1)}, {"m": np.array(1)})


def test_a_large_sum_is_taken_in_blocks() -> None:
    values = np.arange(200_000)
    assert summed({"n": values}, {"n": values})["n"].tolist() == (2 * values).tolist()


def test_a_strategy_gets_the_form_that_it_wants_only_with_the_model_trained_on() -> None:
    base, sink = memory({"w": np.zeros(1)}), Memory(Layout.of({"w": np.zeros(1)}))
    answers = [Answer(Contribution("st-mary", 1), {"weights": base})]
    with pytest.raises(StrategyError, match=r"^the model that st-mary started from is not at hand$"):
        fold(FedBuff(), answers, base, {}, sink, {})


def test_layouts_in_a_foreign_order_fold_too() -> None:
    layout = Layout([ArraySpec("z", DType.F32, (2,)), ArraySpec("a", DType.F32, (1,))], ordered=True)
    first = Memory(layout, bytearray(np.array([1, 2, 3], "f4").tobytes()))
    sink = Memory(layout)
    velocity = Memory(state_layout(layout))
    answers = [Answer(Contribution("a", 1), {"weights": first})]
    fold(Momentum(), answers, Memory(layout, bytearray(12)), {}, sink, {"velocity": velocity})
    assert sink.data == first.data == velocity.data
