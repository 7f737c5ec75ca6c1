"""Krum and Multi-Krum against numbers worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Krum, MultiKrum, make_strategy
from fl_main.strategies.krum import krum_scores, ranked, totals_of
from fl_main.weights import Array, Role
from tests.fl_main.strategies.arrays import folded

# On a line: squared distances of neighbours 1, 4, 1, and one far off.
PLACES = [0.0, 1.0, 3.0, 4.0, 100.0]


def models(places: Sequence[float] = PLACES) -> list[dict[str, Array]]:
    return [{"w": np.array([place])} for place in places]


def test_scores_are_sums_over_the_nearest_others() -> None:
    squares = np.subtract.outer(PLACES, PLACES) ** 2
    # n - f - 2 = 2 nearest: 1 + 9, 1 + 4, 4 + 1, 1 + 9, 96² + 97²
    assert krum_scores(squares, 1).tolist() == [10, 5, 5, 10, 96**2 + 97**2]
    # of two left with f = 1 the nearest one counts, though n - f - 2 is -1
    assert krum_scores(squares[:2, :2], 1).tolist() == [1, 1]


def test_of_equal_scores_the_one_nearer_to_all_is_first() -> None:
    squares = np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]) ** 2
    assert ranked(krum_scores(squares, 0), totals_of(squares)) == [
        1,
        0,
        2,
    ]  # 0 and 1 have each other: both score 1
    assert ranked(np.zeros(3), np.zeros(3)) == [0, 1, 2]


def test_krum_takes_one_model_as_it_is() -> None:
    # 1 and 3 score 5 both; 1 is nearer to all: 1 + 4 + 9 + 99² against 9 + 4 + 1 + 97²
    found = folded(Krum(), models())
    assert found.arrays["w"].tolist() == [3.0]
    assert found.folded.shares == (0.0, 0.0, 1.0, 0.0, 0.0)
    assert [note["score"] for note in found.folded.notes] == [10, 5, 5, 10, 96**2 + 97**2]
    assert [note["kept"] for note in found.folded.notes] == [0, 0, 1, 0, 0]
    assert [note["distance"] for note in found.folded.notes] == [3, 2, 0, 1, 97]


def test_multi_krum_leaves_the_f_worst_out() -> None:
    found = folded(MultiKrum(f=1), models(), [1, 2, 3, 4, 1000])
    assert found.arrays["w"].item() == pytest.approx(2.0)  # (0 + 1 + 3 + 4) / 4
    assert found.folded.shares == (0.25, 0.25, 0.25, 0.25, 0.0)
    assert [note["distance"] for note in found.folded.notes] == pytest.approx([2, 1, 1, 2, 98])


def test_multi_krum_keeps_m() -> None:
    assert folded(MultiKrum(m=2), models()).arrays["w"].item() == pytest.approx(2.0)  # 1 and 3
    assert folded(MultiKrum(m=1), models()).arrays["w"].item() == 3.0  # Krum


def test_multi_krum_weighs_those_that_it_keeps_by_examples_where_asked() -> None:
    found = folded(MultiKrum(weighting="examples"), models(), [1, 1, 1, 7, 1000])
    # (0 + 1 + 3 + 7 x 4) / 10
    assert found.arrays["w"].item() == pytest.approx(3.2)


@pytest.mark.parametrize("rule", [Krum(), MultiKrum(m=2)])
def test_running_statistics_and_integers_are_medians_whoever_is_kept(rule: Krum | MultiKrum) -> None:
    given = [
        {**model, "n": np.array([n]), "var": np.array([float(n)])}
        for model, n in zip(models(), [1, 2, 999, 4, 5], strict=True)  # Krum keeps the third
    ]
    found = folded(rule, given, roles={"var": Role.BUFFER}).arrays
    assert (found["n"].tolist(), found["var"].tolist()) == ([4], [4.0])


@pytest.mark.parametrize("make", [Krum, MultiKrum])
@pytest.mark.parametrize(("f", "least"), [(0, 3), (1, 5), (2, 7), (10, 23)])
def test_f_are_borne_by_2_f_plus_3(make: type[Krum], f: int, least: int) -> None:
    assert make(f=f).min_updates == least
    assert make(f=f).bears(least) == f
    assert make(f=f).bears(least - 1) == 0


@pytest.mark.parametrize("make", [Krum, MultiKrum])
def test_too_few_are_refused(make: type[Krum]) -> None:
    with pytest.raises(UpdateRejectedError) as caught:
        folded(make(f=1), models()[:4])
    assert str(caught.value) == (
        "4 updates, but the strategy needs 5: f = 1 faulty ones are borne by n ≥ 2f + 3"
    )


def test_m_needs_as_many_that_are_not_faulty() -> None:
    assert MultiKrum(f=1, m=9).min_updates == 10
    with pytest.raises(UpdateRejectedError, match=r"needs 10: m = 9 are kept of n - f$"):
        folded(MultiKrum(f=1, m=9), models())


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("krum", {"f": -1}, "strategy_options.f: -1 is not a whole number of at least 0"),
        ("krum", {"f": 1.0}, "strategy_options.f: 1.0 is not a whole number of at least 0"),
        ("multi_krum", {"m": 0}, "strategy_options.m: 0 is not a whole number of at least 1"),
        (
            "multi_krum",
            {"weighting": "size"},
            "strategy_options.weighting: 'size' is not examples or uniform",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, object], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_strategy(name, options)
    assert str(caught.value) == line
