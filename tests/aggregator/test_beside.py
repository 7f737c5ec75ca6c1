"""The page beside a daemon: whatever becomes of its process, the daemon starts another, and can stop."""

import asyncio
import sys
from pathlib import Path

import pytest

from fl_main.aggregator import beside
from fl_main.aggregator.beside import WebPage
from fl_main.settings import WebSettings

PAGE = "import sys; print('http://page', flush=True); sys.stdin.read()"


def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> WebPage:
    monkeypatch.setattr(beside, "NEEDED", ())
    monkeypatch.setattr(beside, "FIRST_S", 0.01)
    return WebPage(WebSettings(), folder, insecure=False)


def test_page_that_cannot_be_started_is_tried_again_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        page = page_of(tmp_path, monkeypatch)
        page._command = [str(tmp_path / "missing")]
        page.start()
        while "could not be started" not in caplog.text:  # noqa: ASYNC110 - a log knows no events
            await asyncio.sleep(0.01)
        page._command = [sys.executable, "-c", PAGE]
        while page.url != "http://page":  # noqa: ASYNC110 - set by a line of its process
            await asyncio.sleep(0.01)
        await page.stop()
        assert page.url == ""

    asyncio.run(asyncio.wait_for(story(), 30.0))
