"""Tests of what makes words of others fit for one line."""

import pytest
from pydantic import ValidationError

from fl_main.messages import Leave
from fl_main.printable import first_fault, first_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Zürich 1", "Zürich 1"), ("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("", "")],
    ids=["plain", "line", "escape", "empty"],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (EOFError(), "EOFError"), (ValueError("\n"), "ValueError")],
)
def test_an_error_of_others_is_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_first_fault_of_a_message_names_its_place_and_not_its_value() -> None:
    with pytest.raises(ValidationError) as found:
        Leave(reason=7)  # type: ignore[arg-type]
    assert first_fault(found.value) == "reason: Input should be a valid string"
