"""Distances and products of updates, against sums over the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.strategies import geometry
from fl_main.strategies.geometry import COLUMNS, FARTHEST, Geometry, Numbers, Sightings, as_notes, cancelled

SQUARE = np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 4.0]], "f4")


def test_distances_and_products_of_a_triangle() -> None:
    seen = Geometry(3)
    seen.take(SQUARE)
    assert seen.squares.tolist() == [[0, 25, 16], [25, 0, 9], [16, 9, 0]]
    assert seen.products.tolist() == [[9, 0, 9], [0, 16, 16], [9, 16, 25]]
    assert seen.norms().tolist() == [3, 4, 5]


def test_blocks_add_up() -> None:
    seen = Geometry(3)
    for column in range(2):
        seen.take(SQUARE[:, column : column + 1])
    assert seen.squares.tolist() == [[0, 25, 16], [25, 0, 9], [16, 9, 0]]


def test_points_are_relative_to_an_origin_and_one_more_may_come_first() -> None:
    seen = Geometry(3)
    seen.take(SQUARE[1:], origin=np.array([3.0, 4.0], "f4"), first=SQUARE[0])
    assert seen.norms().tolist() == [4, 3, 0]
    assert seen.squares.tolist() == [[0, 25, 16], [25, 0, 9], [16, 9, 0]]


def test_distances_to_a_mean_of_the_points() -> None:
    seen = Geometry(3)
    seen.take(SQUARE)
    # (3, 0) and (0, 4) have their middle in (1.5, 2), 2.5 from all three corners
    np.testing.assert_allclose(seen.distances([0.5, 0.5, 0.0]), [2.5, 2.5, 2.5], rtol=1e-15)
    # weights that do not add up to 1: (3, 0) / 2 is 1.5, √(1.5² + 4²) and √(1.5² + 4²) away
    np.testing.assert_allclose(
        seen.distances_from([0.5, 0.0, 0.0]), [1.5, 18.25**0.5, 18.25**0.5], rtol=1e-15
    )


def test_a_point_that_is_far_off_does_not_drown_the_distances_of_the_others() -> None:
    seen = Geometry(3)
    seen.take(np.array([[0.0, 0.0], [3.0, 4.0], [1e30, 0.0]]))
    # with a weight of 1e-30 it moves the sum by (1, 0): (0, 0) is 1 from that, (3, 4) is √(2² + 4²)
    found = seen.distances([1.0, 0.0, 1e-30])
    np.testing.assert_allclose(found, [1, 20**0.5, 1e30], rtol=1e-12)


@pytest.mark.parametrize("far", [1e200, -1.7e308])
def test_what_is_too_far_off_to_compute_with_counts_as_very_far_off(far: float) -> None:
    seen = Geometry(3)
    seen.take(np.array([[3.0, 4.0], [0.0, 0.0], [far, -far]]))
    assert seen.beyond.tolist() == [False, False, True]
    assert seen.counted().tolist() == [1, 1, 0]
    assert seen.squares[0, 1] == 25
    np.testing.assert_allclose(seen.norms(), [5, 0, 2**0.5 * FARTHEST], rtol=1e-12)
    np.testing.assert_allclose(seen.distances([0.5, 0.5, 0.0])[:2], [2.5, 2.5], rtol=1e-12)


def test_where_all_are_too_far_off_all_count() -> None:
    seen = Geometry(2)
    seen.take(np.full((2, 1), 1e200))
    assert seen.counted().tolist() == [1, 1]


def test_only_what_cancels_is_computed_again() -> None:
    sums = np.array([[0.0, 0.0, 8.0], [0.0, 0.0, 8.0], [8.0, 8.0, 8.0]])
    found = np.array([[0.0, 0.0, 1e-9], [0.0, 0.0, 8.0], [1e-9, 8.0, 0.0]])
    # of (0, 1) nothing is there that could cancel: both are 0, as where no agent changed a stretch
    assert np.argwhere(cancelled(found, sums)).tolist() == [[0, 2]]


def test_cosines() -> None:
    seen = Geometry(4)
    seen.take(np.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(seen.cosines([1.0, 0.0, 0.0, 0.0]), [1, 0.5**0.5, -1, 0], rtol=1e-15)
    # their mean is (0, 1/4)
    np.testing.assert_allclose(seen.cosines_to_mean(), [0, 0.5**0.5, 0, 0], rtol=1e-15)
    assert seen.cosines([0.0, 0.0, 0.0, 0.0]).tolist() == [0, 0, 0, 0]  # nothing points where 0 does


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.sampled_from([1.0, 1e-9, 1e6]))
def test_distances_are_those_of_the_differences(seed: int, points: int, spread: float) -> None:
    noise = np.random.default_rng(seed)
    rows = (1 + spread * noise.normal(size=(points, 50))).astype("f4")
    seen = Geometry(points)
    seen.take(rows)
    exact = rows.astype("f8")
    differences = exact[:, None] - exact[None]
    np.testing.assert_allclose(seen.squares, (differences**2).sum(-1), rtol=1e-8)
    np.testing.assert_array_equal(seen.squares, seen.squares.T)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.sampled_from(["f4", "f8"]))
def test_equal_points_are_exactly_0_apart(seed: int, points: int, dtype: str) -> None:
    noise = np.random.default_rng(seed)
    rows = noise.normal(size=(points, 3 * COLUMNS // 2)).astype(dtype)
    rows[points // 2] = rows[-1]
    seen = Geometry(points)
    seen.take(rows)
    assert seen.squares[points // 2, points - 1] == 0
    same = Geometry(points)
    same.take(np.tile(rows[:1], (points, 1)))
    assert not same.squares.any()
    assert not same.distances(np.full(points, 1 / points)).any()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.sampled_from([0.0, 1e-12, 1e-9, 1.0]))
def test_points_in_crowds_are_as_far_from_each_other_as_their_differences(
    of: list[int], spread: float
) -> None:
    noise = np.random.default_rng(7)
    apart = spread ** np.arange(1, 5)  # crowds within crowds
    rows = (1 + apart[:, None] * noise.normal(size=(4, 50)))[of]
    seen = Geometry(len(of))
    seen.take(rows)
    np.testing.assert_allclose(seen.squares, ((rows[:, None] - rows[None]) ** 2).sum(-1), rtol=1e-8)
    assert not seen.squares[np.equal.outer(of, of)].any()


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_a_crowd_is_looked_at_once(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 50 beside the first, not each of 1,225 pairs: where some are still equal, once more."""
    taken = list[int]()

    def products(points: Numbers) -> Numbers:
        taken.append(len(points))
        return points @ points.T

    monkeypatch.setattr(geometry, "_products", products)
    Geometry(50).take(1 + spread * np.random.default_rng(7).normal(size=(50, 100)))
    assert taken == [50, 50]


def test_sightings_are_distances_to_the_result_and_cosines_to_the_mean() -> None:
    seen = Sightings(2)
    rows, base = np.array([[2.0, 1.0], [1.0, 2.0]], "f4"), np.ones(2, "f4")
    for column in (slice(0, 1), slice(1, 2)):
        seen.take(rows[:, column], base[column], np.array([2.0, 1.0], "f4")[column])
    first, second = seen.notes()
    assert first["distance"] == 0.0
    assert second["distance"] == pytest.approx(2**0.5)
    # the differences are (1, 0) and (0, 1), their mean (1/2, 1/2)
    assert first["cosine"] == pytest.approx(0.5**0.5)


def test_notes_are_one_mapping_for_each_update() -> None:
    assert as_notes(distance=np.array([1.0, 2.0]), kept=[1, 0]) == [
        {"distance": 1.0, "kept": 1.0},
        {"distance": 2.0, "kept": 0.0},
    ]
