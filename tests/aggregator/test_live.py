"""The live view: what a person at the daemon's terminal sees."""

import logging
import os
import pty
import sys
import termios
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from fl_main.aggregator import live
from fl_main.aggregator.live import LINES, LiveView, _LineHandler


def test_what_a_thread_logs_while_the_view_is_drawn_does_not_end_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = LiveView()
    handler = _LineHandler(view._lines)
    record = logging.LogRecord("fl_main", logging.INFO, "", 0, "a line", (), None)
    for _ in range(LINES):
        handler.emit(record)

    def while_another_thread_logs(text: str) -> str:
        handler.emit(record)
        return text

    monkeypatch.setattr(live, "printable", while_another_thread_logs)
    daemon = SimpleNamespace(url="ws://here", runs=[], door=SimpleNamespace(sessions={}))
    view._daemon = cast("Any", daemon)
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(view._render())
    assert drawn.get().count("a line") == LINES


def test_terminal_that_was_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    daemon = cast("Any", SimpleNamespace(url="ws://here", runs=[], door=SimpleNamespace(sessions={})))
    with open(slave, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with LiveView().shown(daemon) as draw:
            os.read(master, 1 << 16)
            termios.tcflow(terminal.fileno(), termios.TCOOFF)  # as Ctrl-S does
            draw()
            termios.tcflow(terminal.fileno(), termios.TCOON)
            draw()
            assert b"ws://here" in os.read(master, 1 << 16)
    os.close(master)
