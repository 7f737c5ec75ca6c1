"""SCAFFOLD at the aggregator against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.settings import RunSettings
from fl_main.strategies import Contribution, Scaffold, make_strategy, strategy_of
from fl_main.strategies.fold import Answer, fold, state_layout
from tests.fl_main.strategies.arrays import Memory, Result, folded, memory

BASE = {"w": np.array([1.0, 2.0])}
MODELS = [{"w": np.array([2.0, 2.0])}, {"w": np.array([4.0, 0.0])}]
CHANGES = [
    {"control": memory({"w": np.array([1.0, 0.0])})},
    {"control": memory({"w": np.array([3.0, -2.0])})},
]


def test_the_model_moves_by_the_mean_of_the_steps_whatever_the_examples() -> None:
    found = folded(Scaffold(eta=0.5), MODELS, [1, 99], base=BASE, channels=CHANGES)
    # [1, 2] + 0.5 ([1, 0] + [3, -2]) / 2
    np.testing.assert_allclose(found.arrays["w"], [2.0, 1.5], rtol=1e-15)
    assert found.folded.shares == (0.5, 0.5)


def test_weighted_by_examples_as_in_flamby() -> None:
    found = folded(Scaffold(weighting="examples"), MODELS, [1, 3], base=BASE, channels=CHANGES)
    # [1, 2] + 1/4 [1, 0] + 3/4 [3, -2]; c = 1/4 [1, 0] + 3/4 [3, -2]
    np.testing.assert_allclose(found.arrays["w"], [3.5, 0.5], rtol=1e-15)
    np.testing.assert_allclose(found.state["control"].arrays["w"], [2.5, -1.5], rtol=1e-15)
    assert found.folded.shares == (0.25, 0.75)


def test_weighted_by_examples_it_is_the_mean_of_all_that_are_there_once_a_large_one_has_joined() -> None:
    first = round_of(agents=2, before={}, counts=(1, 3))
    np.testing.assert_array_equal(first.state["total"].arrays["w"], [10.0, -6.0])  # 1 [1, 0] + 3 [3, -2]
    np.testing.assert_array_equal(first.state["control"].arrays["w"], [2.5, -1.5])
    late = round_of(agents=3, before=first.state, counts=(1, 3, 6), changes=(0.0, 0.0, 1.0))
    # (1 [1, 0] + 3 [3, -2] + 6 [1, 1]) / (1 + 3 + 6)
    np.testing.assert_allclose(late.state["control"].arrays["w"], [1.6, 0.0], atol=1e-15)


def test_the_control_variate_is_the_mean_over_all_agents_that_may_train() -> None:
    found = round_of(agents=8, before={})
    np.testing.assert_array_equal(found.state["total"].arrays["w"], [4.0, -2.0])
    np.testing.assert_array_equal(found.state["control"].arrays["w"], [0.5, -0.25])


def test_agents_that_come_later_lower_it_as_if_they_had_always_been_there() -> None:
    first = round_of(agents=2, before={})
    np.testing.assert_array_equal(first.state["control"].arrays["w"], [2.0, -1.0])
    second = round_of(agents=4, before=first.state)
    # The sum of both rounds, over four: not 2 + 4/4, which would keep the first one's share for ever.
    np.testing.assert_array_equal(second.state["control"].arrays["w"], [2.0, -1.0])


def round_of(
    agents: int,
    before: dict[str, Memory],
    counts: tuple[int, ...] = (),
    changes: tuple[float, ...] = (),
) -> Result:
    """Fold a round: of `CHANGES`, or of control variates that all change by so much."""
    start = memory(BASE)
    strategy = Scaffold(weighting="examples" if counts else "uniform")
    controls = [{"control": memory({"w": np.full(2, change)})} for change in changes] or CHANGES
    sink = Memory(start.layout)
    answers = [
        Answer(
            Contribution(f"agent-{number}", counts[number] if counts else 1),
            {"weights": memory(MODELS[number % 2]), **control},
            start,
        )
        for number, control in enumerate(controls)
    ]
    after = {name: Memory(state_layout(start.layout)) for name in strategy.state}
    done = fold(strategy, answers, start, before, sink, after, agents=agents)
    return Result(sink, after, done)


def test_agents_are_told_how_to_renew_theirs() -> None:
    assert Scaffold().correction() == {"name": "scaffold", "option": 2}
    assert Scaffold(option=1).correction() == {"name": "scaffold", "option": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"eta": 0},
        {"eta": "1"},
        {"option": 3},
        {"option": True},
        {"option": "2"},
        {"mu": 1.0},
        {"weighting": "size"},
    ],
)
def test_options_that_it_does_not_take_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("scaffold", options)


@pytest.mark.parametrize("mode", ["semi-sync", "async"])
@pytest.mark.parametrize("strategy", ["scaffold", "feddyn", "fedcurv"])
def test_modes_in_which_two_updates_of_an_agent_may_be_under_way_are_refused(
    strategy: str, mode: str
) -> None:
    with pytest.raises(SettingsError, match=f"mode: {mode}: .*two of them may be under way"):
        strategy_of(RunSettings.model_validate({"name": "r", "mode": mode, "strategy": strategy}))
