"""Scalars of blocks."""

import numpy as np
import pytest

from fl_main.strategies.scalars import inner, squared_distance, squared_norm


def test_scalars_are_those_of_the_definition() -> None:
    left, right = np.array([1.0, 2.0, -3.0]), np.array([4.0, 0.0, 1.0])
    assert inner(left, right) == 1.0  # 4 + 0 - 3
    assert squared_norm(left) == 14.0  # 1 + 4 + 9
    assert squared_distance(left, right) == 29.0  # 9 + 4 + 16


def test_single_precision_is_summed_in_double() -> None:
    # In float32 the square of 2**12 + 1 is rounded, and 2**24 + 1 + 1 stays 2**24.
    values = np.array([2**12 + 1, 1, 1], "f4")
    assert squared_norm(values) == (2**12 + 1) ** 2 + 2
    assert squared_distance(values, np.array([0, 1, 1], "f4")) == (2**12 + 1) ** 2
    assert squared_norm(np.full(3, 3e38, "f4")) == pytest.approx(27e76)
