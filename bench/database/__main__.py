"""`python -m bench.database make`: a model database of any size; `measure`: how fast ours is on one."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.database import crowd, readers
from bench.database.make import Shape, make
from bench.database.measure import measure_database
from bench.database.words import told_crowd, told_database
from bench.rounds.record import begun
from bench.rounds.record import read as read_record

DEFAULT = Shape()


@click.group()
def main() -> None:
    """Make large model databases, and measure on them."""


def _shape(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--runs", default=DEFAULT.runs, show_default=True),
        click.option("--rounds", default=DEFAULT.rounds, show_default=True, help="Of each run."),
        click.option("--agents", default=DEFAULT.agents, show_default=True, help="Of each run."),
        click.option("--values", default=DEFAULT.values, show_default=True, help="Numbers in a model."),
    ):
        command = option(command)
    return command


@main.command("make")
@click.argument("folder", type=click.Path(path_type=Path))
@_shape
def make_command(folder: Path, **shape: int) -> None:
    """Make a model database in FOLDER: 100,000 updates in about two minutes."""
    began = time.perf_counter()
    wanted = Shape(**shape)
    make(folder, wanted, lambda done: click.echo(f"\r{done} of {wanted.runs} runs", nl=False, err=True))
    click.echo(f"\n{folder}: made in {time.perf_counter() - began:.0f} s", err=True)


@main.command("measure")
@click.option("--folder", type=click.Path(path_type=Path), help="A database to use, else one is made.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="A record that gets the figures.")
@click.option("--seconds", default=10.0, show_default=True, help="That readers and a writer go on.")
@_shape
def measure_command(folder: Path | None, file: Path | None, seconds: float, **shape: int) -> None:
    """Time commands, a daemon's start, groups of updates, and readers beside a writer."""
    record = read_record(file) if file and file.exists() else begun()
    with tempfile.TemporaryDirectory(prefix="fl-bench-", ignore_cleanup_errors=True) as work:
        place = folder or Path(work, "models")
        record.database = measure_database(place, Path(work), Shape(**shape), seconds, click.echo)
        if folder is None:
            shutil.rmtree(place)
    if file:
        record.write(file)
    click.echo(told_database(record.database))


@main.command("crowd")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--readers", default=crowd.READERS, show_default=True)
def crowd_command(folder: Path, seconds: float, readers: int) -> None:
    """Let many read, prune and export from a database while updates are written to it."""
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as work:
        click.echo(told_crowd(crowd.measure_crowd(folder, Path(work), seconds, readers)))


_waiting = click.option("--waits", is_flag=True, help="Say when it is ready, and begin with the next line.")


def _wait(waits: bool) -> None:
    """Begin when all others are there: a process takes longer to start than much else."""
    if waits:
        click.echo("ready")
        sys.stdin.readline()


@main.command("prune")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("seconds", type=float)
@_waiting
def prune_command(folder: Path, seconds: float, waits: bool) -> None:
    """Prune again and again; `crowd` starts this beside a writer."""
    _wait(waits)
    click.echo(json.dumps(crowd.prune_for(folder, seconds)))


@main.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("seconds", type=float)
@click.argument("work", type=click.Path(path_type=Path))
@_waiting
def export_command(folder: Path, seconds: float, work: Path, waits: bool) -> None:
    """Export models again and again; `crowd` starts this beside a writer."""
    _wait(waits)
    click.echo(json.dumps(crowd.export_for(folder, seconds, work)))


@main.command("read")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("seconds", type=float)
@click.argument("pause_s", type=float, default=0.0)
@_waiting
def read_command(folder: Path, seconds: float, pause_s: float, waits: bool) -> None:
    """Ask one question after the other; `measure` starts this beside a writer."""
    _wait(waits)
    click.echo(json.dumps(readers.read(folder, seconds, pause_s)))


if __name__ == "__main__":
    main()
