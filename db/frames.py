"""Records as a table of pandas or polars, whichever is installed; neither is needed for anything else.

from fl_main.db import ModelDB, to_frame
to_frame(ModelDB("models").run("hearts").rounds())
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any, Literal

from fl_main.errors import MissingExtraError

from .insight.curves import Curve
from .insight.heat import Heat

Library = Literal["pandas", "polars"]


def to_frame(records: Iterable[Any] | Heat, library: Library | None = None) -> Any:
    """Return records as a `pandas.DataFrame`, or a `polars.DataFrame`.

    There is a row for each record and a column for each field. What has names within goes into columns
    `field.name` (a round's `train.loss.value`), so does the settings' `round.deadline_s`; lists stay
    lists. `Curve`s become a row for each round and line (`agent` is empty for the mean), a `Heat` one for
    each agent and round.

    Args:
        records: Of one type, as `Run.rounds()`, `Run.updates()` or `Run.curves()` return; or `Run.heat()`.
        library: Which one; None: pandas, if it is installed, else polars.

    Raises:
        MissingExtraError: If it is not installed; without a choice, if neither is.
    """
    rows = [row for record in ([records] if isinstance(records, Heat) else records) for row in _rows(record)]
    names = dict.fromkeys(name for row in rows for name in row)
    return _library(library).DataFrame({name: [row.get(name) for row in rows] for name in names})


def _library(wanted: Library | None) -> Any:
    for name in (wanted,) if wanted else ("pandas", "polars"):
        try:
            return import_module(name)
        except ImportError:
            continue
    if wanted:
        raise MissingExtraError(f"{wanted} is not installed: pip install {wanted}")
    raise MissingExtraError("a frame needs pandas or polars: pip install pandas")


def _rows(record: Any) -> Iterator[dict[str, Any]]:
    if isinstance(record, Curve):
        yield from _of_curve(record)
    elif isinstance(record, Heat):
        yield from _of_heat(record)
    else:
        yield dict(_flat("", record))


def _of_curve(curve: Curve) -> Iterator[dict[str, Any]]:
    lines = {"": curve.mean, **(curve.agents or {}), **(curve.quantiles or {})}
    for name, line in lines.items():
        for round_id, value in zip(curve.rounds, line, strict=True):
            where = {"source": curve.source, "name": curve.name, "agent": name}
            yield {**where, "round_id": round_id, "value": value}


def _of_heat(heat: Heat) -> Iterator[dict[str, Any]]:
    odd = set(heat.outliers)
    for row, agent in enumerate(heat.agents):
        for column, round_id in enumerate(heat.rounds):
            value, is_outlier = heat.values[row][column], (row, column) in odd
            yield {"agent": agent, "round_id": round_id, heat.measure: value, "outlier": is_outlier}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield values by the names of their columns."""
    if is_dataclass(value):
        for field in fields(value):
            if not field.name.startswith("_"):
                yield from _flat(f"{name}.{field.name}" if name else field.name, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, _simple(value)


def _simple(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return [_simple(inner) for inner in value] if isinstance(value, tuple | list) else value
