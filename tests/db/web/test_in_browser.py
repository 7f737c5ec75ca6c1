"""The page as people see it: in Chromium, over a database that is told as a story."""

from collections.abc import Iterator
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.db.web.app import create_app
from tests.db.web import browser
from tests.db.web.serving import serving
from tests.db.web.story import Story

PROGRAM = browser.chromium()

# Names as strangers may choose them: markup, a right-to-left override, 200 letters without a space.
HOSTILE = "<script>alert(1)</script>\u202e" + "x" * 170
AGENTS = ("<img src=x onerror=alert(1)>", "\u202egnirts", "y" * 200, "'; --")

VIEWS = ("", "/rounds", "/agents", "/models", "/lineage", "/events", "/settings")
PAGES = [
    "/",
    *(f"/runs/run-0000{view}" for view in VIEWS),
    "/models/run-0000.g3",
    "/models/run-0000.t3.0.weights",
]
HOSTILE_PAGES = ["/", *(f"/runs/run-0009{view}" for view in VIEWS), "/models/run-0009.t2.0.weights"]
PHONE = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.browser(PROGRAM) as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over three runs: one that is over, one under way, one with hostile names."""
    folder = tmp_path_factory.mktemp("web") / "models"
    with ModelStore(folder) as store:
        Story(store, rounds=6).train()
        under_way = Story(store, "lungs", 10, seed=1).train(3)
        under_way.ask()
        under_way.answer("st-mary")
        Story(store, HOSTILE, 4, AGENTS, seed=9).train(2)
        with serving(create_app(folder)) as page:
            yield f"http://127.0.0.1:{page.port}"


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page, one line for each element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_use_it(chromium: Any, site: str, path: str, scheme: str) -> None:
    with browser.looking(chromium, site + path, allow=("404",), color_scheme=scheme) as page:
        page.wait_for_load_state("load")
        assert page.locator("h1").count() == 1
        for details in page.locator("details").all():
            details.evaluate("element => { element.open = true; }")
        assert violations(page) == []


@pytest.mark.parametrize("path", HOSTILE_PAGES)
def test_hostile_names_are_text_and_fit_on_a_phone(chromium: Any, site: str, path: str) -> None:
    with browser.looking(chromium, site + path, allow=("404",), viewport=PHONE) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a name was run: {dialog.message}"))
        page.wait_for_load_state("load")
        assert page.locator("main img, main script").count() == 0
        assert "\u202e" not in page.content()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_scrolls_sideways_on_a_phone_but_tables(chromium: Any, site: str, path: str) -> None:
    with browser.looking(chromium, site + path, allow=("404",), viewport=PHONE) as page:
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
