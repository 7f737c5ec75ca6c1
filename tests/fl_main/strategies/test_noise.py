"""Noise: its distribution, and what its bits depend on."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.strategies import compose, make_strategy
from fl_main.strategies.noise import CHUNK
from fl_main.weights import Array
from tests.fl_main.strategies.arrays import folded

SIZE = 2 * CHUNK + 100


def noise(*, seed: int | None = 1, std: float = 2.0, version: int = 1, block_bytes: int = 1 << 20) -> Array:
    """Return what is added to a model of zeros, of two arrays and a counter between them."""
    model = {"a": np.zeros(SIZE), "n": np.zeros(3, "i8"), "z": np.zeros(50, "f4")}
    strategy = compose("noise", {"std": std, "seed": seed})
    found = folded(strategy, [model], version=version, block_bytes=block_bytes).arrays
    assert found["n"].tolist() == [0, 0, 0]
    return np.concatenate([found["a"], found["z"].astype("f8")])


def test_it_is_gaussian_of_the_stated_deviation() -> None:
    values = noise() / 2.0
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 4 * np.sqrt(0.6827 * 0.3173 / n)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(n)
    assert len(np.unique(values)) == n  # nothing comes twice: not over chunks, nor over arrays


@pytest.mark.parametrize("block_bytes", [8 * 1000, 8 * CHUNK, 8 * (CHUNK + 1)])
def test_its_bits_do_not_depend_on_blocks(block_bytes: int) -> None:
    np.testing.assert_array_equal(noise(block_bytes=block_bytes), noise())


def test_a_seed_gives_the_same_noise_again_and_another_in_every_round() -> None:
    np.testing.assert_array_equal(noise(version=3), noise(version=3))
    assert not np.intersect1d(noise(version=3), noise(version=4)).size
    assert not np.intersect1d(noise(seed=1), noise(seed=2)).size


def test_without_a_seed_nobody_can_foresee_it() -> None:
    assert not np.intersect1d(noise(seed=None), noise(seed=None)).size


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.seed: .* is not a whole number from 0"):
        make_strategy("noise", {"std": 1.0, "seed": seed})


def test_its_deviation_must_be_stated() -> None:
    with pytest.raises(SettingsError, match="missing 1 required positional argument: 'std'"):
        make_strategy("noise", {})
