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
    if _is_number(value) and 0 < value <= most:  # type: ignore[operator] # it is a number
        return float(value)  # type: ignore[arg-type]
    limit = f", at most {most:g}" if math.isfinite(most) else ""
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a number above 0{limit}")


def not_negative(name: str, value: object) -> float:
    """Return an option that is a finite number of at least 0.

    Raises:
        SettingsError: If it is none.
    """
    if _is_number(value) and value >= 0:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a number of at least 0")


def ratio(name: str, value: object) -> float:
    """Return an option that is a number of at least 0 and less than 1.

    Raises:
        SettingsError: If it is none.
    """
    if _is_number(value) and 0 <= value < 1:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a number of at least 0, below 1")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse an option that is none of the words allowed.

    Raises:
        SettingsError: If it is none.
    """
    if value not in allowed:
        raise SettingsError(
            f"strategy_options.{name}: {value!r} is not {', '.join(allowed[:-1])} or {allowed[-1]}"
        )


def whole(name: str, value: object, least: int) -> int:
    """Return an option that is a whole number of at least `least`.

    Raises:
        SettingsError: If it is none.
    """
    if type(value) is int and value >= least:
        return value
    raise SettingsError(f"strategy_options.{name}: {value!r} is not a whole number of at least {least}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
