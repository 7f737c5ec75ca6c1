"""Tags: a model is found by its name, and kept for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_main.db import ModelDB, ModelStore, tag_model, verify_database
from fl_main.db.cli import db as fl_db
from fl_main.db.upkeep import writing
from fl_main.db.upkeep.prune import Keep, prune
from fl_main.db.upkeep.writing import SecondWriter
from fl_main.errors import NotFoundError, SettingsError, StoreError
from tests.db.building import train


@pytest.fixture
def hearts(folder: Path) -> Iterator[Path]:
    """Three rounds of two agents, in a database that a daemon has open."""
    with ModelStore(folder) as store:
        train(store, rounds=3)
        yield folder


def locals_of(db: ModelDB, round_id: int) -> list[str]:
    return [model.model_id for model in db.run().models("local", round_id)]


def test_a_tagged_model_is_found_by_its_name_and_outlives_pruning(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        first, second = locals_of(db, 1)
        done = tag_model(db, first, "odd-one")
        assert (done.model_id, done.before) == (first, None)
        assert db.model(done.reference).model_id == first
        prune(db, Keep.parse("globals"))
        assert db.model(first).is_stored
        assert not db.model(second).is_stored
        [event] = db.run().events("model_tagged")
        assert event.details == {"tag": "odd-one", "model_id": first, "before": None}
    assert verify_database(hearts) == []


def test_a_tag_moves(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        first, second = locals_of(db, 1)
        tag_model(db, first, "v1")
        assert tag_model(db, second, "v1").before == first
        assert db.run().tags()["v1"] == second
        assert db.model(first).tags == ()
    assert verify_database(hearts) == []


@pytest.mark.parametrize("tag", ["best", "final", "last", "", "12", "a b", "a:b", "-a", "x" * 65, "é"])
def test_what_cannot_be_a_tag_is_refused(hearts: Path, tag: str) -> None:
    with ModelDB(hearts) as db, pytest.raises(SettingsError, match="tag "):
        tag_model(db, locals_of(db, 1)[0], tag)


def test_a_model_that_is_gone_gets_no_tag(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        gone = locals_of(db, 1)[0]
        prune(db, Keep.parse("globals"))
        with pytest.raises(StoreError, match=r"is not stored, because it was .*; a tag would keep nothing"):
            tag_model(db, gone, "kept")
        with pytest.raises(NotFoundError, match="there is no model"):
            tag_model(db, "nobody", "kept")


def test_a_model_that_goes_meanwhile_gets_no_tag(hearts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelDB(hearts) as db:
        found = locals_of(db, 1)[0]

        class Late(SecondWriter):
            def __init__(self, folder: Path) -> None:
                super().__init__(folder)
                with self.changing("be first") as change:
                    change.remove([found], "deleted by somebody else")

        monkeypatch.setattr(writing, "SecondWriter", Late)
        with pytest.raises(StoreError, match="because it was deleted by somebody else; a tag would keep"):
            tag_model(db, found, "kept")
        assert "kept" not in db.run().tags()


def test_the_command_says_what_the_name_was_before(hearts: Path) -> None:
    with ModelDB(hearts) as db:
        first, second = locals_of(db, 1)
        run = db.run().name
    for model in (first, second):
        done = CliRunner().invoke(fl_db, ["-d", str(hearts), "tag", model, "v1"], catch_exceptions=False)
    assert done.output == f"{run}:v1 is model {second}, until now {first}\n"
