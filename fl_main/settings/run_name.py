"""How people name a run, and how one is named that is made from another."""

from collections.abc import Callable
from itertools import count
from typing import Annotated

from pydantic import Field, StringConstraints

from fl_main.settings.base import only

_MAX_NAME = 100  # characters, of a run

RunName = Annotated[
    str,
    StringConstraints(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{_MAX_NAME - 1}}}$"),
    Field(
        json_schema_extra=only(
            f"of 1 to {_MAX_NAME} letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    ),
]


def numbered_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return NAME-2, or the first of NAME-3, NAME-4, … that no run has; of a long name, the beginning."""
    endings = (f"-{number}" for number in count(2))
    names = (name[: _MAX_NAME - len(ending)] + ending for ending in endings)
    return next(free for free in names if not is_taken(free))
