"""FedBuff against numbers worked out by hand, from Algorithm 1 of Nguyen et al. 2022."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.settings import StalenessSettings
from fl_main.staleness import discount
from fl_main.strategies import Contribution, FedAvg, FedBuff, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import Result, folded

# The global model now, and the two older ones that the second and third update were trained on.
NOW, BEFORE, OLDEST = {"w": np.array([10.0, 0.0])}, {"w": np.array([8.0, 1.0])}, {"w": np.array([5.0, 2.0])}
# What they add to them: (1, 2), (2, -4) and (9, 3).
LOCAL = [{"w": np.array([11.0, 2.0])}, {"w": np.array([10.0, -3.0])}, {"w": np.array([14.0, 5.0])}]
ORIGINS = [NOW, BEFORE, OLDEST]

either_form = pytest.mark.parametrize("as_deltas", [False, True], ids=["models", "deltas"])


def facts(*staleness: int) -> list[Contribution]:
    return [
        Contribution(f"agent-{i}", 7 * i + 1, staleness=late, discount=discount(late, StalenessSettings()))
        for i, late in enumerate(staleness)
    ]


def buffered(strategy: FedBuff, *, as_deltas: bool) -> Result:
    """Fold the three updates; they are 0, 3 and 8 versions late, which counts 1, 1/2 and 1/3."""
    return folded(strategy, LOCAL, base=NOW, origins=ORIGINS, facts=facts(0, 3, 8), as_deltas=as_deltas)


@either_form
def test_discounted_differences_are_divided_by_their_number(as_deltas: bool) -> None:
    found = buffered(FedBuff(), as_deltas=as_deltas)
    # (1 + 2 / 2 + 9 / 3) / 3 = 5/3 and (2 - 4 / 2 + 3 / 3) / 3 = 1/3: by 3, not by the sum of 11/6
    np.testing.assert_allclose(found.arrays["w"], [10 + 5 / 3, 1 / 3], rtol=1e-15)


@either_form
def test_eta_scales_the_step(as_deltas: bool) -> None:
    found = buffered(FedBuff(eta=0.3), as_deltas=as_deltas)
    np.testing.assert_allclose(found.arrays["w"], [10.5, 0.1], rtol=1e-15)  # 0.3 of 5/3 and 1/3


def test_shares_are_those_of_the_discounts() -> None:
    found = buffered(FedBuff(), as_deltas=True)
    assert found.folded.shares == pytest.approx((6 / 11, 3 / 11, 2 / 11))  # of 1, 1/2 and 1/3


def test_examples_do_not_count() -> None:
    few = [Contribution("a", 1), Contribution("b", 1)]
    many = [Contribution("a", 1), Contribution("b", 10**6)]
    first, second = (folded(FedBuff(), LOCAL[:2], base=NOW, facts=cohort) for cohort in (few, many))
    assert first.model.data == second.model.data


@either_form
@pytest.mark.parametrize(("dtype", "error"), [("f8", 1e-15), ("f4", 1e-6), ("f2", 2e-3), ("bf16", 2e-2)])
def test_every_precision_is_right_to_rounding(dtype: str, error: float, as_deltas: bool) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bf16" else dtype)
    models, origins = ([{"w": m["w"].astype(kind)} for m in some] for some in (LOCAL, ORIGINS))
    found = folded(
        FedBuff(), models, base=origins[0], origins=origins, facts=facts(0, 3, 8), as_deltas=as_deltas
    )
    assert found.arrays["w"].dtype == kind
    np.testing.assert_allclose(found.arrays["w"].astype("f8"), [10 + 5 / 3, 1 / 3], rtol=error)


@either_form
def test_fresh_updates_of_one_base_make_the_uniform_mean(as_deltas: bool) -> None:
    noise = np.random.default_rng(0)
    base, *models = ({"w": noise.normal(size=1000)} for _ in range(8))
    buffered = folded(FedBuff(), models, base=base, as_deltas=as_deltas)
    mean = folded(FedAvg(weighting="uniform"), models, base=base)
    np.testing.assert_allclose(buffered.arrays["w"], mean.arrays["w"], rtol=0, atol=1e-14)


@either_form
def test_buffers_and_integers_are_averaged_by_the_discounts(as_deltas: bool) -> None:
    models: list[Any] = [
        {"w": np.array([1.0]), "var": np.array([4.0], "f4"), "steps": np.array([10])},
        {"w": np.array([1.0]), "var": np.array([1.0], "f4"), "steps": np.array([40])},
    ]
    base = {"w": np.array([1.0]), "var": np.array([100.0], "f4"), "steps": np.array([0])}
    found = folded(
        FedBuff(), models, base=base, roles={"var": Role.BUFFER}, facts=facts(0, 3), as_deltas=as_deltas
    )
    # counts of 1 and 1/2: (4 + 1 / 2) / (3/2) = 3 and (10 + 40 / 2) / (3/2) = 20
    assert (found.arrays["var"].item(), found.arrays["steps"].item()) == (3.0, 20)


def test_a_model_that_overflows_is_refused() -> None:
    models = [{"w": np.array([3e38], "f4")}]
    with pytest.raises(UpdateRejectedError, match="NaN or infinite"):
        folded(FedBuff(eta=10), models, base={"w": np.array([-3e38], "f4")})


@pytest.mark.parametrize("eta", [0, -1, float("inf"), float("nan"), "1", True, None])
def test_eta_is_a_number_above_0(eta: object) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.eta: .* is not a number above 0$"):
        make_strategy("fedbuff", {"eta": eta})
