"""random-k."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.compression.random_k import SEED, Parts, RandomK, mixed, picks
from fl_main.errors import WeightsError
from tests.fl_main.compression.arrays import encoded, held, there_and_back


@given(size=st.integers(1, 200), data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_one_place_is_chosen_of_each_of_k_equal_parts(size: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, size))
    parts = Parts(size, k, seed)
    first, places, sizes = parts.chosen(0, size)
    assert first == 0
    ends = np.cumsum(sizes)
    assert (ends[-1], len(places), max(sizes) - min(sizes) <= 1) == (size, k, True)
    assert ((places >= ends - sizes) & (places < ends)).all()
    # And any stretch is told the same by itself.
    start = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - start))
    inside = (places >= start) & (places < start + length)
    number, found, _ = parts.chosen(start, length)
    assert found.tolist() == places[inside].tolist()
    assert not inside.any() or number == np.argmax(inside)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_each_place_of_a_part_is_as_likely_as_any_other(size: int) -> None:
    """Over all values that the random bits can have, in even steps, each is picked as often."""
    steps = 1 << 14
    bits = np.arange(steps, dtype=np.uint64) << np.uint64(64 - 14)
    counts = np.bincount(picks(bits, np.full(steps, size)), minlength=size)
    assert len(counts) == size
    assert np.abs(counts - steps / size).max() < 1


def test_the_generator_is_splitmix64() -> None:
    # The reference implementation's first outputs from seed 1234567 (Vigna, splitmix64.c).
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mixed(1234567, np.arange(3)).tolist() == wanted


def test_chosen_values_times_the_size_of_their_part_are_right_on_average() -> None:
    """Of parts of 2 values each is chosen with 1/2, times 2: the mean over both choices is the value."""
    codec = RandomK(0.5, error_feedback=False)
    values = np.array([1, 10, 2, 20], np.float32)
    seen = {tuple(there_and_back(codec, {"w": values}, seed=seed)["w"].tolist()) for seed in range(40)}
    assert seen == {(2, 0, 4, 0), (2, 0, 0, 40), (0, 20, 4, 0), (0, 20, 0, 40)}
    assert np.mean(list(seen), axis=0).tolist() == values.tolist()


def test_with_error_feedback_values_are_sent_as_they_are() -> None:
    codec = RandomK(0.5, error_feedback=True)
    values = np.array([1, 10, 2, 20], np.float32)
    sent = there_and_back(codec, {"w": values})["w"]
    assert np.count_nonzero(sent) == 2
    assert np.array_equal(sent[sent != 0], values[sent != 0])


def test_places_take_no_bytes_but_those_of_one_number() -> None:
    codec = RandomK(0.01, error_feedback=True)
    model = held({"w": np.ones(10_000, np.float32)})
    assert codec.layout(model.layout).nbytes == 8 + 4 * 100
    first, second = (encoded(codec, codec.signal(model), seed) for seed in (1, 2))
    assert first.arrays[SEED] != second.arrays[SEED]


def test_a_value_that_is_too_large_once_it_is_multiplied_is_an_error() -> None:
    codec = RandomK(0.5, error_feedback=False)
    with pytest.raises(WeightsError, match=r"array 'w' has values too large to be sent alone"):
        encoded(codec, codec.signal(held({"w": np.full(2, 1e308)})))
