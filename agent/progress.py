"""One line of status where a person looks: on a terminal or in a notebook."""

import logging
import shutil
import sys
import weakref
from typing import TextIO

from fl_main.printable import printable

_LINES: "weakref.WeakSet[StatusLine]" = weakref.WeakSet()


class StatusLine:
    """A line that is written over and over.

    Args:
        title: What it begins with.
        is_on: Whether to show it at all; it stays silent anyway where nobody looks.
    """

    def __init__(self, title: str, *, is_on: bool = True) -> None:
        self._title = title
        self._stream = _stream() if is_on else None
        self._shown = 0
        _LINES.add(self)

    def show(self, text: str) -> None:
        """Show a new text in place of the last."""
        if self._stream is None:
            return
        width = shutil.get_terminal_size().columns - 1
        line = printable(f"{self._title} · {text}")[:width]  # the aggregator said a part of it
        self._print("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def clear(self) -> None:
        """Take the line away for what is printed next; the next text shows it again."""
        if self._stream is not None and self._shown:
            self._print("\r" + " " * self._shown + "\r")
            self._shown = 0

    def end(self) -> None:
        """Leave the last text standing and go to the next line."""
        if self._stream is not None and self._shown:
            self._print("\n")
            self._shown = 0

    def _print(self, text: str) -> None:
        """Print, while there is somebody to see it: a terminal that hung up must not end the agent."""
        try:
            print(text, end="", file=self._stream, flush=True)
        except (OSError, ValueError):  # ValueError: the program closed it
            self._stream = None


def make_way(record: logging.LogRecord) -> bool:
    """Clear the status lines before a log line: a filter for the handlers of a program of ours."""
    for line in list(_LINES):
        line.clear()
    return True


def _stream() -> TextIO | None:
    if "ipykernel" in sys.modules:  # a notebook shows stderr in red
        return sys.stdout
    return sys.stderr if sys.stderr and sys.stderr.isatty() else None
