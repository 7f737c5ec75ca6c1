"""`fl db verify` and `head`: is it intact, and is its history still the one that was noted?"""

from dataclasses import asdict
from pathlib import Path

import click

from fl_main.console import Output, output_options, print_table
from fl_main.errors import StoreError
from fl_main.printable import printable

from ..model_db import ModelDB
from .common import DEFAULT_FOLDER, as_json, folder_option, print_json, progress_bar, with_database


@click.command()
@click.argument("run", required=False)
@output_options
@with_database
def head(database: ModelDB, run: str | None, output: Output | None) -> None:
    """Print the end of the history of RUN, or of each run and of all: to be noted elsewhere.

    A NOTE names a history, the number of its events and a hash over them all. `fl db verify --against
    NOTE` tells later whether that history was written anew or cut off.
    """
    found = database.heads()
    if run is not None:
        run_id = database.run(run).run_id
        found = [note for note in found if note.run_id == run_id]
    names = {one.run_id: one.name for one in database.runs()}
    rows = [
        {"run": names.get(note.run_id or "", "all"), "events": note.number, "note": str(note)}
        for note in found
    ]
    print_table(rows, ["run", "events", "note"], output)


@click.command()
@click.option(
    "--against",
    multiple=True,
    metavar="NOTE",
    help="History must lead on from here: what `fl db head` printed, or a hash of its. May be given again.",
)
@as_json
@folder_option
@click.pass_context
def verify(ctx: click.Context, folder: Path | None, against: tuple[str, ...], output: Output | None) -> None:
    """Look for damage: every row, file and digest. Exits with 1 if there is any.

    Somebody who may write to the database could write its whole history anew, or cut off its end, so
    that all fits: that is told by a NOTE that lies elsewhere.
    """
    from ..verify import verify_database

    folder = folder or ctx.obj or Path(DEFAULT_FOLDER)
    with progress_bar("files", of_bytes=True) as progress:
        damages = verify_database(folder, progress, against)
    if output == "json":
        print_json([asdict(damage) for damage in damages])
    else:
        for damage in damages:
            click.echo(printable(str(damage)))
    if damages:
        raise StoreError(f"{folder}: {len(damages)} damage{'s' if len(damages) > 1 else ''} found")
    if output != "json":
        led = f", and history leads on from {_counted(len(against))}" if against else ""
        click.echo(f"{folder}: no damage found{led}")


def _counted(notes: int) -> str:
    return "what was noted" if notes == 1 else f"all {notes} notes"
