"""FedDyn at the aggregator against numbers worked out by hand."""

import numpy as np
import pytest

from fl_main.errors import SettingsError
from fl_main.settings import RunSettings
from fl_main.strategies import Contribution, FedDyn, make_strategy, strategy_of
from fl_main.strategies.fold import Answer, fold, state_layout
from tests.fl_main.strategies.arrays import Memory, folded, memory

BASE = {"w": np.array([1.0, 2.0])}
MODELS = [{"w": np.array([2.0, 2.0])}, {"w": np.array([4.0, 0.0])}]  # steps [1, 0] and [3, -2]


def test_the_model_is_the_mean_of_the_models_less_h_over_alpha() -> None:
    found = folded(FedDyn(alpha=0.5), MODELS, [1, 99], base=BASE)
    # N h = -0.5 [4, -2]; x = [3, 1] - [-2, 1] / (2 x 0.5)
    np.testing.assert_allclose(found.state["total"].arrays["w"], [-2.0, 1.0], rtol=1e-15)
    np.testing.assert_allclose(found.arrays["w"], [5.0, 0.0], rtol=1e-15)
    assert found.folded.shares == (0.5, 0.5)


def test_h_is_the_mean_over_all_agents_that_may_train_and_goes_on() -> None:
    start = memory(BASE)
    before = {"total": memory({"w": np.array([6.0, 1.0])})}
    sink, after = Memory(start.layout), Memory(state_layout(start.layout))
    answers = [
        Answer(Contribution(f"agent-{number}", 1), {"weights": memory(model)}, start)
        for number, model in enumerate(MODELS)
    ]
    fold(FedDyn(alpha=0.5), answers, start, before, sink, {"total": after}, agents=8)
    # N h = [6, 1] - 0.5 [4, -2] = [4, 2]; x = [3, 1] - [4, 2] / (8 x 0.5)
    np.testing.assert_allclose(after.arrays["w"], [4.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(sink.arrays["w"], [2.0, 0.5], rtol=1e-15)


def test_agents_are_told_alpha() -> None:
    assert FedDyn(0.01).correction() == {"name": "feddyn", "alpha": 0.01}


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": -1.0}, {"alpha": "1"}, {"eta": 1.0}])
def test_options_that_it_does_not_take_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="strategy_options"):
        make_strategy("feddyn", options)


@pytest.mark.parametrize("codec", ["float16", "int8", "top-k", "random-k"])
def test_codecs_that_leave_something_out_are_refused(codec: str) -> None:
    def settings(strategy: object) -> RunSettings:
        given = {"name": "r", "strategy": strategy, "compression": {"codec": codec}}
        return RunSettings.model_validate(given)

    with pytest.raises(SettingsError) as caught:
        strategy_of(settings("feddyn"))
    assert str(caught.value) == (
        f"compression.codec: {codec}: it does not go with the strategy feddyn: what an agent keeps follows "
        "from its update as it made it, and the two must agree; give compression.codec: none"
    )
    with pytest.raises(SettingsError, match="does not go with the strategy feddyn > noise"):
        strategy_of(settings(["feddyn", {"noise": {"std": 0.1}}]))
    strategy_of(settings("scaffold"))
