"""What an update counts by its staleness, against numbers worked out from the two papers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.settings import StalenessSettings
from fl_main.staleness import discount


def discounts(*staleness: int, **settings: Any) -> list[float]:
    return [discount(late, StalenessSettings(**settings)) for late in staleness]


def test_the_default_is_that_of_fedbuff() -> None:
    assert discounts(0, 3, 8, 99) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 10])  # 1 / sqrt(1 + t)


def test_polynomial_with_another_power() -> None:
    assert discounts(0, 1, 3, discount="polynomial", a=2) == pytest.approx([1, 1 / 4, 1 / 16])


def test_hinge_costs_nothing_up_to_b() -> None:
    # then 1 / (a (t - b) + 1), with a = 10 and b = 4 unless the settings say otherwise
    assert discounts(0, 3, 4, 5, 6, discount="hinge") == pytest.approx([1, 1, 1, 1 / 11, 1 / 21])
    assert discounts(1, 2, 4, discount="hinge", a=0.5, b=1) == pytest.approx([1, 2 / 3, 2 / 5])
    assert discounts(0, 1, discount="hinge", a=1, b=0) == pytest.approx([1, 1 / 2])


def test_none_counts_all_alike() -> None:
    assert discounts(0, 1, 1000, discount="none") == [1, 1, 1]


@given(
    st.integers(0, 10**6),
    st.sampled_from(["polynomial", "hinge", "none"]),
    st.none() | st.floats(1e-6, 20),
    st.integers(0, 50),
)
def test_it_falls_from_1_and_never_to_nothing(late: int, kind: Any, a: float | None, b: int) -> None:
    settings = StalenessSettings(discount=kind, a=a, b=b)
    assert discount(0, settings) == 1
    assert 0 < discount(late + 1, settings) <= discount(late, settings) <= 1
