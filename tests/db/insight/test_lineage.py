"""Where models come from and what became of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.lineage import Edge, Lineage
from fl_main.settings import DatabaseSettings, RetentionSettings
from fl_main.store import EventRecord, ModelKind
from tests.db.building import RUN, agent, answer_delta, begin, model, stage, tampering, train


def ids(found: Lineage) -> list[str]:
    return [node.model_id for node in found.nodes]


@pytest.fixture
def db(folder: Path) -> ModelDB:
    """Rounds 1 and 2 of a and b; in round 2 a delta on the model of round 1 counts, too."""
    with ModelStore(folder) as store:
        train(store)
        answer_delta(store, "t", "a", 2.0, base="g1")
        combined = model(
            "g3", stage(store, "g3", 0.25), 3, ModelKind.GLOBAL, parents=(("d-t", 0.75), ("m2b", 0.25))
        )
        store.commit([combined], 160.0)
    return ModelDB(folder)


def test_up_and_down(db: ModelDB) -> None:
    found = db.model("d-t").lineage()
    assert ids(found) == ["m1a", "m1b", "g1", "d-t", "g3"]
    assert found.edges == [
        Edge("g1", "d-t", None),
        Edge("m1a", "g1", 0.5),
        Edge("m1b", "g1", 0.5),
        Edge("d-t", "g3", 0.75),
    ]
    assert found.left_out == 0
    assert {node.model_id: node.has_more for node in found.nodes} == {
        "m1a": False,
        "m1b": False,
        "g1": False,
        "d-t": False,
        "g3": True,  # m2b is not shown
    }


def test_only_some_steps(db: ModelDB) -> None:
    assert ids(db.model("g3").lineage(up=1)) == ["m2b", "d-t", "g3"]
    assert ids(db.model("g3").lineage(up=None)) == ["m1a", "m1b", "g1", "m2b", "d-t", "g3"]
    assert ids(db.model("g1").lineage(up=0, down=1)) == ["g1", "d-t"]
    assert ids(db.model("m1a").lineage(down=None)) == ["m1a", "g1", "d-t", "g3"]


def test_what_a_model_is(db: ModelDB) -> None:
    nodes = {node.model_id: node for node in db.model("g2").lineage().nodes}
    assert (nodes["g2"].kind, nodes["g2"].round_id, nodes["g2"].run) == ("global", 2, "hearts")
    assert (nodes["g2"].agent, nodes["g2"].tags, nodes["g2"].is_stored) == ("", ("final",), True)
    assert (nodes["m2a"].agent, nodes["m2a"].why_not) == ("site a", "")


def test_the_nearest_come_first_and_the_rest_is_counted(db: ModelDB) -> None:
    found = db.model("g3").lineage(up=None, most=4)
    assert ids(found) == ["g1", "m2b", "d-t", "g3"]
    assert found.left_out == 2  # m1a and m1b
    assert {node.model_id for node in found.nodes if node.has_more} == {"g1", "m2b"}


def test_a_run(db: ModelDB) -> None:
    found = db.run().lineage()
    assert ids(found) == ["initial", "m1a", "m1b", "g1", "m2a", "m2b", "g2", "d-t", "g3"]
    assert found.left_out == 0
    assert Edge("m2b", "g2", 0.5) in found.edges


def test_of_a_large_run_the_agents_models_are_left_out(db: ModelDB) -> None:
    found = db.run().lineage(most=8)
    assert ids(found) == ["initial", "g1", "g2", "g3"]
    assert found.left_out == 5
    # g3 was made by hand: no round says what it began from.
    assert found.edges == [Edge("initial", "g1", None), Edge("g1", "g2", None)]
    assert ids(db.run().lineage(most=2)) == ["g2", "g3"]


def test_a_run_that_began_from_another_run(db: ModelDB, folder: Path) -> None:
    db.close()
    with ModelStore(folder) as store:
        second = replace(RUN, run_id="run-2", name="lungs")
        begun = replace(
            model("other", stage(store, "other", 1.0), 0, ModelKind.INITIAL, parents=(("g2", 1.0),)),
            run_id="run-2",
        )
        store.commit([second, begun], 170.0)
    with ModelDB(folder) as opened:
        found = opened.run("lungs").lineage()
        assert [(node.model_id, node.run) for node in found.nodes] == [("g2", "hearts"), ("other", "lungs")]
        assert found.edges == [Edge("g2", "other", 1.0)]
        assert ids(opened.model("g2").lineage(up=0)) == ["g2", "other"]


def test_models_that_are_not_stored_say_why(folder: Path) -> None:
    settings = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(folder, settings) as store:
        train(store)
        store.prune()
    with ModelDB(folder) as db:
        nodes = {node.model_id: node for node in db.run().lineage().nodes}
    assert (nodes["m1a"].is_stored, nodes["m1a"].why_not) == (False, "deleted by the retention settings")


def test_what_models_were_made_with(folder: Path) -> None:
    """The run of 100 s to 125 s begins under version 1 of a daemon; version 2 starts meanwhile, 3 later."""

    def started(version: str) -> EventRecord:
        return EventRecord(None, "daemon_started", details={"software": version})

    strategy = [{"norm_bound": {"bound": 1.0}}, "trimmed_mean"]
    with ModelStore(folder) as store:
        store.commit([started("fl_main 0")], 10.0)
        store.commit([started("fl_main 1")], 20.0)
        begin(store, "abc")  # from 100 s on
        store.commit([started("fl_main 2")], 103.0)
        store.commit([replace(agent("c"), software="other 7")], 104.0)
        store.commit([replace(RUN, settings={"strategy": strategy}, model_id="initial")], 125.0)
        store.commit([started("fl_main 3")], 130.0)
    with ModelDB(folder) as db:
        (origin,) = db.run().lineage().origins
        assert db.model("initial").lineage().origins == [origin]
    assert (origin.run_id, origin.run) == ("run-1", "hearts")
    assert (origin.strategy, origin.settings_digest) == ("norm_bound > trimmed_mean", RUN.settings_digest)
    assert origin.daemon == ("fl_main 1", "fl_main 2")
    assert origin.agents == {"fl_main": 2, "other 7": 1}


def test_a_damaged_database_still_tells_what_is_there(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
    with tampering(folder) as connection:
        connection.execute("DELETE FROM models WHERE model_id = 'm1a'")
        connection.execute("DELETE FROM runs")
    with ModelDB(folder) as db:
        found = db.model("g1").lineage()
    assert [(node.model_id, node.run) for node in found.nodes] == [("m1b", "run-1"), ("g1", "run-1")]
    assert found.edges == [Edge("m1b", "g1", 0.5)]
    assert found.origins == []


def test_a_run_without_models(folder: Path) -> None:
    with ModelStore(folder) as store:
        store.commit([RUN], 100.0)
    with ModelDB(folder) as db:
        assert db.run().lineage() == Lineage([], [], 0, [])
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db:
        assert ids(db.run().lineage()) == ["initial"]
