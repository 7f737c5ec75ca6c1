"""Who is asked of those who could be, and each one's config."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.cohort import Candidate, choose_cohort, config_of, target_of
from fl_main.errors import SettingsError
from fl_main.settings import CohortSettings, ConfigRule, RunSettings

HERE = "tests.fl_main.test_cohort"


def candidates(labels: Sequence[str]) -> list[Candidate]:
    return [Candidate(label) for label in labels]


def chosen(labels: Sequence[str], seed: int = 0, least: int = 1, **rule: Any) -> tuple[str, ...]:
    return choose_cohort(candidates(labels), CohortSettings(**rule), seed, least).labels


TWENTY = [f"agent-{number:02}" for number in range(20)]

# --- how many ----------------------------------------------------------------------------

agents = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)
rules = st.builds(
    CohortSettings,
    rule=st.sampled_from(["fraction", "number"]),
    fraction=st.floats(0.01, 1),
    number=st.integers(1, 40),
    choose=st.sampled_from(["random", "least_recent"]),
    over_selection=st.floats(1, 3),
) | st.just(CohortSettings())


@given(agents, rules, st.integers(0, 2**63 - 1), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_cohort_follows_from_seed_and_candidates_in_any_order(
    labels: list[str], rule: CohortSettings, seed: int, least: int, rng: Any
) -> None:
    eligible = [Candidate(label, asked_s=rng.choice([None, 1.0, 2.0])) for label in labels]
    shuffled = list(eligible)
    rng.shuffle(shuffled)
    cohort = choose_cohort(eligible, rule, seed, least)
    assert choose_cohort(shuffled, rule, seed, least) == cohort
    assert list(cohort.labels) == sorted(set(cohort.labels))
    assert set(cohort.labels) <= set(labels)
    assert min(least, len(labels)) <= cohort.target <= len(cohort.labels)


def test_a_fraction_is_rounded_and_at_least_one() -> None:
    def size(fraction: float, eligible: int, least: int = 1) -> int:
        return len(chosen(TWENTY[:eligible], least=least, rule="fraction", fraction=fraction))

    assert [size(0.1, 20), size(0.26, 10), size(0.01, 10), size(1.0, 3)] == [2, 3, 1, 3]
    assert size(0.1, 20, least=5) == 5


def test_a_number_is_capped_by_who_is_there() -> None:
    assert chosen("ab", rule="number", number=3) == ("a", "b")
    assert len(chosen("abcdef", rule="number", number=3)) == 3
    assert len(chosen("abcdef", least=5, rule="number", number=3)) == 5


def test_target_is_how_many_answers_are_wanted() -> None:
    def target(there: int, least: int = 1, **rule: Any) -> int:
        return target_of(CohortSettings(**rule), there, least)

    assert [target(20), target(20, least=30)] == [20, 20]
    assert [target(20, rule="fraction", fraction=0.25), target(1, rule="fraction", fraction=0.25)] == [5, 1]
    assert [target(20, rule="number", number=8), target(5, rule="number", number=8)] == [8, 5]
    assert [target(0), target(0, rule="number", number=8), target(0, rule="fraction")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("there", "wanted", "times", "asked"),
    [
        (20, 10, 1.3, 13),
        (20, 10, 1.0, 10),
        (20, 7, 1.3, 10),
        (20, 10, 1.1, 11),
        (12, 10, 1.3, 12),
        (20, 1, 10, 10),
        (60, 50, 1.1, 55),  # 1.1 x 50 is 55.00…01
    ],
)
def test_over_selection_asks_more_than_are_wanted(there: int, wanted: int, times: float, asked: int) -> None:
    rule = CohortSettings(rule="number", number=wanted, over_selection=times)
    cohort = choose_cohort(candidates([str(number) for number in range(there)]), rule, 0)
    assert (len(cohort.labels), cohort.target) == (asked, min(wanted, there))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "all eligible agents"),
        ({"rule": "number", "number": 4}, "4 of 20 eligible agents at random"),
        ({"rule": "fraction", "fraction": 0.5}, "10 of 20 eligible agents at random: 0.5 of them"),
        (
            {"rule": "number", "number": 4, "choose": "least_recent"},
            "4 of 20 eligible agents that were not asked for longest",
        ),
        (
            {"rule": "number", "number": 10, "over_selection": 1.3},
            "13 of 20 eligible agents at random; the first 10 that answer count",
        ),
    ],
)
def test_the_rule_is_told_in_words(rule: dict[str, Any], words: str) -> None:
    assert choose_cohort(candidates(TWENTY), CohortSettings(**rule), 0).rule == words


# --- which -------------------------------------------------------------------------------


def test_another_seed_draws_another_cohort() -> None:
    assert len({chosen(TWENTY, seed, rule="number", number=5) for seed in range(10)}) == 10


def test_every_agent_is_drawn_about_as_often() -> None:
    drawn = [label for seed in range(1000) for label in chosen(TWENTY, seed, rule="number", number=5)]
    assert all(180 < drawn.count(label) < 320 for label in TWENTY)  # 250 ± 5 standard deviations


def test_least_recent_takes_those_that_waited_longest() -> None:
    rule = CohortSettings(rule="number", number=2, choose="least_recent")
    waited = [
        Candidate("a", asked_s=30.0),
        Candidate("b", asked_s=10.0),
        Candidate("c", asked_s=0.0),
        Candidate("d", asked_s=20.0),
    ]
    assert choose_cohort(waited, rule, 0).labels == ("b", "c")
    assert choose_cohort([*waited, Candidate("new")], rule, 0).labels == ("c", "new")


def test_least_recent_comes_to_everybody_before_anybody_again() -> None:
    asked: dict[str, float] = {}
    turns = []
    for turn in range(8):
        rule = CohortSettings(rule="number", number=5, choose="least_recent")
        cohort = choose_cohort([Candidate(label, asked_s=asked.get(label)) for label in TWENTY], rule, turn)
        turns.append(cohort.labels)
        asked |= dict.fromkeys(cohort.labels, float(turn))
    for cycle in (turns[:4], turns[4:]):
        assert sorted(label for labels in cycle for label in labels) == TWENTY


def test_the_seed_decides_between_those_that_waited_as_long() -> None:
    drawn = {chosen(TWENTY, seed, rule="number", number=5, choose="least_recent") for seed in range(10)}
    assert len(drawn) == 10


# --- conditions --------------------------------------------------------------------------


def test_a_candidate_meets_conditions_on_what_is_known_of_it() -> None:
    agent = Candidate("st-mary", {"region": "eu", "gpu": True}, usual_s=30.0, slowness=2.5)
    met = ["", 'region == "eu" and gpu', 'name == "st-mary"', "slowness > 2", "20 < usual_s < 40"]
    assert [text for text in met if not agent.meets(text)] == []
    assert not agent.meets("slowness > 3")
    assert not agent.meets("memory > 8")


def test_an_agent_cannot_say_of_itself_what_is_measured() -> None:
    liar = Candidate("a", {"slowness": 0.1, "usual_s": 1.0, "name": "b"}, usual_s=90.0, slowness=3.0)
    assert liar.meets('slowness == 3 and usual_s == 90 and name == "a"')


def test_what_was_not_measured_yet_is_usual() -> None:
    agent = Candidate("a")
    assert agent.meets("slowness == 1")
    assert agent.meets("usual_s == null")
    assert not agent.meets("usual_s < 10")


def test_config_differs_by_rules_in_order_and_the_last_wins() -> None:
    rules = [
        ConfigRule(where="slowness > 2", config={"epochs": 1, "note": "slow"}),
        ConfigRule(where="gpu", config={"batch": 256, "epochs": 4}),
        ConfigRule(where='region == "us"', config={"epochs": 9}),
    ]
    slow, fast = Candidate("a", slowness=3.0), Candidate("b", {"gpu": True, "region": "eu"})
    both = Candidate("c", {"gpu": True}, slowness=3.0)
    assert config_of(slow, rules) == {"epochs": 1, "note": "slow"}
    assert config_of(fast, rules) == {"batch": 256, "epochs": 4}
    assert config_of(both, rules) == {"batch": 256, "epochs": 4, "note": "slow"}
    assert config_of(Candidate("d"), rules) == {}
    assert config_of(both, []) == {}


def test_conditions_are_read_with_the_settings() -> None:
    for settings in ({"cohort": {"where": "f(x)"}}, {"config_for": [{"where": "f(x)", "config": {}}]}):
        with pytest.raises(ValueError, match="is not part of a condition"):
            RunSettings.model_validate({"name": "r", **settings})


# --- rules of the user's own -------------------------------------------------------------


def fastest_two(agents: Sequence[Candidate], seed: int) -> list[str]:
    return [agent.label for agent in sorted(agents, key=lambda agent: agent.slowness)[:2]]


def all_twice(agents: Sequence[Candidate], seed: int) -> Any:
    return (agent.label for agent in (*agents, *agents))


def nobody(agents: Sequence[Candidate], seed: int) -> list[str]:
    return []


def stranger(agents: Sequence[Candidate], seed: int) -> list[str]:
    return [agents[0].label, "zoe"]


def empty_name(agents: Sequence[Candidate], seed: int) -> list[str]:
    return [""]


def candidates_themselves(agents: Sequence[Candidate], seed: int) -> Any:
    return agents


def none(agents: Sequence[Candidate], seed: int) -> None:
    return None


def raises(agents: Sequence[Candidate], seed: int) -> list[str]:
    raise KeyError("beds\nand more")


def takes_one(agents: Sequence[Candidate]) -> list[str]:
    return []


def by(name: str, agents: Sequence[Candidate]) -> Any:
    return choose_cohort(agents, CohortSettings(rule=f"{HERE}:{name}"), 5)


AGENTS = [Candidate("c", slowness=3.0), Candidate("b", slowness=1.0), Candidate("a", slowness=2.0)]


def test_a_rule_of_ones_own_chooses() -> None:
    cohort = by("fastest_two", AGENTS)
    assert (cohort.labels, cohort.target) == (("a", "b"), 2)
    assert cohort.rule == f"2 of 3 eligible agents by {HERE}:fastest_two"
    assert by("all_twice", AGENTS).labels == ("a", "b", "c")
    assert choose_cohort(AGENTS, CohortSettings(rule=f"{HERE}:nobody"), 5, least=0).labels == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stranger", "chose 'zoe', which is not a label of those it was given"),
        ("empty_name", "chose '', which is not a label of those it was given"),
        ("none", "raised TypeError: 'NoneType' object is not iterable"),
        ("raises", "raised KeyError: 'beds\\nand more'"),
        ("takes_one", "raised TypeError: takes_one() takes 1 positional argument but 2 were given"),
        (
            "candidates_themselves",
            "chose Candidate(label='c', attributes={}, usual_s=None, slowness=3, which is not a label of "
            "those it was given",
        ),
    ],
)
def test_a_rule_of_ones_own_that_fails_is_one_line(name: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        by(name, AGENTS)
    remedy = "; mend it, restart the aggregator, resume the run" if "raised" in expected else ""
    assert str(caught.value) == f"cohort.rule: {HERE}:{name} {expected}{remedy}"


def test_a_rule_that_is_not_there_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"^cohort\.rule: '.*:nix' cannot be imported: module .* has no"):
        by("nix", AGENTS)


def too_few(candidates: Sequence[Candidate], seed: int) -> list[str]:
    return [candidates[0].label]


def test_a_rule_of_ones_own_that_chooses_too_few_is_named() -> None:
    settings = CohortSettings(rule=f"{__name__}:too_few")
    with pytest.raises(SettingsError, match=r"chose 1 of 3 agents; 2 are needed \(round.min_updates\)"):
        choose_cohort([Candidate(label) for label in "abc"], settings, 0, least=2)
