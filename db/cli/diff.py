"""`fl db diff`: how two models, or two runs, differ."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from fl_main.console import Output, output_options, print_table

from ..model_db import ModelDB
from ..runs_and_models import Model
from .common import print_json, print_section, when, with_database, words_of

if TYPE_CHECKING:  # runs are compared without numpy
    from ..insight.comparison import Comparison, Line, MetricLine
    from ..insight.difference import ArrayDifference


@click.command()
@click.argument("first", metavar="MODEL|RUN")
@click.argument("second", metavar="MODEL|RUN")
@click.option("--array", "patterns", multiple=True, help="Only arrays of this name; * is anything.")
@click.option("--changed", is_flag=True, help="Only arrays that are not equal.")
@output_options
@with_database
def diff(
    database: ModelDB,
    first: str,
    second: str,
    patterns: tuple[str, ...],
    changed: bool,
    output: Output | None,
) -> None:
    """Show what the second model has and the first one has not; or two runs side by side.

    Of models, for each array: the L2 norm of the difference, also relative to the norm of the first
    one's; the cosine of both; the largest change of a value, and where in the array it is; how many
    values differ. Deltas are taken with their bases, and what is encoded is decoded.
    Of runs: the settings that differ, and what came of each.
    """
    runs = [database.find_run(name) for name in (first, second)]
    if runs[0] is not None and runs[1] is not None:
        _print_runs(runs[0].compare(runs[1]), output)
    else:
        _diff_models(database, first, second, patterns, changed, output)


# --- models -------------------------------------------------------------------------------------


def _diff_models(
    database: ModelDB,
    first: str,
    second: str,
    patterns: tuple[str, ...],
    changed: bool,
    output: Output | None,
) -> None:
    from ..insight.difference import ArrayDifference, total

    models = database.model(first), database.model(second)
    found = models[0].difference(models[1])
    overall = total(found)
    chosen = [
        entry
        for entry in found
        if (not patterns or any(fnmatchcase(entry.name, pattern) for pattern in patterns))
        and (not changed or entry.mismatch or entry.changed)
    ]
    if output == "json":
        facts = {"first": models[0].model_id, "second": models[1].model_id, "parameters": asdict(overall)}
        print_json({**facts, "arrays": [asdict(entry) for entry in chosen]})
    elif output == "csv":
        print_table([asdict(entry) for entry in chosen], list(ArrayDifference.__dataclass_fields__), output)
    else:
        _print_models(models, chosen, overall)


_COLUMNS = {
    **{name: name for name in ("name", "role", "shape", "l2", "relative", "cosine")},
    **{"largest": "largest change", "at": "at", "changed": "changed"},
    **{"not_finite": "not finite", "mismatch": "does not match"},
}


def _print_models(
    models: tuple[Model, Model], found: "list[ArrayDifference]", overall: "ArrayDifference"
) -> None:
    for word, model in zip(("first", "second"), models, strict=True):
        click.echo(f"{word:6}  {model.model_id}  {words_of(model)}")
    if models[0].digest == models[1].digest and models[0].base_id == models[1].base_id:
        click.echo("both are one file")
    click.echo("")
    rows = [_row(entry) for entry in found]
    if overall.norm or overall.other_norm:
        rows.append(
            {**_row(overall), "name": "all float parameters", "role": None, "shape": None, "at": None}
        )
    never = [name for name in ("not_finite", "mismatch") if not any(row[name] for row in rows)]
    print_table(rows, {name: words for name, words in _COLUMNS.items() if name not in never})


def _row(entry: "ArrayDifference") -> dict[str, object]:
    return {
        **asdict(entry),
        "shape": "×".join(map(str, entry.shape)) or "scalar",
        "at": f"[{', '.join(map(str, entry.at))}]" if entry.at else None,  # a scalar has no place
        "mismatch": entry.mismatch or None,
    }


# --- runs ---------------------------------------------------------------------------------------


def _print_runs(found: "Comparison", output: Output | None) -> None:
    if output == "json":
        print_json(asdict(found))
        return
    sections = {
        "facts": [_fact(line, output) for line in found.facts if any(line.values)],
        "settings": [_line(line.name, line.values) for line in found.settings],
        "metrics": [row for line in found.metrics for row in _of_metric(line)],
    }
    if output == "csv":
        rows = [{"what": title, **row} for title, section in sections.items() for row in section]
        print_table(rows, ["what", "name", "first", "second"], output)
        return
    headings = {"name": "", "first": found.runs[0], "second": found.runs[1]}
    print_table(sections["facts"], headings)
    for title in ("settings", "metrics"):
        print_section(f"{title} that differ" if title == "settings" else title, sections[title], headings)


def _fact(line: "Line", output: Output | None) -> dict[str, object]:
    values = [when(value, output) for value in line.values] if line.name.endswith("_at") else line.values
    return _line(line.name, values)


def _line(name: str, values: Sequence[object]) -> dict[str, object]:
    first, second = values
    return {"name": name, "first": first, "second": second}


def _of_metric(line: "MetricLine") -> Iterator[dict[str, object]]:
    """Yield the last value and the extremes of a metric, each with its round."""
    name = f"{line.source} {line.name}"
    yield _line(f"{name}, last", line.last)
    yield _line(f"{name}, least", line.least)
    yield _line(f"{name}, least in round", line.least_round)
    yield _line(f"{name}, largest", line.largest)
    yield _line(f"{name}, largest in round", line.largest_round)
