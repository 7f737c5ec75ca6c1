"""What the commands of `fl db` share: which database, and how they print."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import click

from fl_main.console import Output, Row, print_table
from fl_main.errors import NotFoundError
from fl_main.printable import printable

from ..model_db import ModelDB
from ..records import Effort
from ..runs_and_models import Model

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

_NAMES = 20  # of agents in an error

DEFAULT_FOLDER = "models"
as_json = click.option("--json", "output", flag_value="json", help="Print JSON.")


def folder_option(command: _F) -> _F:
    """Add `--folder` to a command; it takes `folder`, None if it was not given.

    The group, which has it too, reads the variable: read by a command, it would overrule what was given
    before the command.
    """
    return click.option(
        "-d",
        "--folder",
        type=click.Path(path_type=Path),
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


_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _moment(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return Unix seconds; a moment without a time zone is local time."""
    if value is None:
        return None
    if ago := _AGO.fullmatch(value):
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is no moment; give {_MOMENTS}") from None


_MOMENTS = "2026-01-31, '2026-01-31 14:05', or 30m, 2h, 7d for so long ago"


def since_option(what: str) -> Callable[[_F], _F]:
    """Return what adds `--since` to a command; it takes `since`, Unix seconds, None if it was not given."""
    return click.option("--since", callback=_moment, help=f"Only {what} since then: {_MOMENTS}.")


def last_option(what: str) -> Callable[[_F], _F]:
    """Return what adds `--last` to a command; it takes `last`, None if it was not given."""
    return click.option("--last", type=click.IntRange(min=1), help=f"Only so many, {what}.")


agent_option = click.option("--agent", help="Only of the agent with this name or id.")


def latest(rows: list[_T], last: int | None) -> list[_T]:
    """Return the last rows, all if nobody said how many."""
    return rows if last is None else rows[-last:]


def agents_of(names: Mapping[str, str], agent: str) -> set[str]:
    """Return the ids of agents of a name, or with an id.

    Raises:
        NotFoundError: If there is none.
    """
    found = {
        agent_id
        for agent_id, name in names.items()
        if agent in (agent_id, name, name.removesuffix(f" ({agent_id})"))
    }
    if not found:
        known = sorted(names.values())
        listed = ", ".join(known[:_NAMES]) + (", …" if len(known) > _NAMES else "")
        raise NotFoundError(f"there is no agent {agent!r} in this run; there are: {listed or 'none yet'}")
    return found


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


def words_of(model: Model) -> str:
    """Say in one line what a model is."""
    whose = f" of {model.run.agent_names().get(model.agent_id, model.agent_id)}" if model.agent_id else ""
    tags = f", tagged {', '.join(model.tags)}" if model.tags else ""
    return printable(f"{model.kind} model{whose}, round {model.round_id} of {model.run.name}{tags}")


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
