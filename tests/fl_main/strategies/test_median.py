"""The coordinate-wise median against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Median, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded


def test_each_value_is_the_median_of_its_own() -> None:
    models = [{"w": np.array(values)} for values in ([1.0, 9.0], [2.0, 7.0], [100.0, 8.0])]
    assert folded(Median(), models).arrays["w"].tolist() == [2.0, 8.0]


def test_of_an_even_number_it_is_the_mean_of_the_middle_two() -> None:
    models = [{"w": np.array([value])} for value in (1.0, 2.0, 5.0, -1000.0)]
    assert folded(Median(), models).arrays["w"].tolist() == [1.5]


def test_examples_do_not_count() -> None:
    models = [{"w": np.array([value])} for value in (1.0, 2.0, 3.0)]
    assert folded(Median(), models, [1, 1, 10**9]).arrays["w"].tolist() == [2.0]


def test_running_statistics_are_medians_too_and_so_are_counters() -> None:
    models = [
        {"w": np.array([0.0]), "var": np.array([var]), "n": np.array([n])}
        for var, n in ((1.0, 2), (2.0, 2), (1e30, 8))
    ]
    found = folded(Median(), models, roles={"var": Role.BUFFER}).arrays
    assert found["var"].tolist() == [2.0]  # a mean would be 3e29
    assert found["n"].tolist() == [2]


def test_of_an_even_number_of_integers_it_is_the_lower_one() -> None:
    models = [
        {"w": np.zeros(1), "n": np.array([n]), "mask": np.array([mask])}
        for n, mask in ((2**62 + 1, True), (2**62 + 2, True), (-5, False), (2**63 - 1, False))
    ]
    found = folded(Median(), models, [1, 1, 1, 10**12]).arrays
    assert found["n"].tolist() == [2**62 + 1]
    assert found["mask"].tolist() == [False]


def test_notes_say_how_far_each_is_from_the_median() -> None:
    base = {"w": np.array([0.0, 0.0])}
    models = [{"w": np.array(values)} for values in ([1.0, 0.0], [1.0, 1.0], [1.0, 5.0])]
    found = folded(Median(), models, base=base)
    assert found.arrays["w"].tolist() == [1.0, 1.0]
    assert [note["distance"] for note in found.folded.notes] == [1.0, 0.0, 4.0]
    # the mean is (1, 2): cosines 1/√5, 3/√10, 11/√130
    cosines = [note["cosine"] for note in found.folded.notes]
    assert cosines == pytest.approx([5**-0.5, 3 * 10**-0.5, 11 * 130**-0.5])
    assert found.folded.shares == (None, None, None)


@pytest.mark.parametrize(("updates", "borne"), [(3, 1), (4, 1), (5, 2), (10, 4), (11, 5)])
def test_it_bears_fewer_than_half(updates: int, borne: int) -> None:
    assert Median().bears(updates) == borne


def test_too_few_are_refused() -> None:
    with pytest.raises(UpdateRejectedError) as caught:
        folded(Median(), [{"w": np.zeros(1)}] * 2)
    assert str(caught.value) == (
        "2 updates, but the strategy needs 3: the median of fewer bears no faulty one"
    )


def test_it_takes_no_options() -> None:
    with pytest.raises(SettingsError, match="its options: none"):
        make_strategy("median", {"beta": 0.1})
