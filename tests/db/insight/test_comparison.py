"""Runs side by side."""

import math
from dataclasses import replace
from pathlib import Path

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.comparison import Line, MetricLine
from fl_main.store import MetricRecord, ModelKind
from tests.db.building import RUN, begin, model, stage, train


def measured(round_id: int, value: float) -> MetricRecord:
    return MetricRecord("run-2", round_id, "other", None, "train", "loss", value, 10, 1)


def test_two_runs(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
        settings = {"name": "lungs", "round": {"deadline_s": 1.5, "min_agents": 3}, "seed": 7}
        second = replace(RUN, run_id="run-2", name="lungs", settings=settings, rounds_done=4)
        begun = replace(model("other", stage(store, "other", 1.0), 0, ModelKind.INITIAL), run_id="run-2")
        values = [measured(1, 0.5), measured(2, 0.25), measured(3, math.nan), measured(4, 0.75)]
        store.commit([second, begun, *values], 170.0)
    with ModelDB(folder) as db:
        found = db.run("hearts").compare(db.run("lungs"))
    assert found.runs == ("hearts", "lungs")
    assert found.settings == [
        Line("name", ("hearts", "lungs")),
        Line("round.min_agents", (None, 3)),
        Line("seed", (None, 7)),
    ]
    facts = {line.name: line.values for line in found.facts}
    assert facts["rounds"] == (2, 4)
    assert facts["agents"] == (2, 0)
    assert facts["counted"] == (4, 0)
    assert found.metrics == [
        MetricLine(
            "evaluate", "accuracy", (1 - 1 / 3, None), (0.5, None), (1, None), (1 - 1 / 3, None), (2, None)
        ),
        MetricLine("train", "loss", (1 / 3, 0.75), (1 / 3, 0.25), (2, 2), (0.5, 0.75), (1, 4)),
    ]


def test_rounds_that_were_undone_are_left_out(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        store.commit([replace(RUN, model_id="g1", rollbacks=1)], 200.0)
    with ModelDB(folder) as db:
        _, loss = db.run().compare(db.run()).metrics
    assert (loss.last, loss.least_round, loss.largest_round) == ((0.5, 0.5), (1, 1), (1, 1))


def test_a_run_beside_itself_differs_in_nothing(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db:
        found = db.run().compare(db.run(), db.run())
    assert (found.runs, found.settings, found.metrics) == (("hearts",) * 3, [], [])
