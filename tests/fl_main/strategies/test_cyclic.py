"""Cyclic training: whose turn it is, and what goes on from agent to agent."""

from typing import Any

import numpy as np
import pytest

from fl_main import run_local
from fl_main.agent import TrainResult
from fl_main.cohort import Candidate, choose_cohort
from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.settings import CohortSettings, RunSettings
from fl_main.strategies import Cyclic, strategy_of
from fl_main.strategies.base import Contribution
from fl_main.strategies.fold import Answer, fold_free
from tests.fl_main.strategies.arrays import folded, memory

TURNS = {"rule": "number", "number": 1, "choose": "in_turn"}
SETTINGS = {"cohort": TURNS, "round": {"min_updates": 1}}


def test_the_model_goes_from_site_to_site_in_the_order_of_names() -> None:
    seen: list[tuple[str, list[float]]] = []

    def append(task: Any) -> TrainResult:
        seen.append((task.site, task.weights["w"].tolist()))
        return TrainResult({"w": 10 * task.weights["w"] + task.data}, 1)

    sites = {"b": 2.0, "c": 3.0, "a": 1.0}
    run = run_local(append, sites, {"w": np.zeros(1)}, rounds=6, strategy="cyclic", settings=SETTINGS)
    assert [site for site, _ in seen] == ["a", "b", "c", "a", "b", "c"]
    assert [weights for _, weights in seen] == [[0.0], [1.0], [12.0], [123.0], [1231.0], [12312.0]]
    assert run.weights["w"].tolist() == [123123.0]


def test_who_waited_longest_comes_first_then_who_was_asked_least_then_by_name() -> None:
    def next_of(*agents: Candidate) -> str:
        (label,) = choose_cohort(agents, CohortSettings.model_validate(TURNS), seed=0).labels
        return label

    waited, later = Candidate("z", asked_s=1.0, tasks=9), Candidate("a", asked_s=2.0, tasks=1)
    assert next_of(later, waited) == "z"
    assert next_of(later, waited, Candidate("m")) == "m"  # it joined just now
    assert next_of(Candidate("a", asked_s=0.0, tasks=2), Candidate("b", asked_s=0.0, tasks=1)) == "b"
    assert next_of(Candidate("b", asked_s=0.0, tasks=1), Candidate("a", asked_s=0.0, tasks=1)) == "a"


def test_the_bytes_of_trees_go_on_as_they_are() -> None:
    trees = memory({"payload": np.frombuffer(b"trees", np.uint8)})
    assert fold_free(Cyclic(), [Answer(Contribution("a", 1), {"weights": trees})]) == b"trees"


def test_two_updates_are_no_turn() -> None:
    with pytest.raises(UpdateRejectedError, match=r"^2 updates, and cyclic is the turn of one agent$"):
        folded(Cyclic(), [{"w": np.zeros(1)}] * 2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"round": {"min_updates": 1}},
            "cohort: in the strategy cyclic a round is the turn of one agent: give cohort: {rule: number, "
            "number: 1, choose: in_turn}, or a rule of your own that chooses one",
        ),
        (
            {"cohort": TURNS},
            "round.min_updates: 2, but in the strategy cyclic every global model is one site's: give "
            "round.min_updates: 1 if it may go to the others",
        ),
        (
            {**SETTINGS, "cohort": {**TURNS, "over_selection": 3.0}},
            "cohort.over_selection: 3, but in the strategy cyclic a round is the turn of one agent: "
            "leave it out",
        ),
        (
            {"mode": "async", **SETTINGS},
            "mode: async: the strategy cyclic is not valid in it: one agent at a time is at work; give mode: "
            "sync, or another strategy",
        ),
    ],
)
def test_rounds_of_more_than_one_agent_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        strategy_of(RunSettings.model_validate({"name": "r", "strategy": "cyclic", **given}))
    assert str(caught.value) == line


@pytest.mark.parametrize("cohort", [TURNS, {**TURNS, "choose": "least_recent"}, {"rule": "mine:next_site"}])
@pytest.mark.parametrize("payload", ["fixed", "free"])
def test_rounds_of_one_agent_are_taken(cohort: dict[str, Any], payload: str) -> None:
    given = {"name": "r", "strategy": "cyclic", **SETTINGS, "cohort": cohort, "payload": payload}
    strategy_of(RunSettings.model_validate(given))
