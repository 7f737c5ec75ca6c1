"""Checks of the numbers that strategies take as options."""

import math

from fl_main.errors import SettingsError


def positive(name: str, value: object, most: float = math.inf) -> float:
    """Return an option that is a finite number of more than 0.

    Args:
        name: Of the option, for the error.
        value: As given.
        most: The largest value that is allowed.

    Raises:
        SettingsError: If it is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= most and math.isfinite(value):  # type: ignore[operator, arg-type]
        return float(value)  # type: ignore[arg-type]
    limit = f", at most {most:g}" if math.isfinite(most) else ""
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a number above 0{limit}")


def whole(name: str, value: object, least: int) -> int:
    """Return an option that is a whole number of at least `least`.

    Raises:
        SettingsError: If it is none.
    """
    if type(value) is int and value >= least:
        return value
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a whole number of at least {least}")


def not_negative(name: str, value: object) -> float:
    """Return an option that is a finite number of at least 0.

    Raises:
        SettingsError: If it is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a number of at least 0")
