"""Which model is best, by which metric, and since when."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.insight.ranking import DEFAULTS
from fl_main.errors import NotFoundError, SettingsError
from fl_main.settings import TargetSettings
from tests.db.building import RUN, begin, metric, train


@pytest.fixture
def db(folder: Path) -> ModelDB:
    """Three rounds: losses of training 1/2, 1/3, 1/4, and accuracies 1/2, 2/3, 3/4."""
    with ModelStore(folder) as store:
        train(store, rounds=3)
    return ModelDB(folder)


def test_the_best_comes_first(db: ModelDB) -> None:
    found = db.run().standings("loss", "train", "min")
    assert [(one.place, one.model_id, one.value) for one in found] == [
        (1, "g3", 1 / 4),
        (2, "g2", 1 / 3),
        (3, "g1", 1 / 2),
    ]
    best = found[0]
    assert (best.run, best.round_id, best.source, best.metric, best.direction) == (
        *("hearts", 3, "train", "loss", "min"),
    )
    assert (best.num_examples, best.agents, best.measured_at) == (20, 2, 135.0)  # published at 105 + 10 * 3
    assert (best.rounds_since, found[2].rounds_since) == (0, 2)
    assert (best.is_stored, best.why_not) == (True, "")
    assert db.run().standings(source="train") == found  # the settings' metric, and its direction
    worst = db.run().standings("loss", "train", "max")
    assert [one.model_id for one in worst] == ["g1", "g2", "g3"]


def test_the_settings_say_by_what(db: ModelDB, folder: Path) -> None:
    with pytest.raises(NotFoundError, match="by evaluate loss; there are: evaluate accuracy, train loss"):
        db.run().standings()
    db.close()
    best = {"metric": "accuracy", "source": "evaluate", "direction": "max"}
    with ModelStore(folder) as store:
        store.commit([replace(RUN, settings={"best": best})], 200.0)
    with ModelDB(folder) as opened:
        assert opened.run().standings()[0].model_id == "g3"
        assert opened.run().standings("accuracy", direction="min")[0].model_id == "g1"


def test_another_metric_needs_a_direction(db: ModelDB) -> None:
    with pytest.raises(SettingsError, match="which way is better for accuracy"):
        db.run().standings("accuracy")


def test_of_equal_ones_the_earlier_and_none_that_is_no_number(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=3)
        again = [
            metric("g1", 1, "loss", 0.1),
            metric("g3", 3, "loss", 0.1),
            metric("g2", 2, "loss", math.nan),
        ]
        store.commit(again, 200.0)
    with ModelDB(folder) as db:
        assert [one.model_id for one in db.run().standings("loss", "train", "min")] == ["g1", "g3"]


def test_models_of_rounds_that_were_undone_are_left_out(db: ModelDB, folder: Path) -> None:
    db.close()
    with ModelStore(folder) as store:
        store.commit([replace(RUN, model_id="g2", rollbacks=1)], 200.0)
    with ModelDB(folder) as opened:
        first, second = opened.run().standings("loss", "train", "min")
    assert (first.model_id, first.rounds_since) == ("g2", 0)
    assert (second.model_id, second.rounds_since) == ("g1", 1)


def test_nothing_was_measured_yet(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db, pytest.raises(NotFoundError, match="there are: no metrics yet"):
        db.run().standings()


def test_the_defaults_are_those_of_the_settings() -> None:
    assert TargetSettings().model_dump() == DEFAULTS
