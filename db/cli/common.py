"""What the commands of `fl db` share: which database, and how they print."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import click

from fl_main.console import Output, Row, print_table
from fl_main.printable import printable

from ..model_db import Model, ModelDB
from ..records import Effort

_F = TypeVar("_F", bound=Callable[..., Any])

DEFAULT_FOLDER = "models"
as_json = click.option("--json", "output", flag_value="json", help="Print JSON.")


def folder_option(command: _F) -> _F:
    """Add `--folder` to a command; it takes `folder`, None if it was not given."""
    return click.option(
        "-d",
        "--folder",
        type=click.Path(path_type=Path),
        envvar="FL_DB",
        help=f"Folder of the model database (default: {DEFAULT_FOLDER}; variable FL_DB).",
    )(command)


def with_database(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the database that `--folder` names, here or before the command."""

    @folder_option
    @click.pass_context
    def run(ctx: click.Context, /, folder: Path | None, **options: Any) -> None:
        with ModelDB(folder or ctx.obj or Path(DEFAULT_FOLDER)) as database:
            command(database, **options)

    return update_wrapper(run, command)


@contextmanager
def progress_bar(what: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Lend what shows how much is done of all, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress

    console, number = Console(stderr=True), DownloadColumn() if of_bytes else MofNCompleteColumn()
    with Progress(what, BarColumn(), number, console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def when(at: float, output: Output | None) -> object:
    """Return local time for people, Unix seconds for programs."""
    if output in ("json", "csv"):
        return at
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def plain(value: float) -> float | None:
    """Return a number that JSON has."""
    return value if math.isfinite(value) else None


def parts_of(effort: Effort) -> dict[str, str | None]:
    """Return where the agents' time went, in per cent."""
    seconds = {"busy": effort.busy_s, "idle": effort.idle_s, "wasted": effort.wasted_s}
    total = sum(seconds.values())
    return {name: f"{spent / total:.0%}" if total else None for name, spent in seconds.items()}


def form_of(model: Model) -> str:
    """Say what a model's file holds: a full model, or a delta of which."""
    return f"delta of {model.base_id}" if model.base_id else model.form


def print_json(value: object) -> None:
    """Print a value as JSON; a number that JSON lacks is null."""
    click.echo(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def print_facts(facts: Mapping[str, object]) -> None:
    """Print a line for each fact, but for those that say nothing."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, ""):
            click.echo(f"{name.ljust(width)}  {printable(str(value))}")


def print_section(title: str, rows: Sequence[Row], columns: Sequence[str] | Mapping[str, str]) -> None:
    """Print a table under its title; nothing where it has no rows."""
    if rows:
        click.echo(f"\n{title}")
        print_table(rows, columns)
