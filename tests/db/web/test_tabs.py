"""Several tabs of a browser share its six connections to the page: one that nobody looks at holds none."""

from typing import Any

from tests.db.web import browser
from tests.db.web.serving import Page

PROGRAM = browser.chromium()

# As a browser with a window tells a tab that is covered by another one.
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def listeners(page: Page, number: int, tab: Any) -> None:
    """Wait until so many listen to what moves."""
    changes = page.server.app.state.changes
    while changes.listeners != number:
        tab.wait_for_timeout(10)


def test_a_hidden_tab_stops_listening_and_goes_on_when_it_is_seen(page: Page) -> None:
    with (
        browser.browser(PROGRAM) as found,
        browser.looking(found, f"http://127.0.0.1:{page.port}/runs/hearts") as tab,
    ):
        listeners(page, 1, tab)
        tab.evaluate(HIDE, True)
        listeners(page, 0, tab)
        tab.evaluate(HIDE, False)
        listeners(page, 1, tab)
        tab.get_by_text("Live", exact=True).wait_for()
