"""What comes next in a run, and when it ends."""

from dataclasses import replace
from typing import Any

import pytest

from fl_main.plan import Step, derive_id, derive_seed, end_reason, is_better, next_step
from fl_main.settings import RunSettings, TargetSettings
from fl_main.store import Phase, RunRecord, RunStatus
from fl_main.training import Kind


def settings(**sections: Any) -> RunSettings:
    return RunSettings.model_validate({"name": "r", **sections})


RUN = RunRecord("1", "r", {}, "", RunStatus.RUNNING, Phase.WAITING)


def steps(asked: RunSettings, limit: int = 20) -> list[tuple[int, str]]:
    """Return the steps of a run in which everything goes well."""
    run = RUN
    found: list[tuple[int, str]] = []
    for _ in range(limit):
        step = next_step(run, asked)
        if step.kind is Kind.TRAIN and end_reason(run, asked):
            return found
        found.append((step.round_id, str(step.kind)))
        run = replace(run, round_id=step.round_id, kind=step.kind)
        if step.kind is Kind.INITIALISE:
            run = replace(run, model_id="initial")
        elif step.kind is Kind.STATISTICS:
            run = replace(run, statistics_id="sums")
        elif step.kind is Kind.TRAIN:
            run = replace(run, model_id=f"global {step.round_id}", rounds_done=run.rounds_done + 1)
    raise AssertionError(f"no end: {found}")


def test_a_run_begins_with_a_model_and_evaluates_each_round() -> None:
    assert steps(settings(end={"rounds": 2})) == [
        (0, "initialise"),
        (1, "train"),
        (1, "evaluate"),
        (2, "train"),
        (2, "evaluate"),
    ]


def test_statistics_come_before_the_first_round() -> None:
    found = steps(settings(end={"rounds": 1}, statistics=True, evaluate={"every": 0}))
    assert found == [(0, "initialise"), (0, "statistics"), (1, "train")]


def test_the_last_round_is_evaluated_whatever_the_rhythm() -> None:
    found = steps(settings(end={"rounds": 5}, evaluate={"every": 3}))
    assert [round_id for round_id, kind in found if kind == "evaluate"] == [3, 5]


def test_a_round_after_a_failed_one_has_the_next_number() -> None:
    failed = replace(RUN, model_id="m", round_id=4, kind=Kind.EVALUATE, rounds_done=3)
    assert next_step(failed, settings()) == Step(5, Kind.TRAIN)


@pytest.mark.parametrize(
    ("end", "best", "run", "reason"),
    [
        ({"rounds": 3}, {}, {"rounds_done": 2}, ""),
        ({"rounds": 3}, {}, {"rounds_done": 3}, "3 rounds are done"),
        ({"max_s": 60.0}, {}, {"run_time_s": 59.9}, ""),
        ({"max_s": 60.0}, {}, {"run_time_s": 60.0}, "60 s of run time are over"),
        ({"target": 0.1}, {}, {}, ""),
        ({"target": 0.1}, {}, {"best_value": 0.11}, ""),
        ({"target": 0.1}, {}, {"best_value": 0.1}, "evaluate loss reached 0.1 (target 0.1)"),
        ({"target": 0.9}, {"direction": "max", "metric": "accuracy"}, {"best_value": 0.89}, ""),
        (
            {"target": 0.9},
            {"direction": "max", "metric": "accuracy"},
            {"best_value": 0.95},
            "evaluate accuracy reached 0.95 (target 0.9)",
        ),
        ({"patience": 2}, {}, {"best_value": 1.0, "best_round": 3, "rounds_done": 4}, ""),
        (
            {"patience": 2},
            {},
            {"best_value": 1.0, "best_round": 3, "rounds_done": 5},
            "evaluate loss did not improve for 2 rounds",
        ),
        ({"patience": 2}, {}, {"rounds_done": 5}, ""),  # nothing was ever measured
    ],
)
def test_why_a_run_ends(end: dict[str, Any], best: dict[str, Any], run: dict[str, Any], reason: str) -> None:
    assert end_reason(replace(RUN, **run), settings(end=end, best=best)) == reason


def test_better_is_strictly_less_or_more() -> None:
    least, most = TargetSettings(direction="min"), TargetSettings(direction="max")
    assert is_better(5.0, None, least)
    assert [is_better(value, 1.0, least) for value in (0.9, 1.0, 1.1)] == [True, False, False]
    assert [is_better(value, 1.0, most) for value in (0.9, 1.0, 1.1)] == [False, False, True]


def test_seeds_and_ids_follow_from_the_place_in_the_run() -> None:
    assert derive_seed(7, 1, "a") == derive_seed(7, 1, "a")
    assert 0 <= derive_seed(7, 1, "a") < 2**63
    assert len({derive_seed(seed, place, "a") for seed in range(10) for place in range(10)}) == 100
    assert len(derive_id("run", 1)) == 24
    assert derive_id("run", 1) != derive_id("run", 2)
