"""Attacks against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from fl_main.errors import WeightsError
from fl_main.testing.attacks import (
    gaussian,
    inner_product,
    label_flip,
    little_is_enough,
    little_is_enough_z,
    scaling,
    sign_flip,
)

BASE: dict[str, Any] = {"w": np.array([10.0, 20.0]), "n": np.array([7])}
OWN: dict[str, Any] = {"w": np.array([11.0, 18.0]), "n": np.array([9])}
HONEST: list[dict[str, Any]] = [
    {"w": np.array([11.0, 20.0]), "n": np.array([9])},
    {"w": np.array([13.0, 20.0]), "n": np.array([9])},
]


def test_labels_are_turned_around() -> None:
    assert label_flip(np.array([0, 3, 9], np.int8), 10).tolist() == [9, 6, 0]
    assert label_flip(np.array([0.0, 1.0]), 2).tolist() == [1.0, 0.0]
    assert label_flip(np.array([0], np.int8), 10).dtype == np.int8


def test_signs_are_flipped_around_the_global_model() -> None:
    assert sign_flip(BASE, OWN)["w"].tolist() == [9.0, 22.0]
    assert sign_flip(BASE, OWN, scale=3)["w"].tolist() == [7.0, 26.0]


def test_an_update_is_scaled() -> None:
    assert scaling(BASE, OWN, factor=10)["w"].tolist() == [20.0, 0.0]


def test_noise_is_added_to_the_global_model() -> None:
    base = {"w": np.full(20_000, 5.0, np.float32)}
    found = gaussian(base, np.random.default_rng(0), sigma=2)["w"]
    assert found.dtype == np.float32
    assert found.mean() == pytest.approx(5, abs=0.06)  # 4 standard errors of 2 / √20000
    assert found.std() == pytest.approx(2, abs=0.04)


def test_a_little_is_the_mean_less_so_many_standard_deviations() -> None:
    # The honest updates are (1, 0) and (3, 0): mean 2, standard deviation 1.
    assert little_is_enough(BASE, HONEST, attackers=1, z=0.5)["w"].tolist() == [11.5, 20.0]


def test_how_little_follows_from_the_numbers_of_agents() -> None:
    # n = 50, m = 24: s = 26 - 24 = 2, Φ(z) = (26 - 2) / 26 = 12/13
    assert little_is_enough_z(50, 24) == pytest.approx(1.4261, abs=1e-4)
    # n = 4, m = 1: s = 3 - 1 = 2, Φ(z) = 1/3
    assert little_is_enough_z(4, 1) == pytest.approx(-0.4307, abs=1e-4)
    assert little_is_enough(BASE, [HONEST[0]] * 2 + [HONEST[1]], attackers=1)["w"][0] == pytest.approx(
        10 + 5 / 3 + 0.4307 * 8**0.5 / 3,
        abs=1e-4,  # of 1, 1 and 3
    )


@pytest.mark.parametrize(("agents", "attackers"), [(10, 5), (10, 0), (3, 2)])
def test_attackers_are_a_minority(agents: int, attackers: int) -> None:
    with pytest.raises(WeightsError, match=f"{attackers} attackers of {agents} agents"):
        little_is_enough_z(agents, attackers)


def test_the_inner_product_with_the_honest_mean_is_negative() -> None:
    assert inner_product(BASE, HONEST, epsilon=0.5)["w"].tolist() == [9.0, 20.0]


def test_values_of_16_bits_are_forged_too() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        found = sign_flip({"w": BASE["w"].astype(dtype)}, {"w": OWN["w"].astype(dtype)})["w"]
        assert (found.dtype, found.astype(float).tolist()) == (np.dtype(dtype), [9.0, 22.0])


def test_other_arrays_are_left_as_honest_training_made_them() -> None:
    assert sign_flip(BASE, OWN)["n"].tolist() == [9]
    assert inner_product(BASE, HONEST)["n"].tolist() == [9]


def test_types_stay_as_they_are() -> None:
    half = {"w": np.ones(3, np.float16)}
    assert sign_flip(half, half)["w"].dtype == np.float16
    single = {"w": np.float32(2.0) * np.ones((), np.float32)}
    assert scaling({"w": np.zeros((), np.float32)}, single)["w"].shape == ()
