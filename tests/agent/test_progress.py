"""The line of status is for people, and never an agent's trouble."""

import io

import pytest

from fl_main.agent import progress
from fl_main.agent.progress import StatusLine


class Terminal(io.StringIO):
    """A terminal that may hang up."""

    has_hung_up = False

    def write(self, text: str) -> int:
        if self.has_hung_up:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(progress, "_stream", lambda: made)
    return made


def test_line_is_written_over(terminal: Terminal) -> None:
    line = StatusLine("a")
    line.show("waiting for a task")
    line.show("round 1")
    line.end()
    assert terminal.getvalue() == "\ra · waiting for a task\ra · round 1" + " " * 11 + "\n"


def test_aggregator_cannot_steer_the_terminal(terminal: Terminal) -> None:
    StatusLine("a").show("waiting for\n\x1b[2J")
    assert terminal.getvalue() == "\ra · waiting for\\n\\x1b[2J"


def test_terminal_that_hung_up_is_left_alone(terminal: Terminal) -> None:
    line = StatusLine("a")
    line.show("waiting for a task")
    terminal.has_hung_up = True
    line.show("round 1")
    terminal.has_hung_up = False
    line.show("round 2")
    line.end()
    assert terminal.getvalue() == "\ra · waiting for a task"
