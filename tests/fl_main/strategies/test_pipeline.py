"""Steps that make one strategy: what each sees of those before it, and what goes together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fl_main import run_local
from fl_main.agent import TrainResult
from fl_main.errors import SettingsError, StrategyError, UpdateRejectedError
from fl_main.settings import RunSettings
from fl_main.settings.files import load_run, parse_run
from fl_main.strategies import Block, Contribution, FedAvg, Strategy, compose, strategy_of
from fl_main.weights import Role
from tests.fl_main.strategies.arrays import folded

HERE = "tests.fl_main.strategies.test_pipeline"


class Nearest(FedAvg):
    """Keeps the two updates that are nearest to the base: a filter as Krum is one."""

    selects = True
    passes = 1

    def begin(self, contributions: Sequence[Contribution]) -> None:
        self.squares = np.zeros(len(contributions))

    def measure(self, number: int, block: Block) -> None:
        for index, values in enumerate(block.updates()):
            self.squares[index] += float(np.sum((values - block.base) ** 2))

    def shares(self) -> Sequence[float]:
        kept = set(np.argsort(self.squares)[:2].tolist())
        return [0.5 if index in kept else 0.0 for index in range(len(self.squares))]

    def notes(self) -> Sequence[Mapping[str, float]]:
        pairs = zip(self.shares(), self.squares.tolist(), strict=True)
        return [{"kept": float(share > 0), "square": square} for share, square in pairs]


class Median(Strategy):
    """The median of each coordinate; it says nothing of shares."""

    stacks = True

    def combine(self, block: Block) -> None:
        block.out[:] = np.median(block.stack(), axis=0)


class Three(Median):
    min_updates = 3


class Trees(Strategy):
    takes_free = True


class OtherMomentum(FedAvg):
    state = ("momentum",)


class Late(FedAvg):
    step = "noise"
    passes = 1


BASE = {"w": np.array([1.0, 1.0])}
# What they add to the base: (3, 4), (0, 1) and (-6, 8), whose norms are 5, 1 and 10.
MODELS = [{"w": np.array([4.0, 5.0])}, {"w": np.array([1.0, 2.0])}, {"w": np.array([-5.0, 9.0])}]


# --- what steps do -----------------------------------------------------------------------


@pytest.mark.parametrize("as_deltas", [False, True], ids=["models", "deltas"])
@pytest.mark.parametrize("rule", ["fedavg", "fedbuff"])
def test_updates_come_scaled_to_the_rule(rule: str, as_deltas: bool) -> None:
    found = folded(compose([{"norm_bound": {"bound": 5.0}}, rule]), MODELS, base=BASE, as_deltas=as_deltas)
    # (3, 4), (0, 1) and half of (-6, 8): their mean is (0, 3)
    np.testing.assert_allclose(found.arrays["w"], [1.0, 4.0], rtol=0, atol=1e-15)
    assert found.folded.notes == (
        {"norm": 5.0, "factor": 1.0},
        {"norm": 1.0, "factor": 1.0},
        {"norm": 10.0, "factor": 0.5},
    )


def test_running_statistics_move_as_far_as_their_update() -> None:
    models = [{**model, "mean": np.array([6.0])} for model in MODELS]
    base = {**BASE, "mean": np.array([0.0])}
    steps = [{"norm_bound": {"bound": 5.0}}, "fedavg"]
    found = folded(compose(steps), models, base=base, roles={"mean": Role.BUFFER})
    assert found.folded.shares == pytest.approx((1 / 3, 1 / 3, 1 / 6))
    np.testing.assert_allclose(
        found.arrays["mean"], [5.0], rtol=1e-12
    )  # 6 times 5/6: the rest is the base's 0


def test_a_rule_sees_only_what_was_selected() -> None:
    steps = [f"{HERE}:Nearest", f"{HERE}:Median"]
    models = [{**model, "n": np.array([n])} for model, n in zip(MODELS, (3, 5, 100), strict=True)]
    found = folded(compose(steps), models, [1, 3, 50], base={**BASE, "n": np.array([0])})
    assert found.arrays["w"].tolist() == [2.5, 3.5]  # of (4, 5) and (1, 2)
    assert found.folded.shares == (0.25, 0.75, 0.0)  # a median has none: examples of those that were kept
    assert found.arrays["n"].tolist() == [4]  # (3 + 3 x 5) / 4 = 4.5, half to even
    assert [note["kept"] for note in found.folded.notes] == [1.0, 1.0, 0.0]


def test_a_rule_selects_among_updates_as_they_were_scaled() -> None:
    steps = [{"norm_bound": {"bound": 4.0}}, f"{HERE}:Nearest", "fedavg"]
    found = folded(compose(steps), MODELS[1:], base=BASE)
    assert [note["square"] for note in found.folded.notes] == pytest.approx([1.0, 16.0])
    assert set(found.folded.notes[0]) == {"norm", "factor", "kept", "square"}
    # the mean of (0, 1) and 0.4 times (-6, 8)
    np.testing.assert_allclose(found.arrays["w"], [1 - 1.2, 1 + 2.1], rtol=1e-12)


def test_too_few_may_be_left() -> None:
    with pytest.raises(UpdateRejectedError, match=r"^2 of 3 updates were selected, but Three needs 3$"):
        folded(compose([f"{HERE}:Nearest", f"{HERE}:Three"]), MODELS, base=BASE)


def test_an_optimizer_takes_the_result_of_the_rule_as_a_step() -> None:
    steps = [{"norm_bound": {"bound": 5.0}}, f"{HERE}:Median", {"fedavgm": {"eta": 2.0}}]
    found = folded(compose(steps), MODELS, base=BASE)
    # the median of (3, 4), (0, 1) and (-3, 4) is (0, 4), twice that is added
    np.testing.assert_allclose(found.arrays["w"], [1.0, 9.0], rtol=1e-15)
    np.testing.assert_allclose(found.state["momentum"].arrays["w"], [0.0, 4.0], rtol=0, atol=1e-15)


def test_an_optimizer_alone_works_on_the_mean_by_examples() -> None:
    alone = folded(compose("fedavgm", {"eta": 2.0}), MODELS, [1, 2, 3], base=BASE)
    named = folded(compose(["fedavg", {"fedavgm": {"eta": 2.0}}]), MODELS, [1, 2, 3], base=BASE)
    assert alone.model.data == named.model.data
    # the mean of (3, 4), (0, 1) and (-6, 8) by 1, 2 and 3 examples is (-2.5, 5)
    np.testing.assert_allclose(alone.arrays["w"], [-4.0, 11.0], rtol=1e-15)


def test_noise_comes_last() -> None:
    quiet = folded(compose(["fedavg", "fedavgm"]), MODELS, base=BASE)
    noisy = folded(compose(["fedavg", "fedavgm", {"noise": {"std": 0.1, "seed": 1}}]), MODELS, base=BASE)
    alone = folded(compose([{"noise": {"std": 0.1, "seed": 1}}]), [BASE], base=BASE)
    noise = alone.arrays["w"] - BASE["w"]
    np.testing.assert_allclose(noisy.arrays["w"], quiet.arrays["w"] + noise, rtol=1e-12)
    assert noisy.state["momentum"].data == quiet.state["momentum"].data


def test_a_rule_alone_is_itself() -> None:
    assert type(compose("fedavg")) is FedAvg
    assert (
        folded(compose(["fedavg"]), MODELS, [1, 2, 3]).model.data
        == folded(FedAvg(), MODELS, [1, 2, 3]).model.data
    )


def test_steps_want_and_need_what_each_of_them_does() -> None:
    made = compose([{"norm_bound": {"bound": 1.0}}, f"{HERE}:Nearest", f"{HERE}:Three", "fedadam"])
    assert (made.passes, made.min_updates, made.stacks, made.state) == (2, 3, True, ("m", "v"))
    assert compose([{"norm_bound": {"bound": 1.0}}, "fedbuff", "fedadam"]).modes == (
        "sync",
        "semi-sync",
        "async",
    )
    assert compose([{"norm_bound": {"bound": 1.0}}, "fedavg"]).modes == ("sync", "semi-sync")


def test_steps_work_in_mode_async() -> None:
    def towards(task: Any) -> TrainResult:
        return TrainResult({"w": task.weights["w"] + 0.5 * (task.data - task.weights["w"])}, 1)

    run = run_local(
        towards,
        {"quick": np.array([1.0, 0.0]), "slow": np.array([3.0, 2.0])},
        {"w": np.zeros(2)},
        rounds=400,
        strategy=[{"norm_bound": {"bound": 10.0}}, "fedbuff", {"fedavgm": {"eta": 0.1, "beta": 0.5}}],
        settings={"mode": "async", "round": {"buffer": 1}},
        seconds=lambda site, number: 1.0 if site == "quick" else 3.0,
    )
    assert run.rounds == 400
    # Between the two, nearer to the one that answers three times as often.
    assert np.linalg.norm(run.weights["w"] - [1.0, 0.0]) < np.linalg.norm(run.weights["w"] - [3.0, 2.0])


# --- what goes together ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            ["fedadam", "fedyogi"],
            "fedadam and fedyogi: a round is one step of one server optimizer; leave one of them out",
        ),
        (
            ["fedadam", "fedavg"],
            "fedavg after fedadam: it combines updates, so it goes before what works on its result",
        ),
        (
            ["fedavg", {"norm_bound": {"bound": 1}}],
            "norm_bound after fedavg: it scales updates, so it goes before the rule that combines them",
        ),
        (
            ["fedadam", {"norm_bound": {"bound": 1}}],
            "norm_bound after fedadam: it scales updates, so it goes before the rule that combines them",
        ),
        (
            [{"noise": {"std": 1}}, "fedadam"],
            "fedadam after noise: it takes what the rule found as a step, so it goes after the rule and "
            "before noise",
        ),
        (
            [{"noise": {"std": 1}}, {"noise": {"std": 2}}],
            "noise and noise: noise is added once; give one whose variance is their sum",
        ),
        (
            ["fedavg", "fedbuff"],
            "fedavg and fedbuff both combine the updates: leave one of them out; before another rule only "
            "one that selects among them may stand, such as krum",
        ),
        (
            [f"{HERE}:Nearest", f"{HERE}:Nearest", "fedavg"],
            f"{HERE}:Nearest, {HERE}:Nearest and fedavg: one rule may select updates, and one combine them",
        ),
        (
            ["krum", "median"],
            "krum before median: 1 update is left, but median needs 3: the median of fewer bears no faulty "
            "one",
        ),
        (
            [{"multi_krum": {"m": 2}}, "bulyan"],
            "multi_krum before bulyan: 2 updates are left, but bulyan needs 7: f = 1 faulty ones are borne "
            "by n ≥ 4f + 3",
        ),
        (
            ["multi_krum", {"fltrust": {"root": "st-mary"}}],
            "multi_krum before fltrust: it may leave out the update of st-mary, without which fltrust "
            "combines nothing",
        ),
        (
            [{"norm_bound": {"bound": 1}}, "fedasync"],
            "norm_bound does not go with fedasync: it takes updates one by one, so there is no one result, "
            "nor one base, for other steps",
        ),
        (
            ["fedasync", "fedadam"],
            "fedadam does not go with fedasync: it takes updates one by one, so there is no one result, "
            "nor one base, for other steps",
        ),
        (
            [f"{HERE}:Trees", "fedadam"],
            f"fedadam does not go with {HERE}:Trees: it combines bytes, not arrays",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(steps: list[Any], reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compose(steps)
    assert str(caught.value) == f"strategy: {reason}"


@pytest.mark.parametrize(
    ("steps", "least"),
    [
        (["multi_krum", "median"], 5),  # 4 of 5 are left, 3 needed
        (["multi_krum", "trimmed_mean"], 6),  # 5 of 6
        ([{"multi_krum": {"f": 2}}, "bulyan"], 9),  # 7 of 9
        ([{"multi_krum": {"m": 4}}, {"trimmed_mean": {"beta": 0.3}}], 5),  # 4 of 5, 4 needed
        (["krum", "fedadam"], 5),
    ],
)
def test_as_many_are_needed_as_leave_enough_to_the_rule(steps: list[Any], least: int) -> None:
    made = compose(steps)
    assert made.min_updates == least
    models = [{"w": np.array([float(i)])} for i in range(least)]
    assert np.isfinite(folded(made, models, base={"w": np.zeros(1)}).arrays["w"]).all()


def test_why_so_many_is_said_with_the_settings() -> None:
    with pytest.raises(SettingsError) as caught:
        strategy_of(
            settings(strategy=["multi_krum", "trimmed_mean"], round={"min_agents": 5, "min_updates": 5})
        )
    assert str(caught.value) == (
        "round.min_updates: 5, but the strategy multi_krum > trimmed_mean needs 6: multi_krum leaves 5 of "
        "them to trimmed_mean: of fewer, beta = 0.2 drops none; give round.min_updates: 6 and as many "
        "round.min_agents"
    )


@pytest.mark.parametrize(
    ("steps", "updates", "borne"),
    [
        (["multi_krum", "median"], 5, 1),  # of 4 that are left a median bears 1, wherever they come from
        (["multi_krum", "median"], 10, 4),  # of 9
        ([{"multi_krum": {"f": 3}}, {"trimmed_mean": {"beta": 0.1}}], 13, 3),  # of 10 it bears 1
        (["multi_krum", "fedadam"], 10, 1),
        ([{"norm_bound": {"bound": 1}}, "median"], 5, 2),
        ([{"norm_bound": {"bound": 1}}, "fedavg"], 5, 0),
    ],
)
def test_steps_bear_as_many_as_the_selecting_rule_or_the_one_behind_it(
    steps: list[Any], updates: int, borne: int
) -> None:
    assert compose(steps).bears(updates) == borne


def test_what_two_steps_measure_is_kept_of_both() -> None:
    made = compose([{"norm_bound": {"bound": 5.0}}, {"centred_clipping": {"tau": 2.0}}])
    models = [{"w": np.array([10.0])}] + [{"w": np.array([1.0])}] * 9
    notes = folded(made, models, base={"w": np.zeros(1)}).folded.notes
    # 10 is bounded to 5, and that is clipped to 2
    assert (notes[0]["norm_bound.factor"], notes[0]["factor"]) == (0.5, 0.4)
    assert all(set(note) == set(made.measures) for note in notes)


def test_who_was_left_out_is_measured_by_the_rule_that_did_so() -> None:
    models = [{"w": np.array([place])} for place in (0.0, 1.0, 2.0, 3.0, 100.0)]
    made = compose(["multi_krum", "median"])
    notes = folded(made, models, base={"w": np.zeros(1)}).folded.notes
    # the mean of those kept is 1.5, and so is their median
    assert [note["distance"] for note in notes] == [1.5, 0.5, 0.5, 1.5, 98.5]
    assert [note["multi_krum.distance"] for note in notes] == pytest.approx([1.5, 0.5, 0.5, 1.5, 98.5])


def test_noise_goes_with_every_rule() -> None:
    assert compose(["fedasync", {"noise": {"std": 1}}]).modes == ("semi-sync", "async")


@pytest.mark.parametrize("steps", [[f"{HERE}:OtherMomentum", "fedavgm"], ["fedavg", f"{HERE}:Late"]])
def test_what_keeps_no_contract_is_refused(steps: list[Any]) -> None:
    with pytest.raises(StrategyError, match=r"two steps call their state 'momentum'|Late measures updates"):
        compose(steps)


# --- how settings say it -----------------------------------------------------------------


def settings(**given: Any) -> RunSettings:
    return parse_run({"name": "r", **given}, "here")


def test_steps_in_one_line() -> None:
    steps = [{"norm_bound": {"bound": 1.0}}, f"{HERE}:Median", "fedadam"]
    stated = settings(strategy=steps)
    assert stated.strategy_name == f"norm_bound > {HERE}:Median > fedadam"
    assert stated.steps == [("norm_bound", {"bound": 1.0}), (f"{HERE}:Median", {}), ("fedadam", {})]
    assert RunSettings.model_validate(stated.model_dump(mode="json")) == stated


def test_one_name_is_stored_as_before() -> None:
    stated = settings(strategy="fedavg", strategy_options={"cap": 3})
    assert stated.model_dump(mode="json")["strategy"] == "fedavg"
    assert stated.steps == [("fedavg", {"cap": 3})]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"strategy": 5}, "strategy: must be a name or a list of 1 to 8 steps"),
        ({"strategy": []}, "strategy: must be a name or a list of 1 to 8 steps"),
        ({"strategy": ["fedavg"] * 9}, "strategy: must be a name or a list of 1 to 8 steps"),
        (
            {"strategy": ["fedavg", {"fedadam": {}, "noise": {}}]},
            "strategy: step 1 must be a name, or one name with its options: {norm_bound: {bound: 1.0}}",
        ),
        (
            {"strategy": ["fedavg"], "strategy_options": {"cap": 3}},
            "strategy_options is for a strategy that is one name: write a step's options beside its name",
        ),
    ],
)
def test_what_is_no_strategy_is_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**given)
    assert str(caught.value) == f"here: {line}"


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ({"norm_bound": {"bound": -1}}, "strategy.1.norm_bound.bound: -1 is not a number above 0"),
        (
            {"norm_bound": {"bond": 1}},
            "strategy.1.norm_bound: got an unexpected keyword argument 'bond'; its options: bound",
        ),
        (
            {"norm_bound": None},
            "strategy.1.norm_bound: missing 1 required positional argument: 'bound'; its options: bound",
        ),
    ],
)
def test_an_option_that_is_wrong_is_named_with_its_step(step: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        strategy_of(settings(strategy=["fedavg", step]))
    assert str(caught.value) == line


def test_steps_can_be_given_in_a_file_and_in_a_variable(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: r\nstrategy:\n  - norm_bound: {bound: 1}\n  - fedavg:\n  - fedadam: {eta: 0.5}\n")
    assert load_run(file).steps == [("norm_bound", {"bound": 1}), ("fedavg", {}), ("fedadam", {"eta": 0.5})]
    monkeypatch.setenv("FL_RUN_STRATEGY", "[fedavg, {fedyogi: {tau: 1e-4}}]")
    assert load_run(file).steps == [("fedavg", {}), ("fedyogi", {"tau": 1e-4})]
    monkeypatch.setenv("FL_RUN_STRATEGY", "package.module:Class")
    assert load_run(file).strategy == "package.module:Class"
