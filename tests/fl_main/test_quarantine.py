"""Agents whose updates lie far from the others, and what becomes of them."""

from collections.abc import Sequence
from typing import Any

import pytest

from fl_main.errors import SettingsError
from fl_main.events import AgentSteered, Assign, Cancel, Effect, Fold
from fl_main.quarantine import with_outliers
from fl_main.store import AgentRecord
from fl_main.strategies import FedBuff, FLTrust, Median, strategy_of
from fl_main.why import waiting_for
from fl_main.why.agents import find_agent
from fl_main.why.findings import Standing
from fl_main.why.runs import find_run
from tests.fl_main.story import Story, of_type, only, run_settings

SETTINGS: dict[str, Any] = {
    "strategy": "median",
    "round": {"min_agents": 3, "min_updates": 3},
    "quarantine": {"rounds": 2},
}
NEAR = [1.0, 1.0, 1.0, 1.0]


def story_of(agents: str = "abcd", **sections: Any) -> Story:
    story = Story(run_settings(**{**SETTINGS, **sections}), Median)
    story.gather(*agents)
    return story


def do_round(story: Story, agents: str, distances: Sequence[float]) -> list[Effect]:
    """Let agents answer, and say how far their updates are from what came of all."""
    story.answer(*agents)
    return story.fold(notes=tuple({"distance": distance} for distance in distances))


def steer(story: Story, order: str, agent: str) -> list[Effect]:
    return story.tell(AgentSteered(order, agent, "anna"))


def record_of(story: Story, agent: str) -> AgentRecord:
    return story.store.agents[agent]


def asked(effects: list[Effect]) -> list[str]:
    return sorted(assign.task.agent_id for assign in of_type(effects, Assign))


# --- outliers ----------------------------------------------------------------------------


def test_outliers_are_farther_than_so_many_times_the_median() -> None:
    notes = with_outliers([{"distance": distance} for distance in (1.0, 2.0, 3.0, 4.0, 4.1)], 4 / 3)
    assert [note["outlier"] for note in notes] == [0, 0, 0, 0, 1]  # the median is 3, the limit 4


def test_a_distance_that_is_not_finite_is_an_outlier_and_no_part_of_the_median() -> None:
    notes = with_outliers([{"distance": d} for d in (1.0, float("inf"), 2.0, float("nan"), 4.1)], 2.0)
    assert [note["outlier"] for note in notes] == [0, 1, 0, 1, 1]  # the median of 1, 2 and 4.1 is 2


def test_behind_a_norm_bound_an_update_is_an_outlier_by_its_norm_too() -> None:
    notes = [{"distance": 1.0, "norm": norm} for norm in (1.0, 0.5, 1.5, 2.6, float("inf"))]
    assert [note["outlier"] for note in with_outliers(notes, 2.0)] == [0, 0, 0, 1, 1]  # median 1.25


def test_nothing_is_said_of_updates_that_were_not_measured() -> None:
    assert with_outliers([], 2.0) == []
    assert with_outliers([{"norm": 1.0}, {"norm": 9.0}], 2.0) == [{"norm": 1.0}, {"norm": 9.0}]


def test_what_was_measured_is_stored_with_each_update() -> None:
    story = story_of(quarantine={})
    do_round(story, "abcd", [1, 1, 1, 2.5])
    notes = {update.agent_id: update.notes for update in story.store.updates.values()}
    assert notes["a"] == {"distance": 1, "outlier": 0.0}
    assert notes["d"] == {"distance": 2.5, "outlier": 1.0}
    assert record_of(story, "d").outlying == 1
    assert not record_of(story, "d").quarantined, "nobody is left out unless the settings say so"


# --- being left out ------------------------------------------------------------------------


def test_an_agent_is_left_out_after_so_many_rounds_in_a_row() -> None:
    story = story_of()
    assert asked(do_round(story, "abcd", [1, 1, 1, 9])) == ["a", "b", "c", "d"]
    assert asked(do_round(story, "abcd", [1, 1, 1, 9])) == ["a", "b", "c"]
    assert record_of(story, "d").quarantined == "its updates were outliers in 2 rounds in a row"
    assert [event.agent_id for event in story.store.events if event.kind == "agent_quarantined"] == ["d"]
    assert asked(do_round(story, "abc", NEAR[:3])) == ["a", "b", "c"]
    assert story.run.rounds_done == 3


def test_a_round_among_the_others_begins_the_count_anew() -> None:
    story = story_of()
    for far in (9, 1, 9, 1):
        do_round(story, "abcd", [1, 1, 1, far])
    assert not record_of(story, "d").quarantined
    assert record_of(story, "d").outlying == 0


def test_a_round_in_which_it_did_not_take_part_is_none() -> None:
    story = story_of()
    do_round(story, "abcd", [1, 1, 1, 9])
    story.decline("d")
    do_round(story, "abc", NEAR[:3])
    do_round(story, "abcd", [1, 1, 1, 9])
    assert record_of(story, "d").quarantined


def test_it_stays_left_out_after_a_restart_and_when_it_comes_again() -> None:
    story = story_of()
    do_round(story, "abcd", [1, 1, 1, 9])
    story.restart()
    story.join("a", "b", "c", "d")
    do_round(story, "abcd", [1, 1, 1, 9])
    story.restart()
    effects = story.join("a", "b", "c", "d")
    assert asked(effects) == ["a", "b", "c"]
    assert record_of(story, "d").quarantined
    story.leave("d")
    assert not of_type(story.join("d"), Assign)


def test_a_run_waits_where_too_many_are_left_out_and_says_so() -> None:
    story = story_of("abc")
    do_round(story, "abc", [1, 1, 9])
    do_round(story, "abc", [1, 1, 9])
    found = find_run(story.view())
    assert found.what == "waits for 3 agents for train; 2 are here, 1 more in quarantine"
    assert "in quarantine: C" in found.evidence
    assert found.remedy.endswith("or release one: fl run release r AGENT")
    assert asked(steer(story, "release", "c")) == ["a", "b", "c"]


def test_an_agent_that_is_left_out_is_told_so_in_one_line() -> None:
    story = story_of()
    do_round(story, "abcd", [1, 1, 1, 9])
    do_round(story, "abcd", [1, 1, 1, 9])
    found = find_agent(story.view(), "d")
    assert found.standing is Standing.FAILED
    assert found.what == (
        "in quarantine, its updates were outliers in 2 rounds in a row; "
        "it gets no tasks until an operator releases it"
    )
    assert found.remedy == "look at its updates: fl db updates r --agent D; then: fl run release r D"
    story.leave("d")
    assert any("in quarantine" in fact for fact in find_agent(story.view(), "d").evidence)
    assert "quarantine" not in waiting_for(story.view()), "the others go on"


def test_late_updates_of_an_agent_that_is_left_out_do_not_count() -> None:
    rounds = {"min_agents": 3, "min_updates": 3, "buffer": 4}
    story = story_of("abcde", mode="semi-sync", round=rounds)
    do_round(story, "abcd", [1, 1, 1, 9])
    late = story.assigned["e"]
    do_round(story, "abcd", [1, 1, 1, 9])
    assert record_of(story, "d").quarantined
    steer(story, "quarantine", "e")
    answer = story.send(story.offer("e", task=late))
    assert (str(answer.verdict), answer.reason) == (
        "discarded",
        "its agent is in quarantine: put there by anna",
    )


def test_whom_the_strategy_trusts_is_never_an_outlier() -> None:
    settings = run_settings(**{**SETTINGS, "strategy": "fltrust", "strategy_options": {"root": "D"}})
    story = Story(settings, lambda: FLTrust(root="D"))
    story.gather(*"abcde")
    for _ in range(2):
        do_round(story, "abcde", [1, 1, 9, 9, 1])
    assert record_of(story, "c").quarantined
    assert not record_of(story, "d").quarantined


def test_whom_the_strategy_trusts_counts_in_the_median() -> None:
    settings = run_settings(**{**SETTINGS, "strategy": "fltrust", "strategy_options": {"root": "A"}})
    story = Story(settings, lambda: FLTrust(root="A"))
    story.gather(*"abc")
    do_round(story, "abc", [1, 1, 9])  # of b and c alone the median were 5, and 9 no outlier
    assert [record_of(story, agent).outlying for agent in "abc"] == [0, 0, 1]


# --- operators -------------------------------------------------------------------------------


def test_an_operator_leaves_an_agent_out_in_the_middle_of_a_round() -> None:
    story = story_of()
    story.answer("a", "b", "d")
    assert only(steer(story, "quarantine", "c"), Cancel).reason == (
        "its agent is in quarantine: put there by anna"
    )
    assert [update.agent_id for update in story.folds[0].updates] == ["a", "b", "d"]


def test_what_it_has_sent_does_not_count_either() -> None:
    story = story_of()
    story.answer("d")
    steer(story, "quarantine", "d")
    assert story.verdicts("d") == [("discarded", "its agent is in quarantine: put there by anna")]
    story.answer("a", "b", "c")
    assert [update.agent_id for update in story.folds[0].updates] == ["a", "b", "c"]


def test_what_is_being_combined_still_counts() -> None:
    story = story_of()
    story.answer("a", "b", "c", "d")
    steer(story, "quarantine", "d")
    assert asked(story.fold(notes=tuple({"distance": 1.0} for _ in "abcd"))) == ["a", "b", "c"]
    assert story.verdicts("d") == [("accepted", "")]


def test_an_operator_releases_it_and_the_count_begins_anew() -> None:
    story = story_of()
    do_round(story, "abcd", [1, 1, 1, 9])
    do_round(story, "abcd", [1, 1, 1, 9])
    steer(story, "release", "d")
    assert (record_of(story, "d").quarantined, record_of(story, "d").outlying) == ("", 0)
    do_round(story, "abc", NEAR[:3])
    assert asked(do_round(story, "abcd", [1, 1, 1, 9])) == ["a", "b", "c", "d"]
    actors = {event.kind: event.actor for event in story.store.events if event.kind.startswith("agent_")}
    assert (actors["agent_quarantined"], actors["agent_released"]) == ("aggregator", "anna")


@pytest.mark.parametrize(
    ("order", "kind"), [("release", "agent_released"), ("quarantine", "agent_quarantined")]
)
def test_an_order_that_is_given_twice_is_as_good_as_once(order: str, kind: str) -> None:
    story = story_of()
    if order == "release":
        steer(story, "quarantine", "d")
    steer(story, order, "d")
    assert steer(story, order, "d") == []
    assert len(story.events(kind)) == 1


def test_agents_are_named_by_name_or_id() -> None:
    story = story_of()
    assert story.machine.agents_named("D") == ["d"]
    assert story.machine.agents_named("d") == ["d"]
    assert story.machine.agents_named("x") == []


def test_a_paused_run_takes_the_order_too() -> None:
    story = story_of()
    story.steer("pause")
    steer(story, "quarantine", "d")
    story.answer("a", "b", "c")
    assert not story.folds
    only(story.steer("resume"), Fold)


# --- settings --------------------------------------------------------------------------------


def test_a_strategy_that_measures_no_distances_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        strategy_of(run_settings(quarantine={"rounds": 3}))
    assert str(caught.value) == (
        "quarantine.rounds: 3: the strategy fedavg measures no distances, by which outliers are told; "
        "give a robust one (median, multi_krum, …)"
    )
    assert not FedBuff.measures
    strategy_of(run_settings(**SETTINGS))


def test_strategies_see_agents_by_their_names() -> None:
    story = story_of()
    story.answer("a", "b", "c", "d")
    names = [story.machine.contribution_of(update).agent for update in story.folds[0].updates]
    assert names == ["A", "B", "C", "D"]
