"""The page as people see it: in Chromium, over a database that is told as a story."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_main.db import ModelStore
from fl_main.db.web import run_pages
from fl_main.db.web.access import Access
from fl_main.db.web.app import create_app
from tests.db.web import browser, story
from tests.db.web.serving import serving
from tests.db.web.story import Story

PROGRAM = browser.chromium()

pytestmark = pytest.mark.timeout(300)  # a browser needs more than most tests, where much else runs

# Names as strangers may choose them: markup, a right-to-left override, 200 letters without a space.
HOSTILE = "<script>alert(1)</script>\u202e" + "x" * 170
AGENTS = ("<img src=x onerror=alert(1)>", "\u202egnirts", "y" * 200, "'; --")

VIEWS = ("", "/rounds", "/agents", "/models", "/lineage", "/events", "/settings")
PAGES = [
    "/",
    *(f"/runs/run-0000{view}" for view in VIEWS),
    "/models/run-0000.g3",
    "/models/run-0000.t3.0.weights",
    "/compare",
    "/compare?a=breast-cancer&b=lungs",
    "/compare?a=breast-cancer:1&b=lungs:2",
    "/compare?a=nothing&b=lungs",
    "/runs/nothing",
    "/api/",
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


@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_use_it(chromium: Any, site: str, path: str) -> None:
    with browser.looking(chromium, site + path, allow=("404",) if "nothing" in path else ()) as page:
        page.wait_for_load_state("load")
        assert page.locator("h1").count() == 1
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert violations(page) == [], scheme
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("path", HOSTILE_PAGES)
def test_hostile_names_are_text_and_fit_on_a_phone(chromium: Any, site: str, path: str) -> None:
    with browser.looking(chromium, site + path, viewport=PHONE) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a name was run: {dialog.message}"))
        page.wait_for_load_state("load")
        assert page.locator("main img, main script").count() == 0
        assert "\u202e" not in page.content()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_curves_are_drawn_and_read_by_keys(chromium: Any, site: str) -> None:
    with browser.looking(chromium, f"{site}/runs/run-0000") as page:
        chart = page.locator("figure").first
        chart.locator("canvas").wait_for()
        assert chart.get_by_role("checkbox").count() == 1 + len(story.AGENTS)
        mean = chart.get_by_role("checkbox", name="mean")
        mean.focus()
        page.keyboard.press("Space")
        assert not mean.is_checked()
        chart.locator(".u-over").hover()
        reading = chart.locator("[data-reading]").inner_text()
        assert reading.startswith("Round ")
        assert "charite 0." in reading
        assert "mean" not in reading


def test_a_part_of_many_rounds_is_chosen_by_keys(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with ModelStore(folder) as store, serving(create_app(folder)) as server:
        watched_run = Story(store, rounds=50, names=story.AGENTS[:4]).train(41)
        with browser.looking(chromium, f"http://127.0.0.1:{server.port}/runs/run-0000") as page:
            figure = page.locator("figure").first
            figure.get_by_label("Show").select_option("last half")
            drawn = figure.locator(".u-over")
            drawn.hover(position={"x": 1, "y": 50})
            assert figure.locator("[data-reading]").inner_text().startswith("Round 21: mean ")
            watched_run.round()
            figure.locator("th", has_text="42").wait_for(state="attached")
            page.locator("[data-version^='42.']").first.wait_for()
            drawn.hover(position={"x": 300, "y": 50})
            drawn.hover(position={"x": 1, "y": 50})
            assert figure.locator("[data-reading]").inner_text().startswith("Round 21: mean ")


def test_heat_map_tells_the_outlier_in_words_and_by_keys(chromium: Any, site: str) -> None:
    with browser.looking(chromium, f"{site}/runs/run-0000/agents") as page:
        page.get_by_text("Outliers: uni-lab in 6 of 6 rounds.").wait_for()
        page.locator("canvas").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("[data-reading]").inner_text().startswith("uni-lab, round 6: distance ")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowLeft")
        said = page.locator("[data-reading]").inner_text()
        assert ", round 5: distance " in said
        assert "outlier" not in said
        page.get_by_label("Measure").select_option("seconds")
        page.locator("canvas[aria-label^=seconds]").wait_for()
        page.get_by_text("As a table").click()
        assert page.locator("[data-heat-table] tbody tr").count() == len(story.AGENTS)


def test_lineage_can_be_clicked_through(chromium: Any, site: str) -> None:
    with browser.looking(chromium, f"{site}/models/run-0000.g3") as page:
        page.locator("svg.drawing a", has_text="uni-lab").first.click()
        assert page.locator("h1").inner_text() == "Update of uni-lab, round 3"
        page.locator("svg.drawing a.global", has_text="round 2").click()
        assert page.locator("h1").inner_text() == "Global model of round 2"


def test_colours_are_switched_and_stay(chromium: Any, site: str) -> None:
    with browser.looking(chromium, f"{site}/", color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(246, 247, 249)"
        page.get_by_role("button", name="Dark colours").click()
        assert page.evaluate(ground) == "rgb(15, 19, 25)"
        page.goto(f"{site}/compare")
        assert page.evaluate(ground) == "rgb(15, 19, 25)"
        assert page.get_by_role("button", name="Light colours").is_visible()


def wait_for_charts(page: Any) -> None:
    for figure in page.locator("figure").all():
        figure.get_by_role("checkbox").first.wait_for()


def test_keyboard_reaches_everything(chromium: Any, site: str) -> None:
    with browser.looking(chromium, f"{site}/runs/run-0000") as page:
        wait_for_charts(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.goto(f"{site}/runs/run-0000")
        wait_for_charts(page)
        expected = page.evaluate(REACHABLE)
        reached = set()
        for _ in range(expected):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
        assert len(reached - {"unseen"}) == expected


REACHABLE = """
    [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
        .filter((element) => element.checkVisibility()).length
"""
# What has the focus, if one sees that it has.
FOCUSED = """
    (() => {
        const element = document.activeElement;
        element.dataset.reached ??= String(Math.random());
        return getComputedStyle(element).outlineStyle === "none" ? "unseen" : element.dataset.reached;
    })()
"""


def test_a_run_is_watched_live_from_start_to_end(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with serving(create_app(folder)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with browser.looking(chromium, f"{url}/", allow=("503",)) as page:
            page.get_by_text("No run yet: what to do next").wait_for()
            with ModelStore(folder) as store:
                watched_run = Story(store, rounds=3)
                watched_run.begin()
                page.get_by_role("link", name="breast-cancer").click()
                page.get_by_text("0 of 3 rounds done, waiting").wait_for()
                page.get_by_text("Live", exact=True).wait_for()
                for number in (1, 2, 3):
                    watched_run.ask()
                    page.get_by_text(f"Round {number} of 3: 0 of 6 updates here").wait_for()
                    for done, name in enumerate(story.AGENTS, 1):
                        watched_run.answer(name)
                        if number == 1 and done == 3:
                            page.get_by_text("Round 1 of 3: 3 of 6 updates here").wait_for()
                    watched_run.publish()
                page.get_by_text("Finished: 3 rounds").wait_for()
                page.locator("canvas").first.wait_for()
                page.get_by_text("0.7415 → 0.8516 over 3 rounds").wait_for()


def test_a_change_leaves_focus_scrolling_and_what_is_open(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with ModelStore(folder) as store, serving(create_app(folder)) as server:
        watched_run = Story(store, rounds=9).train(3)
        url = f"http://127.0.0.1:{server.port}/runs/run-0000"
        with browser.looking(chromium, url, viewport={"width": 800, "height": 500}) as page:
            page.get_by_text("Live", exact=True).wait_for()
            figure = page.locator("figure").first
            figure.locator("canvas").wait_for()
            figure.get_by_text("As a table").click()
            box = figure.get_by_role("checkbox", name="charite")
            box.uncheck()
            box.focus()
            page.evaluate("window.scrollTo(0, 333); document.querySelector('canvas').dataset.same = 'yes'")
            watched_run.round()
            page.get_by_text("4 of 9 rounds done").wait_for()
            page.locator("td", has_text="0.8558").first.wait_for()
            assert page.evaluate("window.scrollY") == 333
            assert figure.locator("details").evaluate("element => element.open")
            assert not box.is_checked()
            assert box.evaluate("element => element === document.activeElement")
            assert figure.locator("canvas").get_attribute("data-same") == "yes"


def test_a_lost_connection_is_shown_and_comes_back(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with ModelStore(folder) as store:
        Story(store, rounds=2).train()
    lost = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "503")
    with contextlib.ExitStack() as first:
        server = first.enter_context(serving(create_app(folder)))
        with browser.looking(chromium, f"http://127.0.0.1:{server.port}/", allow=lost) as page:
            page.get_by_text("Live", exact=True).wait_for()
            first.close()
            page.get_by_text("Connection lost, trying again").wait_for()
            with serving(create_app(folder), server.port):
                page.get_by_text("Live", exact=True).wait_for()


def test_a_link_on_another_site_leads_in(chromium: Any, tmp_path: Path) -> None:
    app = create_app(tmp_path / "models", access=Access("a word"))
    with serving(app) as server, browser.looking(chromium, "about:blank") as page:
        own = f"http://127.0.0.1:{server.port}/"  # to a browser another site than localhost
        links = f"<a href='{own}?token=a+word'>with it</a> <a href='{own}'>without it</a>"
        page.route("http://localhost/", lambda route: route.fulfill(content_type="text/html", body=links))
        for link in ("with it", "without it"):
            page.goto("http://localhost/")
            page.get_by_role("link", name=link).click()
            page.get_by_text("No run yet: what to do next").wait_for()


def test_an_answer_of_a_server_in_front_does_not_end_it(chromium: Any, site: str) -> None:
    with browser.looking(chromium, "about:blank", allow=("502",)) as page:
        page.route("**/api/changes", lambda route: route.fulfill(status=502))  # as nginx's during a restart
        page.goto(f"{site}/")
        page.get_by_text("Connection lost, trying again").wait_for()
        page.unroute("**/api/changes")
        page.get_by_text("Live", exact=True).wait_for()


def test_a_change_that_could_not_be_fetched_is_fetched_again(chromium: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with ModelStore(folder) as store, serving(create_app(folder)) as server:
        watched_run = Story(store, rounds=9).train(3)
        url = f"http://127.0.0.1:{server.port}/runs/run-0000"
        with browser.looking(chromium, url, allow=("503",)) as page:
            page.get_by_text("Live", exact=True).wait_for()
            drawn = page.locator("figure").first.locator("canvas")
            drawn.wait_for()
            page.route("**/curves?*", lambda route: route.fulfill(status=503))
            with page.expect_response(lambda answer: answer.status == 503):
                watched_run.round()
            page.get_by_text("4 of 9 rounds done").wait_for()
            assert drawn.count() == 1  # the curve of before stays until then
            with page.expect_response(lambda answer: "/curves?" in answer.url and answer.ok):
                page.unroute("**/curves?*")
            assert drawn.count() == 1


def test_damaged_and_empty_databases_have_a_page(chromium: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "fl.db").write_bytes(b"no database " * 1000)
    for folder, title in ((damaged, "Service Unavailable"), (tmp_path / "empty", "Runs")):
        with serving(create_app(folder)) as server:
            look = browser.looking(chromium, f"http://127.0.0.1:{server.port}/", allow=("503",))
            with look as page:
                assert page.locator("h1").inner_text() == title
                assert violations(page) == []


# What the JSON API would answer, had it a thousand agents.
ANSWERS = """
    const numbers = [...Array(1000).keys()];
    const agents = numbers.map((i) => `agent ${i}`);
    const heat = { measure: "distance", measures: ["distance"], missing: {}, agents, HEAT };
    const ask = window.fetch;
    window.fetch = (url, ...more) =>
        String(url).includes("/heat?") ? Promise.resolve(Response.json(heat)) : ask(url, ...more);
"""
THOUSANDS = """
    rounds: numbers.map((j) => j + 1),
    values: numbers.map((i) => numbers.map((j) => (17 * i + j) % 101)),
    outliers: numbers.map((j) => [7, j]),
"""
ONE_IS_FAR = "rounds: [1], values: numbers.map((i) => [i === 500 ? 1 : 0]), outliers: []"


def test_a_thousand_agents_and_rounds_do_not_freeze_a_heat_map(chromium: Any, site: str) -> None:
    with browser.looking(chromium, "about:blank") as page:
        page.add_init_script(ANSWERS.replace("HEAT", THOUSANDS))
        page.goto(f"{site}/runs/run-0000/agents")
        page.get_by_text("1000 agents, 1000 rounds. Outliers: agent 7 in 1000 of 1000 rounds.").wait_for()
        canvas = page.locator("canvas")
        canvas.hover(position={"x": 500, "y": 24})
        assert page.locator("[data-reading]").inner_text().startswith("agent 7, round ")
        assert canvas.bounding_box()["height"] == 22 + 3 * 1000  # three pixels each


def test_rows_of_a_heat_map_are_beside_their_names_on_a_scaled_screen(chromium: Any, site: str) -> None:
    scaled: dict[str, Any] = {"device_scale_factor": 1.5, "color_scheme": "light"}
    with browser.looking(chromium, "about:blank", **scaled) as page:
        page.add_init_script(ANSWERS.replace("HEAT", ONE_IS_FAR))
        page.goto(f"{site}/runs/run-0000/agents")
        page.get_by_text("1000 agents, 1 rounds. No outlier.").wait_for()
        page.locator("#order").select_option("joined")
        of_500 = round(1.5 * (22 + 3 * 500 + 1.5))  # the middle of its row, in pixels of the screen
        pen = "document.querySelector('canvas').getContext('2d')"
        found = page.evaluate(f"y => [...{pen}.getImageData(900, y, 1, 1).data]", of_500)
        assert found == [0x1D, 0x5F, 0xBF, 0xFF]  # --accent, the shade of what is largest


# What docs/web.md shows: file, path, size of the window, colours, what must be there first.
FIGURES = [
    ("page-runs", "/", (1040, 560), "light", "svg.spark"),
    ("page-run", "/runs/run-0000", (1040, 1010), "light", "figure canvas"),
    ("page-rounds", "/runs/run-0001/rounds", (1040, 700), "dark", "svg.drawing"),
    ("page-agents", "/runs/run-0000/agents", (1040, 640), "light", "canvas[aria-label]"),
    ("page-model", "/models/breast-cancer:best", (1040, 1060), "light", "svg.drawing"),
    ("page-phone", "/runs/run-0001", (360, 700), "dark", "figure canvas"),
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over what the figures show."""
    folder = Path("models")  # as most people have it
    with contextlib.chdir(tmp_path_factory.mktemp("shown")), ModelStore(folder) as store:
        Story(store, "skin", 8, story.AGENTS[:4], seed=2).train()
        Story(store, "retina", 15, seed=3).train(5)
        Story(store, rounds=12).train()
        under_way = Story(store, "lungs", 20, seed=1).train(7)
        under_way.ask()
        for name in ("st-mary", "karolinska"):
            under_way.answer(name)
        with pytest.MonkeyPatch.context() as patch, serving(create_app(folder)) as page:
            patch.setattr(run_pages, "wall_time", lambda: story.STARTED_AT + 600.0)  # it goes on
            yield f"http://127.0.0.1:{page.port}"


@pytest.mark.parametrize(
    ("file", "path", "size", "scheme", "there"), FIGURES, ids=[each[0] for each in FIGURES]
)
def test_figures_of_the_docs(
    chromium: Any,
    shown: str,
    tmp_path: Path,
    file: str,
    path: str,
    size: tuple[int, int],
    scheme: str,
    there: str,
) -> None:
    """`make page-figures` has them written into docs/figures."""
    folder = Path(os.environ.get("FL_PAGE_FIGURES", tmp_path))
    window = {"width": size[0], "height": size[1]}
    with browser.looking(chromium, shown + path, viewport=window, color_scheme=scheme) as page:
        page.locator(there).first.wait_for()
        page.get_by_text("Live", exact=True).wait_for()
        picture = folder / f"{file}.png"
        page.screenshot(path=picture, animations="disabled")
    assert 5_000 < picture.stat().st_size < 200_000
