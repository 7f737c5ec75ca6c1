"""top-k."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.compression import Check
from fl_main.compression.top_k import PLACES, VALUES, TopK, kth_magnitude, number_of
from fl_main.errors import WeightsError
from fl_main.weights import Array
from tests.fl_main.compression.arrays import arrays_of, encoded, held, left, there_and_back


def f4(*values: float) -> Array:
    return np.array(values, np.float32)


def test_the_largest_magnitudes_of_all_arrays_together_are_sent() -> None:
    # Of six values a third are two: 9 of the second array, and -8 of the first.
    codec = TopK(1 / 3)
    arrays = {"a": f4(1, -8, 2), "b": f4(3, 9, 7)}
    stored = encoded(codec, codec.signal(held(arrays)))
    assert stored.arrays[PLACES].tolist() == [1, 4]
    assert stored.arrays[VALUES].tolist() == [-8, 9]
    back = there_and_back(codec, arrays)
    assert (back["a"].tolist(), back["b"].tolist()) == ([0, -8, 0], [0, 9, 0])


@pytest.mark.parametrize(("fraction", "size", "k"), [(0.01, 0, 0), (0.01, 1, 1), (0.01, 101, 2), (1.0, 7, 7)])
def test_k_is_the_part_rounded_up(fraction: float, size: int, k: int) -> None:
    assert number_of(fraction, size) == k


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    assert there_and_back(TopK(0.5), {"w": f4(2, -2, 2, 2)})["w"].tolist() == [2, -2, 0, 0]


@given(st.lists(st.floats(0, allow_infinity=False, width=32), max_size=30), st.integers(0, 30))
def test_the_search_finds_what_sorting_finds(values: list[float], k: int) -> None:
    k = min(k, len(values))
    bits = np.abs(f4(*values)).view(np.uint32)
    least, ties = kth_magnitude(lambda: [bits[:7], bits[7:]], k)
    ordered = sorted(values, reverse=True)
    if k:
        assert np.array([least], np.uint32).view(np.float32)[0] == ordered[k - 1]
        assert ties == ordered[:k].count(ordered[k - 1])
    else:
        assert (least, ties) == (0, 0)


@given(seed=st.integers(0, 99), fraction=st.floats(0.01, 1))
def test_what_is_left_is_what_was_not_sent_bit_for_bit(seed: int, fraction: float) -> None:
    codec = TopK(fraction)
    values = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    signal = codec.signal(held({"w": values}))
    stored = encoded(codec, signal)
    sent = arrays_of(codec.decoded(stored, signal.vector.model))["w"]
    rest = left(codec, signal, stored).arrays["w"]
    assert np.array_equal(sent + rest, values)
    assert np.count_nonzero(sent) == number_of(fraction, 50)
    assert np.abs(rest).max() <= np.abs(sent[sent != 0]).min()


def test_what_is_left_comes_later() -> None:
    """One of two values is sent each time; what both add, 3 and 2 a step, is there in the end."""
    codec, layout = TopK(0.5), held({"w": f4(0, 0)}).layout
    kept, sent = None, []
    for _ in range(3):
        signal = codec.signal(held({"w": f4(3, 2)}), held({"w": f4(0, 0)}), kept)
        stored = encoded(codec, signal)
        sent.append(arrays_of(codec.decoded(stored, layout))["w"].tolist())
        kept = left(codec, signal, stored)
    # p = (3, 2), then (3, 4), then (6, 2): the second value waits, and comes when it is the larger.
    assert sent == [[3, 0], [0, 4], [6, 0]]
    assert kept is not None
    assert kept.arrays["w"].tolist() == [0, 2]  # 9 - 3 - 6, and 6 - 4


def test_places_beyond_four_billion_are_wider() -> None:
    codec = TopK(1e-6)
    wide = held({"w": np.broadcast_to(np.float32(0), ((1 << 32) + 1,))}).layout
    kinds = {spec.name: str(spec.dtype) for spec in codec.layout(wide).arrays}
    assert kinds == {PLACES: "U64", VALUES: "F32"}


def test_a_value_too_large_for_what_travels_or_for_the_model_is_an_error() -> None:
    codec = TopK(1.0)
    with pytest.raises(WeightsError, match=r"array 'w' has values too large to be sent alone"):
        encoded(codec, codec.signal(held({"w": np.array([1e39])})))
    base, local = (held({"w": np.array([value], "f2")}) for value in (-60000, 60000))
    with pytest.raises(WeightsError, match=r"array 'w' has values too large to be sent alone"):
        encoded(codec, codec.signal(local, base))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([1, 1, 2], "has places that do not ascend"),
        ([2, 1, 3], "has places that do not ascend"),
        ([1, 3, 2], "has places that do not ascend"),
        ([0, 1, 6], "has places beyond the 6 values"),
        ([0, 1, 2**32 - 1], "has places beyond the 6 values"),
    ],
)
@pytest.mark.parametrize("step", [8, 24])
def test_places_that_no_encoder_writes_are_told_and_decode_within_bounds(
    places: list[int], said: str, step: int
) -> None:
    codec = TopK(0.5)
    model = held({"w": f4(1, 2, 3, 4, 5, 6)})
    stored = encoded(codec, codec.signal(model))
    stored.data[:12] = np.array(places, "<u4").tobytes()  # places are the first that travels
    check = Check(codec, model.layout)
    found = [check.first_wrong(start, stored.data[start : start + step]) for start in range(0, 24, step)]
    assert next(filter(None, found)) == f"array {PLACES!r} {said}"
    assert arrays_of(codec.decoded(stored, model.layout))["w"].shape == (6,)
