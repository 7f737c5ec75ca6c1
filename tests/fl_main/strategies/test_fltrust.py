"""FLTrust against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies import Contribution, FLTrust, make_strategy
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import Result, folded

BASE = {"w": np.array([10.0, 20.0]), "mean": np.array([0.0])}


def fold_of(*deltas: tuple[float, float], root: int = 0) -> Result:
    models = [
        {"w": BASE["w"] + np.array(delta), "mean": np.array([float(i)])} for i, delta in enumerate(deltas)
    ]
    counts = [1, 10, 100, 1000][: len(deltas)]
    strategy = FLTrust(root=f"agent-{root:03}")
    return folded(strategy, models, counts, base=BASE, roles={"mean": Role.BUFFER})


def test_updates_are_trusted_by_their_cosine_and_brought_to_the_norm_of_the_trusted_one() -> None:
    # g_0 = (2, 0); (1, 1): trust 1/√2, brought to (√2, √2); (0, 9): 0; (-50, 0): 0; so all is (√2, √2)
    found = fold_of((2, 0), (1, 1), (0, 9), (-50, 0))
    np.testing.assert_allclose(found.arrays["w"], [10 + 2**0.5, 20 + 2**0.5], rtol=1e-14)
    assert found.folded.shares == (0.0, 1.0, 0.0, 0.0)
    assert [note["root_cosine"] for note in found.folded.notes] == pytest.approx([1, 0.5**0.5, 0, -1])
    assert [note["kept"] for note in found.folded.notes] == [0, 1, 0, 0]


def test_trust_is_divided_among_those_that_have_some() -> None:
    # g_0 = (0, 1); (0, 100) is trusted 1 and becomes (0, 1); (3, 4) is trusted 0.8 and becomes (0.6, 0.8)
    found = fold_of((0, 100), (0, 1), (3, 4), root=1)
    np.testing.assert_allclose(found.arrays["w"], [10 + 0.48 / 1.8, 20 + 1.64 / 1.8], rtol=1e-14)
    assert found.folded.shares == pytest.approx((1 / 1.8, 0.0, 0.8 / 1.8))


def test_where_nobody_is_trusted_the_trusted_update_is_taken() -> None:
    found = fold_of((2, 1), (-2, -1), (-4, 0))
    np.testing.assert_allclose(found.arrays["w"], [12, 21], rtol=1e-14)
    assert found.folded.shares == (1.0, 0.0, 0.0)


def test_updates_of_0_change_nothing() -> None:
    assert fold_of((0, 0), (0, 0)).arrays["w"].tolist() == [10.0, 20.0]


def test_running_statistics_are_those_of_the_trusted_one() -> None:
    assert fold_of((0, 9), (1, 0), (2, 0), (1, 0), root=2).arrays["mean"].item() == 2.0


def test_integers_are_those_of_the_trusted_one() -> None:
    models = [{"w": BASE["w"] + 1, "n": np.array([n])} for n in (9, 2**62 + 1, 9, 9)]
    found = folded(FLTrust(root="agent-001"), models, base={"w": BASE["w"], "n": np.array([0])})
    assert found.arrays["n"].tolist() == [2**62 + 1]


def test_a_round_without_the_trusted_agent_fails() -> None:
    facts = [Contribution("st-mary", 1), Contribution("st-john", 1)]
    with pytest.raises(UpdateRejectedError) as caught:
        folded(FLTrust(root="central"), [{"w": np.zeros(1)}] * 2, facts=facts)
    assert str(caught.value) == "the trusted agent 'central' sent no update, or another one has its name"


def test_it_bears_all_but_one_and_refuses_one_alone() -> None:
    assert [FLTrust().bears(updates) for updates in (2, 10)] == [1, 9]
    with pytest.raises(UpdateRejectedError, match=r"^1 updates, .* needs 2: the trusted one and another$"):
        fold_of((1, 0))


@pytest.mark.parametrize("root", ["", 3, None])
def test_root_is_a_name(root: object) -> None:
    with pytest.raises(SettingsError, match=r"^strategy_options\.root: .* is not the name of an agent$"):
        make_strategy("fltrust", {"root": root})
