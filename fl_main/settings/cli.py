"""`fl settings`: check, show and explain settings files."""

import json
from collections.abc import Callable
from pathlib import Path

import click

from fl_main.cohort import check_rule
from fl_main.console import CommandGroup
from fl_main.errors import SettingsError, StrategyError
from fl_main.plugins import find_here
from fl_main.settings import AgentSettings, AggregatorSettings, RunSettings, Section
from fl_main.settings.files import (
    check_files,
    detect_kind,
    load_agent,
    load_aggregator,
    load_run,
    read_mapping,
)
from fl_main.settings.reference import KINDS, json_schema, markdown_table
from fl_main.settings.yaml_text import format_yaml
from fl_main.strategies import strategy_of

_LOADERS: dict[str, Callable[[Path], Section]] = {
    "aggregator": load_aggregator,
    "run": load_run,
    "agent": load_agent,
}
_KIND = click.Choice(list(KINDS))


@click.group(cls=CommandGroup)
def settings() -> None:
    """Check and explain settings files."""


@settings.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--kind", type=_KIND, help="What the files are for; as a rule their keys tell.")
def check(files: tuple[Path, ...], kind: str | None) -> None:
    """Say what is wrong with settings files, and with the files and the code they name.

    Environment variables count, as they will when the file is used. A strategy and a cohort rule
    of your own are imported, from the working directory too.
    """
    find_here()
    mistakes = []
    for file in files:
        try:
            click.echo(f"{file}: {_check(file, kind)}")
        except SettingsError as exc:
            mistakes.append(str(exc))
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _check(file: Path, kind: str | None) -> str:
    """Load a file and what it names; return what it is, and how many faulty agents its runs bear."""
    kind = kind or detect_kind(file, read_mapping(file))
    loaded = _load(kind, file)
    if isinstance(loaded, AggregatorSettings | AgentSettings):
        check_files(loaded)
    runs = {file: loaded} if isinstance(loaded, RunSettings) else {}
    if isinstance(loaded, AggregatorSettings):
        runs = {path: load_run(path) for path in loaded.runs}
    borne = [_check_code(path, run) for path, run in runs.items()]
    return "; ".join([f"{kind} settings, no mistakes", *filter(None, borne)])


def _check_code(file: Path, run: RunSettings) -> str:
    """See to it that what a run's settings name in Python is there, and goes with the rest of them.

    Returns:
        How many faulty updates its strategy bears; empty if none.
    """
    try:
        strategy, least = strategy_of(run), run.round.min_updates
        check_rule(run.cohort)
    except (SettingsError, StrategyError) as exc:
        raise SettingsError(f"{file}: {exc}") from exc
    borne = strategy.bears(least)
    return f"{run.strategy_name} bears {borne} faulty of {least} updates" if borne else ""


def _load(kind: str, file: Path) -> Section:
    return _LOADERS[kind](file)


@settings.command()
@click.argument("kind", type=_KIND)
def schema(kind: str) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    click.echo(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))


@settings.command()
@click.argument("kind", type=_KIND)
@click.argument("file", type=click.Path(path_type=Path))
def show(kind: str, file: Path) -> None:
    """Print the settings that a file and the environment amount to, defaults included."""
    click.echo(format_yaml(_load(kind, file).model_dump(mode="json")), nl=False)


@settings.command()
@click.argument("kind", type=_KIND)
def table(kind: str) -> None:
    """Print all keys of a kind of file as a Markdown table."""
    click.echo(markdown_table(KINDS[kind]), nl=False)
