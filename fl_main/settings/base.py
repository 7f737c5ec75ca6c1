"""What all settings are made of: sections, and the values that several of them take."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fl_main.steps import MAX_STEPS, stated_steps
from fl_main.where import condition


def only(words: str) -> dict[str, Any]:
    """Say a pattern in words: for our errors, and under the name that editors look for."""
    return {"patternErrorMessage": words}


def _with_plain_values(mapping: dict[str, Any]) -> dict[str, Any]:
    """Let only that pass which is the same after a way through JSON, msgpack and the database."""
    _check_plain(mapping, "")
    return mapping


def _check_plain(value: object, place: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{place or 'it'} has the key {name!r}, which is not text")
            _check_plain(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{place}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which is not a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{place} is a whole number of more than 64 bits")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{place} is of type {type(value).__name__}: only text, numbers, true, false, null, "
            "lists and mappings of such are allowed"
        )


Fraction = Annotated[float, Field(gt=0, le=1)]
Options = Annotated[dict[str, Any], AfterValidator(_with_plain_values)]

Step = str | Annotated[dict[str, Options], Field(min_length=1, max_length=1)]
Steps = Annotated[
    str | Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)], BeforeValidator(stated_steps)
]


def _is_condition(text: str) -> str:
    condition(text)
    return text


Condition = Annotated[str, AfterValidator(_is_condition)]


class Section(BaseModel):
    """Base of all settings: an unknown key is an error, nothing changes after reading.

    A number is finite: an endless deadline would let a round hang in silence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
