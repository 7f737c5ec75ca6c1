"""How the page shows values: numbers, bytes, times and the names that others chose."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fl_main.printable import printable

NONE = "–"  # an en dash, where there is no value
_PREFIXES = ("", "k", "M", "G", "T", "P")
_LONGEST = 200  # characters of a name or reason that a page shows


def text(value: object) -> str:
    """Return the text of others without what would steer a reader's eye: controls, RTL marks."""
    shown = printable(str(value))
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in so many significant digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == int(value) and abs(value) < 1e15:
        return whole(int(value))
    least = 10.0 ** -(digits + 1)
    shown = f"{value:.{digits - 1}e}" if abs(value) < least or abs(value) >= 1e9 else f"{value:.{digits}g}"
    return shown.replace("-", "−", 1) if value < 0 else shown


def whole(value: int | None) -> str:
    """Return a whole number with thin spaces between its thousands: no language reads them as a point."""
    return NONE if value is None else f"{value:,}".replace(",", "\u202f").replace("-", "−")


def size(value: float | None) -> str:
    """Return bytes in their unit, of 1,000 each: `1.2 MB`."""
    if value is None:
        return NONE
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value /= 1000
        power += 1
    shown = (
        f"{value:.0f}" if power == 0 or value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
    )
    return f"{shown} {_PREFIXES[power]}B"


def duration(seconds: float | None) -> str:
    """Return seconds in the two largest units that say something: `3 min 20 s`."""
    if seconds is None:
        return NONE
    if seconds == 0:
        return "0 s"
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count)


def moment(at: float | None) -> str:
    """Return a wall time in UTC, to the second."""
    return NONE if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def machine_moment(at: float) -> str:
    """Return a wall time as HTML's `time` wants it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def percent(part: float | None) -> str:
    """Return a part of one in per cent."""
    return NONE if part is None else f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"


def count(value: int, one: str, many: str = "") -> str:
    """Return so many of a thing: `1 agent`, `2 agents`."""
    return f"{whole(value)} {one if value == 1 else many or one + 's'}"


def shape(value: tuple[int, ...]) -> str:
    """Return an array's shape: `3 × 4`."""
    return " × ".join(map(str, value)) or "scalar"


def flat(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping, with points between the keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            found.update(flat(value, name))
        else:
            found[name] = value
    return found


FILTERS = {
    "name": text,
    "number": number,
    "whole": whole,
    "size": size,
    "duration": duration,
    "moment": moment,
    "machine_moment": machine_moment,
    "percent": percent,
    "count": count,
    "shape": shape,
}
