"""The JSON API says what `ModelDB` says, in the shapes that its document promises."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fl_main.db import ModelDB, ModelStore
from fl_main.db.web.app import create_app
from tests.db import building
from tests.db.web.serving import Page, serving

jsonschema = pytest.importorskip("jsonschema", reason="needs the extra test: pip install -e '.[test]'")

# A value for each parameter of a path, and of a query that must be given.
PLACES = {"run": "hearts", "model": "m2a", "other": "m2b", "runs": "hearts,hearts"}
MEASURED = "metric=accuracy&direction=max"  # what the run chose was not measured
ODD = ["", "-1", "1e9", "9" * 30, "9" * 5000, "nan", "true", "' OR 1=1 --", "../../etc/passwd", "\0", "ÿ€𝄞"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database with a run of three rounds, one of whose metrics is no number."""
    folder = tmp_path_factory.mktemp("api") / "models"
    with ModelStore(folder) as store:
        building.train(store, 3)
        store.commit([building.metric("g3", 3, "loss", math.nan, "a")], 200.0)
        yield folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with serving(create_app(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def document(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.get("/api/openapi.json")
    return found


def asked(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every path with JSON to it, filled in, and what its document promises."""
    for path, methods in document["paths"].items():
        assert set(methods) == {"get"}
        if path == "/api/changes":
            continue
        needed = [
            f"{each['name']}={PLACES[each['name']]}"
            for each in methods["get"].get("parameters", [])
            if each["in"] == "query" and each["required"]
        ]
        needed += [MEASURED] if path.endswith("/standings") else []
        yield path.format(**PLACES) + ("?" + "&".join(needed) if needed else ""), methods["get"]


def test_every_answer_is_what_the_document_promises(page: Page, document: dict[str, Any]) -> None:
    paths = list(asked(document))
    assert len(paths) > 12
    for path, operation in paths:
        found = page.get(path)
        assert found, path
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(found, {**schema, "components": document["components"]})


def test_the_document_tells_of_each_answer_and_parameter(document: dict[str, Any]) -> None:
    for path, operation in asked(document):
        assert operation["description"].endswith("."), path
        assert {"404", "422", "503"} <= set(operation["responses"])
        for each in operation.get("parameters", []):
            assert each["schema"] != {}, (path, each["name"])


def test_its_page_shows_all_of_it_and_fetches_nothing_from_elsewhere(
    page: Page, document: dict[str, Any]
) -> None:
    found = page.ask("/api/")
    assert found.status == 200
    assert found.headers["content-type"].startswith("text/html")
    for path in document["paths"]:
        assert path in found.text
    assert "http://" not in found.text.replace("http://www.w3.org", "")
    assert "https://" not in found.text


def test_odd_values_are_answered_in_order(page: Page, document: dict[str, Any]) -> None:
    for path, operation in asked(document):
        for each in operation.get("parameters", []):
            if each["in"] == "query":
                for value in ODD:
                    found = page.ask(f"{path.partition('?')[0]}?{each['name']}={quote(value)}")
                    assert found.status in (200, 404, 422), (path, each["name"], value, found.text)


@pytest.mark.parametrize("name", [*ODD[1:], "x" * 5000, "a/b", "%2e%2e%2f", "hearts/../hearts"])
def test_odd_names_are_unknown(page: Page, name: str) -> None:
    for path in (f"/api/runs/{quote(name, safe='')}/rounds", f"/api/models/{quote(name, safe='')}/arrays"):
        found = page.ask(path)
        assert found.status == 404, (path, found.text)
        assert "Traceback" not in found.text


def test_a_query_beyond_all_bounds_is_refused(page: Page) -> None:
    with suppress(ConnectionError):  # where it hung up before all of it was sent
        assert page.ask("/api/runs?after=" + "x" * 1_000_000).status == 400
    assert page.get("/api/runs")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(page: Page, method: str) -> None:
    assert page.ask("/api/runs", method).status == 405
    assert page.ask("/api/runs/hearts", method).status == 405


def test_a_run_is_named_by_name_or_id_and_comes_with_what_is_known(page: Page, folder: Path) -> None:
    with ModelDB(folder) as db:
        run = db.run("hearts")
        expected = {"name": "hearts", "model_id": "g3", "rounds_done": 3}
        found = page.get("/api/runs/hearts")
        assert found == page.get(f"/api/runs/{run.run_id}")
        assert {key: found["facts"][key] for key in expected} == expected
        assert found["tags"] == run.tags() == {"final": "g3"}
        assert found["effort"]["counted"] == 6
        assert found["size"] == run.traffic()[0]


def test_what_is_no_number_is_null(page: Page) -> None:
    found = page.get("/api/models/g3/metrics")
    assert [metric["value"] for metric in found] == [0.25, 0.75, None]
    [curve] = [curve for curve in page.get("/api/runs/hearts/curves") if curve["name"] == "loss"]
    assert curve["mean"][-1] == 0.25


@pytest.mark.parametrize(
    ("path", "key", "number"),
    [
        ("rounds", "round_id", 4),
        ("agents", "agent_id", 2),
        ("updates", "update_id", 6),
        ("models", "model_id", 10),
    ],
)
def test_a_list_goes_on_where_its_part_ended(page: Page, path: str, key: str, number: int) -> None:
    whole = page.get(f"/api/runs/hearts/{path}")
    assert len(whole) == number
    parts: list[Any] = []
    link = "?limit=1"
    while link:
        found = page.ask(f"/api/runs/hearts/{path}{link}")
        parts += found.json
        link = found.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert parts == whole
    assert len({entry[key] for entry in parts}) == number


def test_events_are_read_from_one_on_and_of_one_kind(page: Page) -> None:
    whole = page.get("/api/runs/hearts/events")
    assert [event["kind"] for event in whole] == ["run_created", *["update_accepted"] * 6]
    assert page.get(f"/api/runs/hearts/events?after={whole[3]['seq']}") == whole[4:]
    assert page.get("/api/runs/hearts/events?kind=run_created") == whole[:1]


def test_updates_and_models_are_chosen_by_round_and_agent(page: Page) -> None:
    assert [found["task_id"] for found in page.get("/api/runs/hearts/updates?round=2&agent=a")] == ["t2a"]
    found = page.get("/api/runs/hearts/models?round=2&kind=local&agent=b")
    assert [model["model_id"] for model in found] == ["m2b"]


def test_a_timeline_of_a_long_run_is_its_end(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_main.db.web import api

    monkeypatch.setattr(api, "ROUNDS", 2)
    assert [span["round_id"] for span in page.get("/api/runs/hearts/timeline")["rounds"]] == [2, 3]
    assert [span["round_id"] for span in page.get("/api/runs/hearts/timeline?last=1")["rounds"]] == [0, 1]


def test_answers_about_many_rounds_and_agents_are_bounded_and_say_so(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fl_main.db.web import api

    monkeypatch.setattr(api, "MOST_TASKS", 5)
    monkeypatch.setattr(api, "MOST_VALUES", 5)
    timeline = page.get("/api/runs/hearts/timeline?first=0")
    assert ([span["round_id"] for span in timeline["rounds"]], timeline["left_out"]) == ([2, 3], 2)
    heat = page.get("/api/runs/hearts/heat?first=0")
    assert (heat["rounds"], heat["left_out"]) == ([2, 3], 2)


def test_a_heat_map_is_of_the_measure_that_is_asked_for(page: Page) -> None:
    found = page.get("/api/runs/hearts/heat?measure=train_loss&first=2")
    assert (found["rounds"], found["agents"]) == ([2, 3], ["site a", "site b"])
    assert found["values"] == [[0.25, 0.25], [0.25, 0.25]]
    assert "there is no measure 'height'" in page.get("/api/runs/hearts/heat?measure=height", 404)["detail"]


def test_arrays_of_a_file_may_be_kept_by_the_visitor(page: Page) -> None:
    first = page.ask("/api/models/g3/arrays")
    assert [entry["name"] for entry in first.json] == ["bias", "layer/w"]
    assert first.headers["cache-control"] == "private, max-age=86400"
    again = page.ask("/api/models/g3/arrays", If_None_Match=f'"other", {first.headers["etag"]}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    by_name = page.ask("/api/models/hearts:3/arrays")
    assert by_name.headers["cache-control"] == "private, no-cache"
    assert by_name.json == first.json


def test_two_models_are_held_against_each_other(page: Page, folder: Path) -> None:
    found = page.get("/api/models/g1/difference?other=hearts:3")
    with ModelDB(folder) as db:
        expected = db.model("g1").difference(db.model("g3"))
    assert [(entry["name"], entry["l2"], entry["largest"]) for entry in found] == [
        (entry.name, entry.l2, entry.largest) for entry in expected
    ]
    assert page.ask("/api/models/g1/difference").status == 422


def test_a_histogram_has_as_many_bins_as_are_asked_for(page: Page) -> None:
    [found] = page.get("/api/models/g2/histograms?bins=3&array=bias")
    assert (found["name"], found["counts"]) == ("bias", [1, 0, 2])  # -1, 1/3 and 0.5; edges -1, -0.5, 0, 0.5
    assert page.ask("/api/models/g2/histograms?array=none").status == 404


def test_runs_are_held_against_each_other(page: Page) -> None:
    assert page.get("/api/compare?runs=hearts,hearts")["runs"] == ["hearts", "hearts"]
    assert "two to 20" in page.get("/api/compare?runs=hearts", 422)["detail"]
    assert page.ask("/api/compare?runs=hearts,lungs").status == 404


def test_standings_of_another_metric_say_which_way_is_better(page: Page) -> None:
    found = page.get("/api/runs/hearts/standings?metric=accuracy&source=evaluate&direction=max")
    assert [(entry["place"], entry["model_id"]) for entry in found] == [(1, "g3"), (2, "g2"), (3, "g1")]
    assert page.ask("/api/runs/hearts/standings?metric=accuracy").status == 422


def test_a_model_too_large_to_look_at_is_told(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl_main.db.web import bounds

    monkeypatch.setattr(bounds, "MOST_BYTES", 10)
    assert "are read here at most" in page.get("/api/models/g2/arrays", 422)["detail"]


def test_a_model_that_is_not_stored_says_why(folder: Path, tmp_path: Path) -> None:
    from fl_main.settings import DatabaseSettings, RetentionSettings

    keep = DatabaseSettings(retention=RetentionSettings(keep="rounds", rounds=1))
    with ModelStore(tmp_path / "models", keep) as store:
        building.train(store, 3)
        assert store.prune()
    with serving(create_app(tmp_path / "models")) as page:
        detail = page.get("/api/models/m1a/arrays", 410)["detail"]
        assert detail == "model m1a is not stored: deleted by the retention settings"
        assert page.get("/api/models/m1a")["facts"]["is_stored"] is False
