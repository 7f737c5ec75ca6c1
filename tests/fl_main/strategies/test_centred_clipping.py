"""Centred clipping against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import CentredClipping, make_strategy
from fl_main.weights import Array
from tests.fl_main.strategies.arrays import Memory, Result, folded

NINE = [np.array([1.0, 0.0])] * 9


def fold_of(
    strategy: CentredClipping, deltas: list[Array], base: list[float], state: dict[str, Memory] | None = None
) -> Result:
    start = {"w": np.array(base)}
    return folded(strategy, [{"w": start["w"] + delta} for delta in deltas], base=start, state=state)


def test_what_is_farther_than_tau_counts_as_tau() -> None:
    # nine times (1, 0), and (0, 400) clipped to (0, 2)
    found = fold_of(CentredClipping(tau=2.0), [*NINE, np.array([0.0, 400.0])], [10.0, 10.0])
    np.testing.assert_allclose(found.arrays["w"], [10.9, 10.2], rtol=1e-15)
    np.testing.assert_allclose(found.state["center"].arrays["w"], [0.9, 0.2], rtol=1e-15)
    assert [note["factor"] for note in found.folded.notes] == [1.0] * 9 + [0.005]
    assert found.folded.shares == pytest.approx((0.1,) * 9 + (0.0005,))


def test_the_centre_is_kept_between_rounds() -> None:
    first = fold_of(CentredClipping(tau=2.0), [*NINE, np.array([0.0, 400.0])], [10.0, 10.0])
    base = first.arrays["w"].tolist()
    second = fold_of(CentredClipping(tau=2.0), [*NINE, np.array([0.0, 400.0])], base, first.state)
    # v = (0.9, 0.2); (1, 0) - v = (0.1, -0.2), not clipped; (0, 400) - v = (-0.9, 399.8), clipped to 2
    far = np.array([-0.9, 399.8])
    step = 0.9 * np.array([0.1, -0.2]) + 0.1 * far * 2 / np.linalg.norm(far)
    np.testing.assert_allclose(second.state["center"].arrays["w"], np.array([0.9, 0.2]) + step, rtol=1e-12)
    np.testing.assert_allclose(second.arrays["w"], base + np.array([0.9, 0.2]) + step, rtol=1e-12)


def test_several_iterations_move_the_centre_several_times() -> None:
    deltas = [np.array([3.0])] * 9 + [np.array([-1000.0])]
    # tau 1: v = 0 + (9 - 1) / 10 = 0.8, then 3 - 0.8 and -1000.8 are clipped as well: 1.6, then 2.4
    for iterations, center in ((1, 0.8), (2, 1.6), (3, 2.4)):
        found = folded(
            CentredClipping(tau=1.0, iterations=iterations),
            [{"w": delta} for delta in deltas],
            base={"w": np.zeros(1)},
        )
        assert found.arrays["w"].item() == pytest.approx(center)
    # a fourth: 3 - 2.4 = 0.6 is not clipped any more: 2.4 + (9 x 0.6 - 1) / 10 = 2.84
    last = folded(
        CentredClipping(tau=1.0, iterations=4), [{"w": delta} for delta in deltas], base={"w": np.zeros(1)}
    )
    assert last.arrays["w"].item() == pytest.approx(2.84)


def test_a_large_tau_is_the_plain_mean() -> None:
    found = fold_of(CentredClipping(tau=1e9), [*NINE, np.array([11.0, 10.0])], [0.0, 0.0])
    np.testing.assert_allclose(found.arrays["w"], [2.0, 1.0], rtol=1e-15)


def test_no_update_moves_the_model_by_more_than_its_part_of_tau() -> None:
    with_it = fold_of(CentredClipping(tau=2.0), [*NINE, np.array([1e15, 0.0])], [0.0, 0.0]).arrays["w"]
    np.testing.assert_allclose(with_it, [0.9 + 0.2, 0.0], rtol=1e-12)


def test_it_bears_a_tenth_and_refuses_too_few() -> None:
    assert [CentredClipping().bears(updates) for updates in (9, 10, 19, 30)] == [0, 1, 1, 3]
    with pytest.raises(
        UpdateRejectedError, match=r"^9 updates, .* needs 10: it bears a tenth of the updates$"
    ):
        fold_of(CentredClipping(), NINE, [0.0, 0.0])


@pytest.mark.parametrize("options", [{"tau": 0}, {"tau": "1"}, {"iterations": 0}])
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.\w+: .* is not a"):
        make_strategy("centred_clipping", options)
