"""Chromium from the system's packages, watched: what a page logs, and whom it asks."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

HOW = "needs Chromium: sudo apt-get install chromium (Debian; Ubuntu: snap install chromium)"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def chromium() -> str:
    """Return where Chromium is; without it the tests of a module are skipped with one line."""
    pytest.importorskip("playwright", reason="needs Playwright: pip install -e '.[test]'")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip(HOW, allow_module_level=True)


@contextmanager
def browser(program: str) -> Iterator[Any]:
    """Start a browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def looking(found: Any, url: str, *, allow: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """Open a page; in the end it must have logged no error and asked no other host.

    Args:
        allow: Parts of errors that are meant.
        options: Of the browser's context: `color_scheme`, `viewport`, ….
    """
    context = found.new_context(reduced_motion="reduce", **options)
    wrong: list[str] = []

    def ask(route: Any) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            wrong.append(f"asked for {route.request.url}")
            route.abort()

    context.route(lambda _: True, ask)
    page = context.new_page()
    page.set_default_timeout(60_000)

    def hear(said: Any) -> None:
        if said.type in ("error", "warning"):
            wrong.append(said.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert [what for what in wrong if not any(part in what for part in allow)] == []
