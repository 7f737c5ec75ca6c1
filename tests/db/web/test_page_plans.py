"""No page reads through a table that grows: each question is answered by way of an index."""

from pathlib import Path

from fl_main.db import ModelStore
from fl_main.db.web.app import create_app
from tests.db.test_plans import Asked, asked, scans
from tests.db.web.serving import serving
from tests.db.web.story import Story
from tests.db.web.test_pages import VIEWS

__all__ = ["asked"]  # a fixture

PATHS = [
    *("/", "/?q=breast", "/runs/run-0000/rounds?until=2", "/runs/run-0000/events?page=1"),
    *(f"/runs/run-0000{view}" for view in VIEWS),
    *("/models/breast-cancer:best", "/models/run-0000.t2.0.weights"),
    *("/compare?a=breast-cancer&b=breast-cancer", "/compare?a=breast-cancer:1&b=breast-cancer:2"),
]


def test_pages(store: ModelStore, folder: Path, asked: Asked) -> None:
    story = Story(store, rounds=4).train(3)
    story.ask()
    with serving(create_app(folder)) as page:
        for path in PATHS:
            asked.clear()
            assert page.ask(path).status == 200, path
            assert asked, path
            assert list(scans(folder, asked)) == [], path
