"""int8."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.compression import Check
from fl_main.compression.int8 import Int8
from fl_main.compression.quantized import CODES, SCALES, block_starts, groups, rounded
from fl_main.compression.vector import STRETCH, Vector
from fl_main.errors import WeightsError
from fl_main.weights import Array, Layout
from tests.fl_main.compression.arrays import encoded, held, there_and_back

NEAREST = Int8(16, "nearest")


def f4(*values: float) -> Array:
    return np.array(values, np.float32)


def test_a_block_is_read_in_steps_of_its_largest_value_over_127() -> None:
    # The largest magnitude is 254, so a step is 2: 3 lies between 1 and 2 steps, 2.9 nearer to 1.
    stored = encoded(NEAREST, NEAREST.signal(held({"w": f4(-254, 2.9, 3.1, 0, 254)})))
    assert stored.arrays[SCALES].tolist() == [2]
    assert stored.arrays[CODES].tolist() == [-127, 1, 2, 0, 127]
    assert there_and_back(NEAREST, {"w": f4(-254, 2.9, 3.1, 0)})["w"].tolist() == [-254, 2, 4, 0]


def test_every_array_begins_a_block() -> None:
    # 40 values in blocks of 16 are 16, 16 and 8; then the blocks of the second array.
    layout = Layout.of({"a": np.zeros(40, np.float32), "b": np.zeros((2, 9), np.float32)})
    vector = Vector(layout, NEAREST.takes)
    assert block_starts(vector, 16).tolist() == [0, 16, 32, 40, 56]
    arrays = {"a": f4(127), "b": f4(1.27)}
    back = there_and_back(NEAREST, arrays)
    assert back["b"].tolist() == pytest.approx([1.27])  # its own scale, not that of its neighbour


def test_groups_are_whole_blocks_of_one_type_and_cover_everything() -> None:
    layout = Layout.of({"a": np.zeros(3 * STRETCH + 5), "b": np.zeros(7, np.float32), "c": np.zeros(9, "f4")})
    vector = Vector(layout, NEAREST.takes)
    found = list(groups(vector, 1000))
    assert [group.start for group in found] == [0, *np.cumsum([group.size for group in found])[:-1]]
    assert sum(group.size for group in found) == vector.size
    starts = np.concatenate([group.start + group.starts for group in found])
    assert starts.tolist() == block_starts(vector, 1000).tolist()
    assert all(sum(group.sizes) == group.size <= STRETCH + 1000 for group in found)


def test_a_block_may_be_longer_than_a_stretch() -> None:
    values = np.random.default_rng(0).normal(size=2 * STRETCH + 3).astype(np.float32)
    codec = Int8(1 << 20, "nearest")
    back = there_and_back(codec, {"w": values})["w"]
    assert np.abs(back - values).max() <= np.abs(values).max() / 127 / 2 * 1.0001


@pytest.mark.parametrize(("rounding", "steps"), [("stochastic", 1.0), ("nearest", 0.5)])
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_no_value_is_more_than_a_step_off(
    rounding: str, steps: float, values: list[float], seed: int
) -> None:
    back = there_and_back(Int8(16, rounding), {"w": f4(*values)}, seed=seed)["w"]
    for start in range(0, len(values), 16):
        block = np.array(values[start : start + 16])
        step = np.abs(block).max() / 127
        off = np.abs(back[start : start + 16] - block).max()
        assert off <= steps * step + 2**-22 * np.abs(block).max() + 2e-45  # float32's rounding, and its least


@given(st.floats(-127, 127, width=32))
def test_rounding_by_chance_is_right_on_average(value: float) -> None:
    """The draws are 0, 1/n, 2/n, …: a mean over them is the expectation, to 1/n."""

    class Even:
        def random(self, size: int, dtype: type[np.float32]) -> Array:
            return (np.arange(size) / size).astype(dtype)

    n = 1 << 12
    results = rounded(np.full(n, value, np.float32), Even())  # type: ignore[arg-type]
    assert set(results) <= {np.floor(value), np.ceil(value)}
    assert abs(results.mean() - value) <= 1 / n


def test_whole_numbers_are_not_rounded_whatever_the_draw() -> None:
    values = np.arange(-127, 128).astype(np.float32).repeat(1000)
    assert np.array_equal(rounded(values, np.random.default_rng(0)), values)


@pytest.mark.parametrize("tiny", [1e-45, 3e-44, 1e-38, 1.5e-43])
def test_tiny_values_are_not_clipped(tiny: float) -> None:
    """Scales near float32's least are rounded up: 189 steps of a scale rounded down would be clipped."""
    back = there_and_back(NEAREST, {"w": f4(tiny, -tiny)})["w"]
    assert np.abs(back - f4(tiny, -tiny)).max() <= max(2e-45, tiny / 127)


def test_values_that_no_scale_can_express_are_an_error() -> None:
    assert np.isfinite(there_and_back(NEAREST, {"w": f4(3.4e38, -3.4e38)})["w"]).all()
    with pytest.raises(WeightsError, match=r"array 'w' has values too large for int8: take codec none"):
        encoded(NEAREST, NEAREST.signal(held({"b": np.ones(40), "w": np.array([1.0, 1e300])})))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (SCALES, [-1.0], "has scales that are negative or too large"),
        (SCALES, [3e38], "has scales that are negative or too large"),
        (SCALES, [np.nan], "has values that are NaN or infinite"),
        (CODES, [0, -128, 0], "has codes beyond 127"),
    ],
)
def test_what_no_encoder_writes_is_told(name: str, values: list[float], said: str) -> None:
    model = held({"w": f4(1, 2, 3)})
    stored = encoded(NEAREST, NEAREST.signal(model))
    spec = next(spec for spec in stored.layout.arrays if spec.name == name)
    raw = np.array(values, spec.dtype.stored).tobytes()
    offset = stored.layout.offsets[name]
    stored.data[offset : offset + len(raw)] = raw
    assert Check(NEAREST, model.layout).first_wrong(0, stored.data) == f"array {name!r} {said}"
