"""The pages as a server sends them: each of them, of an empty and of a damaged database, too."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_main.db import ModelStore
from fl_main.db.web import bounds, run_pages
from fl_main.db.web.app import create_app
from tests.db.building import tampering
from tests.db.web.serving import Page, serving
from tests.db.web.story import Story

ROUNDS = "/runs/breast-cancer/rounds"
VIEWS = ("", "/rounds", "/agents", "/models", "/lineage", "/events", "/settings")


@pytest.fixture
def told(store: ModelStore, folder: Path) -> Iterator[Page]:
    """A page over a run that is over."""
    Story(store, rounds=6).train()
    with serving(create_app(folder)) as page:
        yield page


def text_of(page: Page, path: str, status: int = 200) -> str:
    """What a page says, without its markup."""
    found = page.ask(path)
    assert found.status == status, (path, found.status)
    assert found.headers["content-type"].startswith("text/html")
    return " ".join(re.sub(r"<[^>]*>", " ", found.text).split())


def test_start_page_lists_runs(told: Page) -> None:
    said = text_of(told, "/")
    assert "1 run: 1 finished." in said
    assert "breast-cancer finished 6 of 6 6" in said  # state, rounds, agents


def test_start_page_finds_runs_by_name_and_state(told: Page) -> None:
    assert "1 to 1 of 1 run" in text_of(told, "/?q=BREAST&status=finished")
    assert "No run has this name and state." in text_of(told, "/?q=lungs")
    assert "No run has this name and state." in text_of(told, "/?status=failed")
    assert "1 to 1 of 1 run" in text_of(told, "/?q=breast&status=")  # as a browser sends the form: any state


def test_run_answers_first_how_it_goes_who_is_odd_and_which_model_to_take(told: Page) -> None:
    said = text_of(told, "/runs/breast-cancer")
    assert "How is it going? Finished: 6 rounds in" in said
    assert "uni-lab was an outlier in the last 6 rounds." in said
    assert (
        "charite was refused once in the last 10 rounds (num_examples is 0; it must be at least 1)." in said
    )
    assert "Which model to take? breast-cancer:best" in said


def test_a_timeline_of_many_tasks_says_what_is_left_out(told: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"Rounds 1 to 6: \d+ tasks of 6 agents, over run time ", text_of(told, ROUNDS))
    monkeypatch.setattr(run_pages, "TASKS", 1)
    said = text_of(told, ROUNDS)
    assert re.search(r"Rounds 6 to 6: 1 task of 1 agent, over run time; \d+ tasks more are left out ", said)


def test_dark_colours_are_the_same_by_choice_and_by_the_system() -> None:
    css = (Path(run_pages.__file__).parent / "static" / "page.css").read_text()
    tokens = {
        selector: dict(re.findall(r"([a-z-]+): ([^;]+);", body))
        for selector, body in re.findall(r"^ *(:root[^{]*) \{([^}]*)\}", css, re.MULTILINE)
    }
    light, by_system, by_choice = tokens.values()
    assert by_system == by_choice
    assert light.keys() - by_system.keys() == {"--mono", "--sans"}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_run_is_there(told: Page, view: str) -> None:
    assert "breast-cancer" in text_of(told, f"/runs/run-0000{view}")


def test_rounds_tell_who_was_late_and_who_was_refused_and_why(told: Page) -> None:
    said = text_of(told, "/runs/run-0000/rounds")
    assert "6 mayo late, discarded late: round was over" in said
    assert "2 charite rejected num_examples is 0; it must be at least 1" in said


def test_settings_tell_what_is_not_the_default(told: Page) -> None:
    said = text_of(told, "/runs/run-0000/settings")
    assert "round.deadline_s 55.0 not the default" in said
    assert "round.grace_s 0.0 not" not in said


def test_model_tells_how_to_take_it_along(told: Page) -> None:
    said = text_of(told, "/models/breast-cancer:best")
    assert "fl db export breast-cancer:6 model.safetensors" in said
    assert "conv.weight F32 16 × 9 parameter" in said


def test_model_without_its_file_says_what_is_wrong(told: Page, folder: Path) -> None:
    for file in (folder / "models").rglob("*.safetensors"):
        file.unlink()
    said = text_of(told, "/models/breast-cancer:best")
    assert "without numbers" in said
    assert "is missing" in said
    assert "conv.weight F32 16 × 9 parameter" in said


def test_array_that_would_take_too_long_is_told_without_numbers(
    told: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_BYTES", 3)
    said = text_of(told, "/models/breast-cancer:best")
    assert "without numbers its first array has " in said
    assert "too much for a page to read; `fl db stats` does" in said
    assert "conv.weight F32 16 × 9 parameter" in said


def test_busy_page_asks_for_patience_and_speaks_of_no_damage(
    told: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "WAITING", -bounds.AT_ONCE)  # as if others had all places
    said = text_of(told, "/models/breast-cancer:best")
    assert "without numbers others ask for as much already; ask again later" in said
    assert "conv.weight F32 16 × 9 parameter" in said
    said = text_of(told, "/compare?a=breast-cancer:1&b=breast-cancer:2", 503)
    assert "ask again later" in said
    assert "fl db verify" not in said


def test_model_that_is_not_stored_says_why(told: Page, folder: Path) -> None:
    with tampering(folder) as connection:
        connection.execute("UPDATE models SET is_stored = 0, not_stored_reason = 'its retention ended'")
    assert "not stored, because its retention ended" in text_of(told, "/models/breast-cancer:best")


@pytest.mark.parametrize(
    "query",
    [
        "runs/run-0000/rounds?until=-1",
        "runs/run-0000/rounds?until=x",
        "runs/run-0000/agents?after=99999999999999999999",
        "runs/run-0000/events?page=-1",
        "?page=99999999999999999999",
    ],
)
def test_numbers_that_cannot_be_are_told_on_a_page(told: Page, query: str) -> None:
    assert "Unprocessable" in text_of(told, f"/{query}", 422)


def test_places_beyond_the_end_are_empty_pages(told: Page) -> None:
    assert "No round has begun yet." in text_of(told, "/runs/run-0000/rounds?until=0")
    assert "Nothing has happened yet." in text_of(told, "/runs/run-0000/events?page=9007199254740992")
    assert "No model of this kind and round." in text_of(told, "/runs/run-0000/models?kind=x&round=99")


@pytest.mark.parametrize("path", ["/runs/lungs", "/runs/lungs/rounds", "/models/lungs:best", "/nothing"])
def test_what_there_is_not_is_told_on_a_page(told: Page, path: str) -> None:
    assert "Not Found" in text_of(told, path, 404)


def test_no_database_yet_tells_what_to_do_next(tmp_path: Path) -> None:
    with serving(create_app(tmp_path / "models")) as page:
        assert "No run yet: what to do next" in text_of(page, "/")


def test_empty_database_tells_what_to_do_next(store: ModelStore, folder: Path) -> None:
    with serving(create_app(folder)) as page:
        assert "No run yet: what to do next" in text_of(page, "/")


def test_damaged_database_names_the_command_that_tells_more(folder: Path) -> None:
    folder.mkdir()
    (folder / "fl.db").write_bytes(b"no database " * 1000)
    with serving(create_app(folder)) as page:
        assert "fl db verify" in text_of(page, "/", 503)


def test_pages_work_behind_a_prefix(store: ModelStore, folder: Path) -> None:
    Story(store, rounds=3).train()
    with serving(create_app(folder, root_path="/fl")) as page:
        for path in ("/fl/", *(f"/fl/runs/run-0000{view}" for view in VIEWS), "/fl/models/run-0000.g1"):
            links = re.findall(r'(?:href|src|action)="([^"#?]*)', page.ask(path).text)
            assert links
            assert [link for link in links if link and not link.startswith("/fl/")] == []


def test_chosen_colours_are_in_the_page_from_the_start(told: Page) -> None:
    assert '<html lang="en" data-scheme="dark">' in told.ask("/", Cookie="fl_scheme=dark").text
    assert '<html lang="en">' in told.ask("/", Cookie='fl_scheme="><script>').text
