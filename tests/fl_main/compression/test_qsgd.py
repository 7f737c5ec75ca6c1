"""qsgd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.compression import Check
from fl_main.compression.qsgd import Qsgd
from fl_main.compression.quantized import CODES, SCALES, packed, unpacked
from fl_main.errors import WeightsError
from fl_main.weights import Array, DType, Layout
from tests.fl_main.compression.arrays import arrays_of, encoded, held, there_and_back
from tests.fl_main.strategies.arrays import memory


def test_levels_divide_the_norm_of_a_block() -> None:
    # ||(3, 0, -4)|| = 5; with 5 levels a step is 1, and all values are whole steps.
    codec = Qsgd(16, 5)
    values = np.array([3, 0, -4], np.float32)
    stored = encoded(codec, codec.signal(held({"w": values})))
    assert stored.arrays[SCALES].tolist() == [1]
    assert unpacked(stored.arrays[CODES]).tolist() == [3, 0, -4, 0]
    assert there_and_back(codec, {"w": values})["w"].tolist() == [3, 0, -4]


def test_up_to_seven_levels_take_half_a_byte_more_take_one() -> None:
    model = held({"w": np.ones(1001, np.float32)})
    of_codes = {
        levels: next(s for s in Qsgd(512, levels).layout(model.layout).arrays if s.name == CODES)
        for levels in (7, 8)
    }
    assert (of_codes[7].dtype, of_codes[7].shape) == (DType.U8, (501,))
    assert (of_codes[8].dtype, of_codes[8].shape) == (DType.I8, (1001,))


@given(st.lists(st.lists(st.integers(-8, 7), max_size=5), max_size=6))
def test_codes_packed_in_pieces_of_any_length_are_unpacked_as_one(pieces: list[list[int]]) -> None:
    codes = [code for piece in pieces for code in piece]
    pairs = np.concatenate([np.zeros(0, np.uint8), *packed(np.array(piece, np.int8) for piece in pieces)])
    assert unpacked(pairs).tolist() == codes + [0] * (len(codes) % 2)


def expected_error(values: Array, levels: int) -> tuple[Array, float]:
    """Return E[Q(v)] and E||Q(v) - v||^2 by the paper's distribution of xi, for one block."""
    norm = np.linalg.norm(values)
    steps = levels * np.abs(values) / norm
    low = np.floor(steps)
    up = steps - low  # the probability of low + 1
    outcomes = np.stack([low, low + 1]) * norm / levels
    chances = np.stack([1 - up, up])
    errors = (chances * (outcomes - np.abs(values)) ** 2).sum()
    return np.sign(values) * (chances * outcomes).sum(0), float(errors)


@pytest.mark.parametrize("levels", [1, 4, 127])
@pytest.mark.parametrize("size", [1, 16, 300])
def test_it_is_right_on_average_and_its_variance_is_within_the_papers_bound(levels: int, size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    mean, variance = expected_error(values, levels)
    assert np.allclose(mean, values)
    assert variance <= min(size / levels**2, np.sqrt(size) / levels) * (values**2).sum()
    # And what we draw is that distribution: each value is one of its two, as often as it should be.
    codec = Qsgd(1024, levels)
    drawn = np.stack([there_and_back(codec, {"w": values}, seed=seed)["w"] for seed in range(400)])
    step = np.linalg.norm(values) / levels
    assert (np.abs(drawn - values) < step * 1.000001).all()
    off = np.abs(drawn.mean(0) - values)
    assert (off <= 5 * step / 2 / np.sqrt(400)).all()  # five deviations of the widest two-point distribution


def test_a_code_beyond_the_levels_is_told() -> None:
    codec = Qsgd(16, 3)
    model = held({"w": np.ones(4, np.float32)})
    stored = encoded(codec, codec.signal(model))
    assert Check(codec, model.layout).first_wrong(0, stored.data) is None
    stored.data[stored.layout.offsets[CODES]] = 0x04
    assert Check(codec, model.layout).first_wrong(0, stored.data) == f"array {CODES!r} has codes beyond 3"


@pytest.mark.parametrize("levels", range(2, 128))
def test_the_largest_code_of_the_largest_scale_is_finite_and_a_larger_scale_is_refused(levels: int) -> None:
    codec, layout = Qsgd(1, levels), Layout.of({"w": np.zeros(1, np.float32)})
    above = np.nextafter(codec.largest_scale, np.float32(np.inf))
    assert float(above) * levels > float(np.finfo(np.float32).max), "no more is refused than has to be"
    largest, beyond = (memory({SCALES: np.array([s]), **_code(levels)}) for s in (codec.largest_scale, above))
    assert Check(codec, layout).first_wrong(0, largest.data) is None
    assert np.isfinite(arrays_of(codec.decoded(largest, layout))["w"]).all()
    assert "scales that are negative or too large" in (Check(codec, layout).first_wrong(0, beyond.data) or "")


def _code(levels: int) -> dict[str, Array]:
    return {CODES: np.array([levels], np.uint8 if levels <= 7 else np.int8)}


def test_values_next_to_the_largest_float32_are_an_error_where_no_scale_says_them() -> None:
    largest = np.array([np.finfo(np.float32).max], np.float32)
    with pytest.raises(WeightsError, match="too large for qsgd"):
        there_and_back(Qsgd(1, 127), {"w": largest})
    assert there_and_back(Qsgd(1, 1), {"w": largest})["w"] == largest
