"""FedAsync against numbers worked out by hand, from Algorithm 1 of Xie et al. 2019."""

import ml_dtypes
import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.settings import StalenessSettings
from fl_main.staleness import discount
from fl_main.strategies import Contribution, FedAsync, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

NOW, OLD = {"w": np.array([10.0, 0.0])}, {"w": np.array([4.0, 4.0])}
LOCAL = {"w": np.array([20.0, -10.0])}

either_form = pytest.mark.parametrize("as_deltas", [False, True], ids=["models", "deltas"])


def update(late: int = 0, agent: str = "a", staleness: StalenessSettings | None = None) -> Contribution:
    return Contribution(
        agent, 5, staleness=late, discount=discount(late, staleness or StalenessSettings(discount="none"))
    )


@either_form
def test_a_fresh_update_moves_the_model_by_alpha(as_deltas: bool) -> None:
    found = folded(FedAsync(alpha=0.6), [LOCAL], base=NOW, facts=[update()], as_deltas=as_deltas)
    np.testing.assert_allclose(found.arrays["w"], [16.0, -6.0], rtol=1e-15)  # 0.4 x 10 + 0.6 x 20; 0.6 x -10
    assert found.folded.shares == (0.6,)


@either_form
@pytest.mark.parametrize(
    ("staleness", "late", "step"),
    [
        (StalenessSettings(discount="polynomial"), 3, 0.25),  # 0.5 x (1 + 3)^-0.5
        (StalenessSettings(discount="polynomial", a=1), 3, 0.125),  # 0.5 x (1 + 3)^-1
        (StalenessSettings(discount="hinge"), 4, 0.5),  # up to b = 4 it costs nothing
        (StalenessSettings(discount="hinge"), 6, 0.5 / 21),  # 0.5 / (10 x (6 - 4) + 1)
        (StalenessSettings(discount="none"), 6, 0.5),
    ],
)
def test_the_older_the_base_the_smaller_the_step(
    staleness: StalenessSettings, late: int, step: float, as_deltas: bool
) -> None:
    facts = [update(late, staleness=staleness)]
    found = folded(FedAsync(alpha=0.5), [LOCAL], base=NOW, origins=[OLD], facts=facts, as_deltas=as_deltas)
    # towards the local model itself, whatever it was trained on
    np.testing.assert_allclose(found.arrays["w"], [10 + step * 10, -step * 10], rtol=1e-15)


@either_form
def test_of_a_buffer_one_update_is_taken_after_the_other(as_deltas: bool) -> None:
    models = [{"w": np.array([20.0])}, {"w": np.array([0.0])}]
    facts = [update(agent="a"), update(agent="b")]
    found = folded(FedAsync(0.5), models, base={"w": np.array([10.0])}, facts=facts, as_deltas=as_deltas)
    assert found.arrays["w"].tolist() == [7.5]  # halfway from 10 to 20, then halfway from 15 to 0
    assert found.folded.shares == (0.25, 0.5)  # a quarter is still the model that was there


@either_form
@pytest.mark.parametrize(("dtype", "error"), [("f8", 1e-15), ("f4", 1e-6), ("f2", 2e-3), ("bf16", 2e-2)])
def test_every_precision_is_right_to_rounding(dtype: str, error: float, as_deltas: bool) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bf16" else dtype)
    local, now, old = ({"w": model["w"].astype(kind)} for model in (LOCAL, NOW, OLD))
    found = folded(FedAsync(0.3), [local], base=now, origins=[old], facts=[update()], as_deltas=as_deltas)
    assert found.arrays["w"].dtype == kind
    np.testing.assert_allclose(found.arrays["w"].astype("f8"), [13.0, -3.0], rtol=error)


@either_form
def test_running_statistics_move_as_far_as_parameters_do(as_deltas: bool) -> None:
    base = {"w": np.array([0.0]), "mean": np.array([8.0]), "steps": np.array([3])}
    local = {"w": np.array([1.0]), "mean": np.array([4.0]), "steps": np.array([9])}
    found = folded(
        FedAsync(0.25),
        [local],
        base=base,
        roles={"mean": Role.BUFFER},
        facts=[update()],
        as_deltas=as_deltas,
    ).arrays
    assert (found["w"].item(), found["mean"].item()) == (0.25, 7.0)
    assert found["steps"].item() == 9  # a counter is the updates' own


def test_alpha_1_takes_the_local_model_over() -> None:
    found = folded(FedAsync(alpha=1), [LOCAL], base=NOW, facts=[update()])
    assert found.arrays["w"].tolist() == LOCAL["w"].tolist()


def test_a_model_that_overflows_is_refused() -> None:
    with pytest.raises(UpdateRejectedError, match="NaN or infinite"):
        folded(FedAsync(), [{"w": np.array([3e38], "f4")}], base={"w": np.array([-3e38], "f4")})


@pytest.mark.parametrize("alpha", [0, -1, 1.01, float("nan"), "1", True, None])
def test_alpha_is_a_number_above_0_and_at_most_1(alpha: object) -> None:
    with pytest.raises(
        SettingsError, match=r"^strategy_options\.alpha: .* is not a number above 0, at most 1"
    ):
        make_strategy("fedasync", {"alpha": alpha})
