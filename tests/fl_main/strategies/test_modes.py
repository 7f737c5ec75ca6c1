"""Which strategies are valid in which mode of a run, and what else a mode asks of the settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from fl_main.errors import SettingsError
from fl_main.settings import RunSettings
from fl_main.strategies import STRATEGIES, FedAvg, Strategy, make_strategy, strategy_of
from tests.fl_main.strategies.test_laws import OPTIONS

HERE = "tests.fl_main.strategies.test_modes"
MODES = ("sync", "semi-sync", "async")


class Scaffold(FedAvg):
    """As Karimireddy et al. 2020: how agents correct their drift is right for one base only."""

    state = ("control",)
    down = ("control",)
    up = ("drift",)
    modes = ("sync",)
    why_not = "control variates are of one global model, which late updates did not start from"


class Forest(Strategy):
    takes_free = True
    modes = MODES


def settings(**given: Any) -> RunSettings:
    return RunSettings.model_validate({"name": "r", **given})


def refusal(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        strategy_of(settings(**given))
    return str(caught.value)


def is_valid(strategy: str, mode: str) -> bool:
    try:
        strategy_of(settings(strategy=strategy, mode=mode, round={"min_agents": 1, "min_updates": 1}))
    except SettingsError as error:
        assert str(error).startswith(f"mode: {mode}: the strategy {strategy} is not valid in it: ")  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize(
    ("strategy", "valid"),
    [
        ("fedavg", ("sync", "semi-sync")),
        ("fedbuff", ("sync", "semi-sync", "async")),
        ("fedasync", ("semi-sync", "async")),
        (f"{HERE}:Scaffold", ("sync",)),
    ],
)
def test_a_strategy_is_valid_in_its_modes(strategy: str, valid: tuple[str, ...]) -> None:
    assert tuple(mode for mode in MODES if is_valid(strategy, mode)) == valid


def test_every_strategy_of_the_table_has_modes_and_says_why_not_in_the_others() -> None:
    for name in STRATEGIES:
        strategy = make_strategy(name, OPTIONS[name][0])
        assert strategy.modes, name
        assert set(strategy.modes) <= set(MODES), name
        assert set(strategy.modes) == set(MODES) or "\n" not in strategy.why_not, name


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"mode": "async", "strategy": "fedavg"},
            "mode: async: the strategy fedavg is not valid in it: a mean of models throws away what was "
            "learned since the base of the oldest, where fedbuff adds up differences; "
            "give mode: sync or semi-sync, or another strategy",
        ),
        (
            {"strategy": "fedasync"},
            "mode: sync: the strategy fedasync is not valid in it: it takes updates one by one, and the last "
            "would count most in a round of all; give mode: semi-sync or async, or another strategy",
        ),
        (
            {"mode": "semi-sync", "strategy": f"{HERE}:Scaffold"},
            f"mode: semi-sync: the strategy {HERE}:Scaffold is not valid in it: control variates are of one "
            "global model, which late updates did not start from; give mode: sync, or another strategy",
        ),
        (
            {"mode": "async", "strategy": f"{HERE}:Forest", "payload": "free"},
            "mode: async: its updates travel as differences, which payload: free does not have; "
            "give mode: sync or semi-sync",
        ),
        (
            {"mode": "async", "strategy": "fedasync"},
            "round.min_updates: 2, but the strategy fedasync publishes after 1; give round.buffer: 2, or "
            "round.min_updates: 1 if the model of so few sites may go to the others",
        ),
        (
            {"strategy": "krum", "strategy_options": {"f": 2}},
            "round.min_updates: 2, but the strategy krum needs 7: f = 2 faulty ones are borne by n ≥ 2f + 3; "
            "give round.min_updates: 7 and as many round.min_agents",
        ),
        (
            {"strategy": "fltrust", "strategy_options": {"root": "a"}, "cohort": {"rule": "number"}},
            "cohort.rule: number: the strategy fltrust needs a in every round; give cohort.rule: all",
        ),
        (
            {"strategy": [{"fltrust": {"root": "a"}}, "fedadam"], "round": {"quorum": 0.5}},
            "round.quorum: 0.5: the strategy fltrust > fedadam needs a in every round; "
            "give round.quorum: 1.0",
        ),
        (
            {"strategy": "trimmed_mean", "strategy_options": {"beta": 0.1}},
            "round.min_updates: 2, but the strategy trimmed_mean needs 10: of fewer, beta = 0.1 drops none; "
            "give round.min_updates: 10 and as many round.min_agents",
        ),
    ],
)
def test_the_reason_is_one_line_with_what_to_do(given: dict[str, Any], line: str) -> None:
    assert refusal(**given) == line


@pytest.mark.parametrize("asked", [{"buffer": 2}, {"min_agents": 1, "min_updates": 1}])
def test_what_the_reason_says_is_what_helps_fedasync(asked: dict[str, int]) -> None:
    strategy_of(settings(mode="async", strategy="fedasync", round=asked))


def test_what_the_reason_says_is_what_helps_a_robust_rule() -> None:
    rounds = {"min_agents": 7, "min_updates": 7}
    assert strategy_of(settings(strategy="krum", strategy_options={"f": 2}, round=rounds)).bears(7) == 2


def test_mode_async_alone_makes_the_strategy_fedbuff() -> None:
    assert settings(mode="async").strategy == "fedbuff"
    assert [settings(mode=mode).strategy for mode in MODES[:2]] == ["fedavg", "fedavg"]
    assert settings(mode="async", strategy="fedasync").strategy == "fedasync"
    strategy_of(settings(mode="async"))


def test_settings_that_were_stored_are_the_same_when_they_are_read_again() -> None:
    for mode in MODES:
        before = settings(mode=mode)
        assert RunSettings.model_validate(before.model_dump(mode="json")) == before


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"round": {"buffer": 5}}, r"round\.buffer is for the modes semi-sync and async"),
        (
            {"mode": "async", "round": {"buffer": 3, "min_updates": 4, "min_agents": 4}},
            r"round\.buffer \(3\) is smaller than round\.min_updates \(4\)",
        ),
        (
            {"mode": "async", "cohort": {"rule": "number", "over_selection": 1.3}},
            r"cohort\.over_selection is for the modes sync and semi-sync",
        ),
        (
            {"mode": "async", "round": {"adaptive_deadline": 3.0}},
            r"round\.adaptive_deadline is for the modes sync and semi-sync",
        ),
        ({"cohort": {"over_selection": 1.3}}, r"leave it out with rule all"),
        ({"cohort": {"rule": "a:b", "over_selection": 1.3}}, r"leave it out with rule a:b"),
    ],
)
def test_what_has_no_meaning_in_a_mode_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        settings(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "semi-sync", "round": {"buffer": 2, "adaptive_deadline": 3.0}},
        {"mode": "semi-sync", "cohort": {"rule": "fraction", "over_selection": 1.3}},
        {"mode": "async", "round": {"buffer": 10}, "cohort": {"rule": "number", "where": "gpu"}},
        {"round": {"adaptive_deadline": 1.5}, "cohort": {"rule": "number", "over_selection": 1.0}},
    ],
)
def test_what_has_a_meaning_is_taken(given: dict[str, Any]) -> None:
    strategy_of(settings(**given))
