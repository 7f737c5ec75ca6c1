"""A card says what the database knows, in the form that the hub reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl_main.db import ModelDB, ModelStore
from fl_main.db.transfer.card import Wishes, card_model, model_card, write_card
from fl_main.errors import StoreError
from fl_main.store import RunStatus
from tests.db.building import RUN, agent, answer, ask, begin, metric, publish, round_record, train
from tests.db.commands import fl_db

SETTINGS = {
    "name": "hearts",
    "purpose": "to find <b>heart</b> disease",
    "strategy": ["norm_bound", {"fedadam": {"eta": 0.1}}],
    "mode": "sync",
    "config_for": [{"where": "name == 'st-mary'", "config": {}}],
    "cohort": {"where": "name != 'st-john'"},
}


@pytest.fixture
def db(folder: Path) -> ModelDB:
    with ModelStore(folder) as store:
        train(store)
        over = replace(
            RUN,
            settings=SETTINGS,
            reason="st-ann was late",
            round_id=2,
            model_id="g2",
            rounds_done=2,
            status=RunStatus.FINISHED,
        )
        nan = metric("g2", 2, "auc", float("nan"))
        store.commit([over, replace(agent("a"), name="st-mary | [x](y)"), nan], 300.0)
    return ModelDB(folder)


def parts(text: str) -> tuple[dict[str, Any], str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_is_what_the_hub_reads(db: ModelDB) -> None:
    wishes = Wishes(
        "apache-2.0", "hearts-v1", "tabular-classification", "heart disease", ("medical", "fl_main")
    )
    facts, _ = parts(model_card(db, db.model("g2"), wishes))
    assert facts["license"] == "apache-2.0"
    assert facts["tags"] == ["federated-learning", "fl_main", "norm_bound", "fedadam", "medical"]
    (entry,) = facts["model-index"]
    assert entry["name"] == "hearts-v1"
    (result,) = entry["results"]
    assert result["task"] == {"type": "tabular-classification", "name": "tabular classification"}
    assert result["dataset"] == {"type": "private", "name": "heart disease"}
    assert result["metrics"] == [
        {
            "type": "accuracy",
            "value": 0.666667,
            "name": "accuracy, mean over 2 agents, weighted by 20 held-out examples",
        }
    ]


def test_without_wishes_there_is_no_license_and_there_are_no_names(db: ModelDB) -> None:
    text = model_card(db, db.model("g2"))
    facts, body = parts(text)
    assert "license" not in facts
    assert facts["model-index"][0]["name"] == "hearts"
    assert "| agent 1 | 2 | 10 |\n| agent 2 | 2 | 10 |" in body
    for word in ("site b", "st-mary", "st-john", "st-ann"):
        assert word not in text


@pytest.mark.parametrize("steps", ["fltrust", ["norm_bound", {"fltrust": {"root": "site b"}}]])
def test_an_agent_that_the_strategy_names_has_its_number(folder: Path, steps: Any) -> None:
    options = {"root": "site b"} if steps == "fltrust" else {}
    with ModelStore(folder) as store:
        train(store)
        settings = {"name": "hearts", "strategy": steps, "strategy_options": options}
        store.commit([replace(RUN, settings=settings, round_id=2, model_id="g2", rounds_done=2)], 300.0)
    with ModelDB(folder) as db:
        numbered, named = (model_card(db, db.model("g2"), Wishes(with_agents=each)) for each in (False, True))
    assert "site b" not in numbered
    assert '"root": "agent 2"' in numbered
    assert '"root": "site b"' in named


def test_names_are_there_if_they_are_wished_for(db: ModelDB) -> None:
    text = model_card(db, db.model("g2"), Wishes(with_agents=True))
    assert r"| st-mary \| \[x\](y) | 2 | 10 |" in text
    assert "| site b | 2 | 10 |" in text
    assert "st-john" in text


def test_what_comes_from_outside_means_nothing_in_markdown(db: ModelDB) -> None:
    _, body = parts(model_card(db, db.model("g2")))
    assert "to find &lt;b&gt;heart&lt;/b&gt; disease" in body


def test_it_says_results_rounds_training_and_origin(db: ModelDB) -> None:
    model = db.model("g2")
    _, body = parts(model_card(db, model))
    assert "the global model of round 2 of run *hearts*" in body
    assert "2 agents trained on data of their own" in body
    assert "| accuracy | evaluate | 0.666667 | 2 | 20 |" in body
    assert "| round | updates | loss (train) | accuracy (evaluate) |" in body
    assert "| 1 | 2 | 0.5 | 0.5 | – |\n| 2 | 2 | 0.333333 | 0.666667 | – |" in body
    assert "| strategy | norm\\_bound &gt; fedadam |" in body
    assert f"| digest of its file | {model.digest} |" in body
    assert "| made of | 2 models |" in body
    assert str(db.heads()[0]) in body
    assert body.count("## ") == 5


def test_the_card_of_an_earlier_round_says_nothing_of_later_ones(db: ModelDB) -> None:
    _, body = parts(model_card(db, db.model("g1")))
    assert "\n| 1 | 2 | 0.5 | 0.5 |" in body
    assert "\n| 2 | 2 |" not in body


def test_rounds_that_were_undone_are_no_part_of_what_led_to_a_model(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=1)
        ask(store, 2, "g1", "c")
        publish(store, 2, [answer(store, 2, "c", 2.0)], 0.25)
        ask(store, 3, "g1")
        publish(store, 3, [answer(store, 3, "a", 3.0)], 0.125)
        # Rolled back to round 1 before round 3, which therefore began from its model.
        again = round_record(3, status="done", base_model_id="g1", model_id="g3", ended_s=3.5)
        store.commit([again, replace(RUN, round_id=3, model_id="g3", rounds_done=2, rollbacks=1)], 200.0)
    with ModelDB(folder) as db:
        _, last = parts(model_card(db, db.model("g3")))
        _, undone = parts(model_card(db, db.model("g2")))
    assert "2 agents trained on data of their own" in last
    assert "\n| 1 | 2 | 0.5 |" in last
    assert "\n| 2 | 1 | 0.25 |" not in last
    assert "\n| 3 | 1 | 0.125 |" in last
    assert "\n| 2 | 1 | 0.25 |" in undone


def test_of_many_rounds_some_are_listed(folder: Path) -> None:
    with ModelStore(folder) as store:
        train(store, rounds=50)
    with ModelDB(folder) as db:
        _, body = parts(model_card(db, db.model("g50")))
    rows = [line for line in body.splitlines() if line.endswith("|") and line.count("|") == 5]
    listed = [int(line.split("|")[1]) for line in rows if line.split("|")[1].strip().isdecimal()]
    assert listed == list(range(2, 51, 3))
    assert "33 rounds between them are left out." in body


def test_the_model_of_a_run_is_its_final_or_last_one(db: ModelDB, tmp_path: Path) -> None:
    assert card_model(db, "hearts").model_id == "g2"
    assert card_model(db, "hearts:1").model_id == "g1"
    with ModelStore(tmp_path / "new") as store:
        store.commit([RUN], 1.0)
    with ModelDB(tmp_path / "new") as other, pytest.raises(StoreError, match="run 'hearts' has no model yet"):
        card_model(other, "hearts")


def test_a_model_that_was_never_measured_has_a_card(folder: Path) -> None:
    with ModelStore(folder) as store:
        begin(store)
    with ModelDB(folder) as db:
        facts, body = parts(model_card(db, db.model("initial")))
    assert "model-index" not in facts
    assert "the initial model of round 0" in body
    assert "## Results" not in body


def test_a_file_that_is_there_is_kept(db: ModelDB, tmp_path: Path) -> None:
    write_card("one", tmp_path / "README.md")
    with pytest.raises(StoreError, match="exists already; choose another name, or say --force"):
        write_card("two", tmp_path / "README.md")
    write_card("two", tmp_path / "README.md", overwrite=True)
    assert (tmp_path / "README.md").read_text() == "two"


def test_command(db: ModelDB, tmp_path: Path) -> None:
    printed = fl_db("card", "hearts", "-d", db.folder, "--license", "mit", "--tag", "x")
    assert parts(printed.stdout)[0]["license"] == "mit"
    file = tmp_path / "README.md"
    result = fl_db("card", "g1", "-d", db.folder, "-o", file, "--agents")
    assert result.output == f"{file}: card of global model g1\n"
    assert "site b" in file.read_text()
