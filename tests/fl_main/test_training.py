"""What training functions hand in, as plain numbers."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fl_main.errors import WeightsError
from fl_main.training import TrainResult, as_count, as_metrics, counts_of, is_finite


def test_scalars_of_every_kind_become_floats() -> None:
    given: dict[str, Any] = {
        "a": 1,
        "b": np.float32(0.5),
        "c": np.array([2.0]),
        "d": True,
        "e": Fraction(1, 4),
    }
    assert as_metrics(given) == {"a": 1.0, "b": 0.5, "c": 2.0, "d": 1.0, "e": 0.25}


@pytest.mark.parametrize(
    "value", ["0.5", None, np.zeros(2), np.zeros(0), [1.0], 1j, np.complex64(1), 10**400]
)
def test_what_is_not_one_number_is_refused(value: object) -> None:
    with pytest.raises(WeightsError, match="'loss' must be one number"):
        as_metrics({"loss": value})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"m" * 201: 1.0}, "metric 'm{40}'… has a name of more than 200 characters"),
        ({str(number): 1.0 for number in range(1001)}, "1001 metrics; at most 1000 are taken"),
    ],
    ids=["name", "many"],
)
def test_metrics_that_no_message_can_carry_are_refused(given: dict[str, float], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        as_metrics(given)


def test_metrics_without_names_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"numbers by name, .*, not list"):
        as_metrics([0.5])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [10, 10.0, np.int64(10), np.float32(10), np.array([10])])
def test_a_count_is_a_whole_number_of_any_kind(value: Any) -> None:
    assert counts_of(TrainResult({}, value, num_steps=value)) == (10, 10)
    assert counts_of(TrainResult({}, value)) == (10, None)


@pytest.mark.parametrize("value", [10.5, "10", None, math.nan, math.inf, np.zeros(2), [10], 10 + 0j])
def test_what_counts_nothing_whole_is_refused(value: object) -> None:
    with pytest.raises(WeightsError, match=r"^num_examples must be a whole number, not "):
        as_count(value, "num_examples")


def test_metrics_are_finite_or_not() -> None:
    assert is_finite({"loss": 0.5})
    assert not is_finite({"loss": 0.5, "error": math.nan})
    assert not is_finite({"loss": math.inf})
