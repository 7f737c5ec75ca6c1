"""A local model as what it adds to its base, and back."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_main.deltas import add, subtract
from fl_main.weights import Array, Layout, Role

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), BFLOAT16]
shapes = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)


def numbers(width: int) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, 8, elements=st.floats(-100, 100, width=width))  # type: ignore[arg-type]


def bits(array: Array) -> bytes:
    return array.tobytes()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(first=numbers(16), second=numbers(16))
def test_a_delta_added_to_its_base_is_the_local_model_to_rounding(
    dtype: np.dtype[Any], first: Array, second: Array
) -> None:
    base, local = {"w": first.astype(dtype)}, {"w": second.astype(dtype)}
    layout = Layout.of(base)
    again = add(base, subtract(base, local, layout), layout)
    step = float(ml_dtypes.finfo(dtype).eps)  # of the largest number on the way
    largest = np.abs(first).astype(np.float64) + np.abs(second)
    wanted = local["w"].astype(np.float64)
    assert (np.abs(again["w"].astype(np.float64) - wanted) <= 2 * step * largest + 1e-7).all()
    assert again["w"].dtype == dtype


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(shape=shapes, seed=st.integers(0, 99))
def test_a_zero_delta_gives_the_base_bit_for_bit(dtype: np.dtype[Any], shape: Any, seed: int) -> None:
    base = {"w": np.random.default_rng(seed).normal(size=shape).astype(dtype)}
    layout = Layout.of(base)
    delta = subtract(base, base, layout)
    assert not delta["w"].any()
    assert bits(add(base, delta, layout)["w"]) == bits(base["w"])
    assert Layout.of(delta) == layout


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_negative_zero_of_the_base_stays_one(dtype: np.dtype[Any]) -> None:
    base = {"w": np.array([-0.0, 0.0], dtype)}
    layout = Layout.of(base)
    assert bits(add(base, subtract(base, base, layout), layout)["w"]) == bits(base["w"])


def test_what_is_no_float_parameter_is_the_local_models_own() -> None:
    base = {"w": np.array([1.0]), "count": np.array(7), "seen": np.array([True]), "mean": np.array([0.5])}
    local = {"w": np.array([1.5]), "count": np.array(9), "seen": np.array([False]), "mean": np.array([0.75])}
    layout = Layout.of(base, {"mean": Role.BUFFER})
    delta = subtract(base, local, layout)
    assert {name: array.tolist() for name, array in delta.items()} == {
        "w": [0.5],
        "count": 9,
        "seen": [False],
        "mean": [0.75],
    }
    assert {name: array.tolist() for name, array in add(base, delta, layout).items()} == {
        name: array.tolist() for name, array in local.items()
    }


def test_arrays_that_are_not_in_the_layout_are_left_out() -> None:
    local = {"w": np.array([2.0]), "own": np.array([3.0])}
    layout = Layout.of(local, {"own": Role.PRIVATE}).without_private()
    assert subtract({"w": np.array([1.0])}, local, layout).keys() == {"w"}


def test_narrow_floats_are_computed_in_wider_ones() -> None:
    base, delta = {"w": np.array([2048.0], np.float16)}, {"w": np.array([1.5], np.float16)}
    assert add(base, delta, Layout.of(base))["w"].tolist() == [2050.0]  # 2049.5 to the nearest, not 2048


def test_a_difference_that_is_too_large_is_infinite() -> None:
    base, local = {"w": np.array([-60000.0], np.float16)}, {"w": np.array([60000.0], np.float16)}
    assert np.isposinf(subtract(base, local, Layout.of(base))["w"]).all()


def test_neither_argument_is_changed() -> None:
    base, local = {"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 5.0])}
    layout = Layout.of(base)
    add(base, subtract(base, local, layout), layout)
    assert (base["w"].tolist(), local["w"].tolist()) == ([1.0, 2.0], [3.0, 5.0])
