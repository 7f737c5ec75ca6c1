"""RFA against numbers worked out by hand, and against what a geometric median is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Contribution, GeometricMedian, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

LINE = [{"w": np.array([place])} for place in (0.0, 1.0, 11.0)]
LATE = tuple(enumerate((4, 4, 4, 0, 0)))  # agents, and how many versions late they are


def test_one_iteration_weighs_by_distances_to_the_mean() -> None:
    # The mean of 0, 1 and 11 is 4: distances 4, 3 and 7; (1/3 + 11/7) / (1/4 + 1/3 + 1/7) = 160/61
    found = folded(GeometricMedian(iterations=1), LINE)
    np.testing.assert_allclose(found.arrays["w"], [160 / 61], rtol=1e-14)
    assert found.folded.shares == pytest.approx((21 / 61, 28 / 61, 12 / 61))
    assert [note["distance"] for note in found.folded.notes] == pytest.approx([160 / 61, 99 / 61, 511 / 61])


def test_many_iterations_find_the_median() -> None:
    for rule in (GeometricMedian(iterations=300), GeometricMedian()):
        found = folded(rule, LINE).arrays["w"].item()
        assert found == pytest.approx(1.0, abs=1e-6)  # on a line it is the median


def test_examples_weigh_where_they_shall() -> None:
    found = folded(GeometricMedian(weighting="examples"), LINE, [1, 1, 5]).arrays["w"].item()
    assert found == pytest.approx(11.0, abs=1e-6)  # it has more than half of the examples
    assert folded(GeometricMedian(), LINE, [1, 1, 5]).arrays["w"].item() == pytest.approx(1.0, abs=1e-6)


def test_few_who_are_in_time_do_not_outweigh_most_who_are_late() -> None:
    # Two of five are borne. With the discount 1/√5 of the late ones, 2 would count more than 3/√5.
    facts = [Contribution(f"agent-{i}", 1, staleness=late, discount=(1 + late) ** -0.5) for i, late in LATE]
    models = [{"w": np.array([place])} for place in (0.0, 0.1, 0.2, 1e6, 1e6)]
    rule = GeometricMedian()
    assert rule.bears(5) == 2
    assert folded(rule, models, facts=facts).arrays["w"].item() == pytest.approx(0.2, abs=0.01)
    by_examples = folded(GeometricMedian(weighting="examples"), models, facts=facts).arrays["w"].item()
    assert by_examples == pytest.approx(1e6)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e12, 1e38, 1e120, 1e200, 1.7e308])
@pytest.mark.parametrize(("count", "faulty"), [(4, 1), (10, 4), (41, 20)])
def test_it_is_near_the_others_however_far_off_the_faulty_ones_are(
    count: int, faulty: int, far: float
) -> None:
    # A geometric median is within 2 (n - f) / (n - 2f) of the radius in which n - f updates lie
    # (Lopuhaä and Rousseeuw 1991): here all of them but the faulty ones are in the unit ball.
    noise = np.random.default_rng(count)
    points = noise.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[count - faulty :] = far
    found = folded(GeometricMedian(), [{"w": point} for point in points], base={"w": np.zeros(3)})
    bound = 2 * (count - faulty) / (count - 2 * faulty)
    assert np.linalg.norm(found.arrays["w"]) <= bound
    exact = [note["distance"] for note in found.folded.notes[: count - faulty]]
    if far < 1e140:
        np.testing.assert_allclose(
            exact, np.linalg.norm(points[: count - faulty] - found.arrays["w"], axis=1), atol=1e-8
        )


def test_of_a_triangle_it_is_the_fermat_point() -> None:
    # Of an equilateral triangle the centre, at distance 1 from all.
    corners = [(0.0, 1.0), (-(0.75**0.5), -0.5), (0.75**0.5, -0.5)]
    models = [{"w": np.array([*corner, 7.0])} for corner in corners]
    found = folded(GeometricMedian(), models)
    np.testing.assert_allclose(found.arrays["w"], [0, 0, 7], atol=1e-15)
    assert [note["distance"] for note in found.folded.notes] == pytest.approx([1, 1, 1])


@given(st.integers(0, 2**32 - 1), st.integers(3, 9))
def test_no_point_beside_it_has_a_smaller_sum_of_distances(seed: int, count: int) -> None:
    noise = np.random.default_rng(seed)
    points = noise.normal(size=(count, 4))
    found = folded(GeometricMedian(), [{"w": point} for point in points]).arrays["w"]

    def total(place: np.ndarray) -> float:
        return float(np.linalg.norm(points - place, axis=1).sum())

    for _ in range(20):
        assert total(found) <= total(found + 1e-2 * noise.normal(size=4)) + 1e-5


def test_distances_below_nu_count_as_nu() -> None:
    # Mean 4, all distances below 100: all weigh alike, and the mean stays.
    assert folded(GeometricMedian(nu=100.0), LINE).arrays["w"].item() == pytest.approx(4.0)


@pytest.mark.parametrize("nu", [1e-320, 1e-300])
def test_a_nu_of_which_1_over_it_is_no_float64_is_one_of_next_to_nothing(nu: float) -> None:
    models = [{"w": np.array([value])} for value in (1.0, 1.0, 1.0, 8.0)]
    found = folded(GeometricMedian(nu=nu), models)
    assert found.arrays["w"].tolist() == [1.0]


def test_running_statistics_are_medians() -> None:
    models = [{**model, "n": np.array([n])} for model, n in zip(LINE, (5.0, 1e30, 3.0), strict=True)]
    assert folded(GeometricMedian(), models, roles={"n": Role.BUFFER}).arrays["n"].item() == 5.0


def test_it_bears_fewer_than_half_and_refuses_too_few() -> None:
    assert [GeometricMedian().bears(updates) for updates in (3, 4, 5, 10)] == [1, 1, 2, 4]
    assert GeometricMedian(iterations=3).bears(10) == 0
    assert GeometricMedian(weighting="examples").bears(10) == 0  # who claims most of them decides
    with pytest.raises(UpdateRejectedError, match=r"needs 3: the median of fewer bears no faulty one$"):
        folded(GeometricMedian(), LINE[:2])


@pytest.mark.parametrize("options", [{"nu": 0}, {"iterations": 0}, {"iterations": 2.5}, {"weighting": "n"}])
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.\w+: .* is not "):
        make_strategy("geometric_median", options)
