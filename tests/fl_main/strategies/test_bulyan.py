"""Bulyan against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Bulyan, make_strategy
from fl_main.strategies.bulyan import mean_near_median, repeated_krum
from fl_main.strategies.krum import krum_scores, ranked, totals_of
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

# n = 7, f = 1: θ = 5 are picked, and of each value the 3 nearest to their median are averaged.
PLACES = [0.0, 1.0, 2.0, 4.0, 5.0, 7.0, 1000.0]
MODELS = [{"w": np.array([place, -place])} for place in PLACES]


def test_values_near_the_median_of_the_picks_are_averaged() -> None:
    # By n - f - 2 nearest: of 0 1 2 4 5 7 1000 (4 count) 2 and 4 and 1 are near all; squares of w[0]:
    #   0: 1+4+16+25 = 46, 1: 1+1+9+16 = 27, 2: 4+1+4+9 = 18, 4: 1+4+9+9 = 23 -> 2 is picked
    #   left 0 1 4 5 7 1000 (3 count): 0: 1+16+25 = 42, 1: 1+9+16 = 26, 4: 1+9+9 = 19, 5: 1+4+16 = 21 -> 4
    #   left 0 1 5 7 1000 (2 count): 0: 1+25, 1: 1+16 = 17, 5: 4+16 = 20, 7: 4+36 -> 1
    #   left 0 5 7 1000 (1 counts): 0: 25, 5 and 7: 4; 5 is nearer to all -> 5
    #   left 0 7 1000 (the nearest counts): 0 and 7: 49; 7 is nearer to all -> 7
    found = folded(Bulyan(f=1), MODELS)
    assert [note["kept"] for note in found.folded.notes] == [0, 1, 1, 1, 1, 1, 0]
    # 1 2 4 5 7: the median is 4, nearest to it 4, 5 and 2
    np.testing.assert_allclose(found.arrays["w"], [11 / 3, -11 / 3], rtol=1e-15)
    assert found.folded.notes[6]["distance"] == pytest.approx((1000 - 11 / 3) * 2**0.5)
    assert found.folded.notes[2]["score"] == pytest.approx(2 * 18)


def test_of_an_even_number_of_picks_the_median_is_between_two() -> None:
    models = [{"w": np.array([place])} for place in (0.0, 1.0, 5.0, 6.0)]
    # f = 0: all four are picked, the 4 nearest to 3 are all
    assert folded(Bulyan(f=0), models).arrays["w"].item() == pytest.approx(3.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_the_picks_are_those_of_krum_on_what_is_left(seed: int, count: int, f: int, on_grid: bool) -> None:
    noise = np.random.default_rng(seed)
    places = noise.integers(0, 4, (count, 2)) if on_grid else noise.normal(size=(count, 2))  # many are equal
    squares = ((places[:, None] - places[None]) ** 2.0).sum(-1)
    left, expected = list(range(count)), []
    while len(left) > 2 * f:
        among = squares[np.ix_(left, left)]
        expected.append(left.pop(ranked(krum_scores(among, f), totals_of(among))[0]))
    assert repeated_krum(squares, f) == expected


@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(0, 4))
def test_the_values_nearest_to_the_median_are_those_of_sorting_by_distance(
    seed: int, count: int, faulty: int
) -> None:
    dropped = 2 * min(faulty, (count - 2) // 2)  # an even number, as always in Bulyan
    values = np.sort(np.random.default_rng(seed).normal(size=(count, 20)), axis=0)
    distances = np.abs(values - np.median(values, axis=0))
    nearest = np.argsort(distances, axis=0, kind="stable")[: count - dropped]
    out = np.empty(20)
    mean_near_median(values, dropped, out)
    np.testing.assert_allclose(out, np.take_along_axis(values, nearest, axis=0).mean(axis=0), rtol=1e-12)


def test_a_single_wrong_value_of_an_update_is_left_out() -> None:
    models = [{"w": np.array([float(i), 0.0, 0.0, 0.0])} for i in range(7)]
    models[3]["w"][1] = 0.5  # too little to make the update an outlier
    found = folded(Bulyan(f=1), models)
    assert found.folded.notes[3]["kept"] == 1
    assert found.arrays["w"][1] == 0.0


def test_running_statistics_go_by_the_same_picks() -> None:
    variances = (9e9, 1.0, 2.0, 3.0, 4.0, 9e9, 9e9)
    models = [{**model, "var": np.array([var])} for model, var in zip(MODELS, variances, strict=True)]
    found = folded(Bulyan(f=1), models, roles={"var": Role.BUFFER}).arrays
    assert found["var"].item() == 3.0  # of 1 2 3 4 9e9: the median is 3, nearest to it 2, 3 and 4


@pytest.mark.parametrize(("f", "least"), [(0, 3), (1, 7), (2, 11), (5, 23)])
def test_f_are_borne_by_4_f_plus_3(f: int, least: int) -> None:
    assert Bulyan(f=f).min_updates == least
    assert Bulyan(f=f).bears(least) == f
    assert Bulyan(f=f).bears(least - 1) == 0


def test_too_few_are_refused() -> None:
    with pytest.raises(UpdateRejectedError, match=r"needs 7: f = 1 faulty ones are borne by n ≥ 4f \+ 3$"):
        folded(Bulyan(f=1), MODELS[:6])


def test_f_is_a_whole_number() -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.f: 0\.2 is not a whole number"):
        make_strategy("bulyan", {"f": 0.2})
