"""`fl db verify`: is it intact?"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from fl_main.console import Output
from fl_main.errors import StoreError
from fl_main.printable import printable

from .common import DEFAULT_FOLDER, as_json, folder_option, print_json


@click.command()
@as_json
@folder_option
@click.pass_context
def verify(ctx: click.Context, folder: Path | None, output: Output | None) -> None:
    """Look for damage: every row, file and digest. Exits with 1 if there is any."""
    from ..verify import verify_database

    folder = folder or ctx.obj or Path(DEFAULT_FOLDER)
    with _progress() as progress:
        damages = verify_database(folder, progress)
    if output == "json":
        print_json([asdict(damage) for damage in damages])
    else:
        for damage in damages:
            click.echo(printable(str(damage)))
    if damages:
        raise StoreError(f"{folder}: {len(damages)} damage{'s' if len(damages) > 1 else ''} found")
    if output != "json":
        click.echo(f"{folder}: no damage found")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress

    console = Console(stderr=True)
    with Progress("files", BarColumn(), DownloadColumn(), console=console, transient=True) as bar:
        task = bar.add_task("files")
        yield lambda done, total: bar.update(task, completed=done, total=total)
