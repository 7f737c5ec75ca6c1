"""Agents x rounds: what was measured of each update."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.errors import StoreError
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import StoredPayload, UpdateRecord
from fl_main.weights import Layout
from tests.db.building import (
    RUN,
    answer,
    answer_delta,
    ask,
    begin,
    model,
    publish,
    stage,
    tampering,
    task,
    train,
    update,
)

ROOT_10 = math.sqrt(10)  # the model's numbers that its value is in: nine of layer/w, one of bias


def count(store: ModelStore, values: Mapping[str, float], round_id: int = 1, **facts: Any) -> None:
    """A round in which each agent's model is told by a number."""
    ask(store, round_id, "initial" if round_id == 1 else f"g{round_id - 1}", "".join(values))
    found: list[UpdateRecord] = []
    for name, value in values.items():
        found.append(replace(answer(store, round_id, name, value), **facts))
    publish(store, round_id, found, 0.0)


def test_distances_and_cosines_are_computed_from_the_stored_models(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "abcde")
        # From 0: their mean is 2, which four are off by 1, and one by 4; all add in one direction.
        count(store, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 6.0})
        count(store, {"a": 1.0, "b": -3.0}, 2)  # the mean is -1, off by 2; a adds the other way
    with ModelDB(folder) as db:
        distance, cosine = db.run().heat(), db.run().heat("cosine")
    assert (distance.measure, distance.rounds) == ("distance", [1, 2])
    assert distance.agents == ["site a", "site b", "site c", "site d", "site e"]
    expected: list[list[int | None]] = [[1, 2], [1, 2], [1, None], [1, None], [4, None]]
    for line, factors in zip(distance.values, expected, strict=True):
        assert line == [factor and pytest.approx(factor * ROOT_10) for factor in factors]
    assert distance.outliers == [(4, 0)]  # e is four times as far as the median, which is that of the others
    assert [line[0] for line in cosine.values] == pytest.approx([1.0] * 5)
    assert [line[1] for line in cosine.values[:2]] == pytest.approx([-1.0, 1.0])
    assert distance.measures == ["cosine", "distance", "examples", "seconds", "share", "train_loss"]
    assert distance.missing == {}


def test_the_mean_is_by_share_and_the_factor_that_of_the_run(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "ab")
        ask(store, 1, "initial")
        first, second = answer(store, 1, "a", 0.0), answer(store, 1, "b", 4.0)
        publish(store, 1, [first, second], 1.0)
        counted: dict[str, Any] = {"counted_in": 1, "staleness": 0}
        store.commit([replace(first, share=0.75, **counted), replace(second, share=0.25, **counted)], 130.0)
        store.commit([replace(RUN, settings={"quarantine": {"factor": 1.25}})], 131.0)
    with ModelDB(folder) as db:
        found = db.run().heat()
    # The mean is 1: a is off by 1, b by 3, more than 1.25 times the median, which is 2.
    assert [line[0] for line in found.values] == pytest.approx([ROOT_10, 3 * ROOT_10])
    assert found.outliers == [(1, 0)]


def test_what_the_strategy_noted_stays(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "ab")
        count(store, {"a": 1.0, "b": 2.0}, notes={"distance": 0.125, "score": 7.0, "outlier": 1.0})
    with ModelDB(folder) as db:
        found = db.run().heat()
        assert found.values == [[0.125], [0.125]]
        assert found.outliers == [(0, 0), (1, 0)]
        assert "score" in found.measures
        assert "outlier" not in found.measures
        assert db.run().heat("score").values == [[7.0], [7.0]]


def test_facts_and_metrics(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store, "ab")
        count(store, {"a": 1.0, "b": 2.0}, seconds=3.5, metrics={"loss": math.nan})
    with ModelDB(folder) as db:
        run = db.run()
        assert run.heat("seconds").values == [[3.5], [3.5]]
        assert run.heat("examples").values == [[10.0], [10.0]]
        assert run.heat("share").values == [[0.5], [0.5]]
        assert run.heat("train_loss").values == [[None], [None]]


def test_an_unknown_measure_is_answered_with_those_that_there_are(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with (
        ModelDB(folder) as db,
        pytest.raises(StoreError, match=r"no measure 'x'; there are: cosine, distance"),
    ):
        db.run().heat("x")


def test_a_run_without_updates_has_an_empty_map(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db:
        found = db.run().heat()
    assert (found.rounds, found.agents, found.values, found.measures) == ([], [], [], [])


def test_deltas_are_compared_as_deltas_whatever_their_bases_are(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1, agents="ab")
        # A delta of 0.5 -> 2.0 adds 1.5; a full model of 5.0 that began from g1, which is 0.5, adds 4.5.
        delta = answer_delta(store, "t", "a", 2.0, base="g1")
        payload = stage(store, "t2b.weights", 5.0)
        full = update("t2b", "b", 2, digests={"weights": payload.digest}, model_id="m2b")
        parents = (("g1", None),)
        store.commit([task("t2b", "b", 2), model("m2b", payload, 2, agent_id="b", parents=parents)], 151.0)
        counted: dict[str, Any] = {"counted_in": 2, "staleness": 0, "share": 0.5}
        store.commit([replace(delta, **counted), replace(full, **counted)], 152.0)
    with ModelDB(folder) as db:
        found = db.run().heat(first=2)
    assert [line[0] for line in found.values] == pytest.approx([1.5 * ROOT_10, 1.5 * ROOT_10], rel=1e-6)


def test_what_is_not_stored_or_too_much_is_said(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store, rounds=2)
        store.prune()
    with ModelDB(folder) as db:
        found = db.run().heat()
        assert found.values[0][0] is None
        assert found.values[0][1] is not None
        assert found.missing == {1: "model m1a is not stored: deleted by the retention settings"}
    with ModelDB(folder) as db:
        refused = db.run().heat(first=2, most_bytes=100)
        assert refused.missing == {2: "its models count as 0 MiB; one question reads 0 MiB at most"}
        assert db.run().heat(first=2).missing == {}
        assert db.run().heat(first=2, most_bytes=0).missing == {}  # it is known from then on


def test_a_damaged_model_is_said(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with ModelDB(folder) as db:
        db.model("m1b").path.write_bytes(b"")
        found = db.run().heat()
        assert found.values == [[None], [None]]
        assert "has 0 bytes instead of" in found.missing[1]


def test_damaged_rows_are_said_or_left_as_they_are(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=2)
    with tampering(folder) as connection:
        connection.execute("DELETE FROM agents WHERE agent_id = 'b'")
        connection.execute("DELETE FROM models WHERE model_id IN ('m1b', 'g1')")
    with ModelDB(folder) as db:
        found = db.run().heat()
        assert found.agents == ["site a", "b"]
        assert found.missing == {
            1: "1 of its 2 updates have no model in the database",
            2: "model g1, which updates were trained from, is missing",
        }
        assert db.run().timeline(1, 1).agents == ["site a", "b"]


def test_models_without_float_parameters_cannot_be_compared(folder: Path) -> None:
    layout = Layout.free(4)
    with ModelStore(folder) as store:
        begin(store, "a")
        ask(store, 1, "initial", "a")
        for name in ("seed", "tree"):
            staging = store.stage(name, layout)
            staging.write(name.encode())
            payload = StoredPayload("weights", staging.finish(), 4, layout, name)
            store.commit([model(name, payload, agent_id="a", parents=(("seed", None),))], 110.0)
        store.commit([update("t1a", "a", model_id="tree", counted_in=1)], 111.0)
    with ModelDB(folder) as db:
        why = "its updates have no float parameters, by which they could be compared"
        assert db.run().heat().missing == {1: why}
        assert db.run().heat("examples").values == [[10.0]]


def test_what_was_computed_is_not_kept_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_main.db.insight.distances.MOST_KNOWN", 2)
    with ModelStore(folder) as store:
        train(store, rounds=3)
    with ModelDB(folder) as db:
        db.run().heat()
        kept = db.run().heat(most_bytes=0)
    assert set(kept.missing) == {3}  # the latest is asked first, and was the first to go


def test_models_larger_than_a_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_main.db.insight.distances.STACK_BYTES", 48)  # three values of each of two
    with ModelStore(folder) as store:
        begin(store, "ab")
        count(store, {"a": 1.0, "b": 3.0})
    with ModelDB(folder) as db:
        assert [line[0] for line in db.run().heat().values] == pytest.approx([ROOT_10, ROOT_10])


def test_of_too_many_values_those_of_the_latest_rounds_are_taken(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, 3, agents="abcd")
    with ModelDB(folder) as db:
        run = db.run()
        found = {most: run.heat("share", 1, most=most) for most in (12, 11, 4, 3)}
        earlier = run.heat("share", last=2, most=8)
    assert {most: (part.rounds, part.left_out) for most, part in found.items()} == {
        12: ([1, 2, 3], 0),
        11: ([2, 3], 1),
        4: ([3], 2),
        3: ([3], 2),  # one round at least
    }
    assert (earlier.rounds, earlier.left_out) == ([1, 2], 1)  # round 0 has none
