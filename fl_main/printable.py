"""Text of others, fit for one line of a log, a table or an error."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # those who only look into a database do not load it
    from pydantic import ValidationError

MAX_PART = 60  # characters of each part of a place


def printable(text: str) -> str:
    """Escape what could forge a line or steer a terminal: agents name themselves as they like."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of somebody else's code says; its type if it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def first_fault(error: "ValidationError") -> str:
    """Return the place and the words of the first of pydantic's complaints, without the value."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{dotted(first['loc'])}: {first['msg']}"


def dotted(parts: Iterable[object]) -> str:
    """Return where in a message something is; names of others are cut, so that what follows is read."""
    return ".".join(text if len(text := str(part)) <= MAX_PART else f"{text[:MAX_PART]}…" for part in parts)
