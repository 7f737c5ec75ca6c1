"""`fl db import` and `archive`: what enters a model database, and a run to take along."""

import getpass
from pathlib import Path

import click

from fl_main.printable import printable

from ..model_db import ModelDB
from .common import DEFAULT_FOLDER, folder_option, with_database

ARCHIVE = ".flrun"


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--run", help="Name of the run to be made; of an archive, another name than it had.")
@click.option(
    "--buffers",
    multiple=True,
    metavar="PATTERN",
    help="Arrays of a model whose names match are buffers, e.g. '*running_mean'. May be given again.",
)
@click.option("--new", is_flag=True, help="Make the database if there is none.")
@click.option(
    "--trust",
    is_flag=True,
    help="Take an archive whose settings name functions (package.module:Class): an aggregator calls them.",
)
@folder_option
@click.pass_context
def import_(
    ctx: click.Context,
    folder: Path | None,
    file: Path,
    run: str | None,
    buffers: tuple[str, ...],
    new: bool,
    trust: bool,
) -> None:
    """Take in FILE: a run that `fl db archive` wrote (.flrun), or a model of another program.

    A model (.safetensors, .npz, or .pt with a state dict of PyTorch) becomes the initial model of a new
    run that is over, called as --run says: `fl run create --from NAME:last` begins from it. An archived
    run is read back as it was, with its ids, history and digests. An aggregator may have the database
    open meanwhile.
    """
    folder = folder or ctx.obj or Path(DEFAULT_FOLDER)
    if file.suffix == ARCHIVE:
        if buffers:
            raise click.UsageError("An archive knows which arrays are buffers: leave --buffers out.")
        _import_runs(folder, file, run, new, trust)
        return
    if trust:
        raise click.UsageError("In a model there is nothing to be called: leave --trust out.")
    from ..transfer.importing import import_model, require_model_file

    require_model_file(file)
    if run is None:
        raise click.UsageError("Say what the run that holds this model is to be called: --run NAME.")
    found = import_model(folder, file, run, buffers=buffers, new=new, actor=_actor())
    what = f"{found.arrays} arrays, {found.size} bytes"
    click.echo(f"{file}: model {found.model_id} of the new run {found.run}, {what}")


def _import_runs(folder: Path, file: Path, run: str | None, new: bool, trust: bool) -> None:
    from ..transfer.reading_back import import_archive

    found = import_archive(folder, file, run, new=new, trust=trust, actor=_actor())
    *origins, name = found.runs
    also = f", with {' and '.join(origins)}, where it began" if origins else ""
    also += f"; {' and '.join(found.there)}, where it began, was there already" if found.there else ""
    said = f"run {name}, {found.events} events, {found.files} model files{also}"
    click.echo(f"{file}: {printable(said)}")  # names and ids of others
    click.echo(printable(f"its history leads on from {found.head}"))


@click.command()
@click.argument("run")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@with_database
def archive(database: ModelDB, run: str, file: Path, force: bool) -> None:
    """Write RUN to FILE (.flrun), which another database reads back: `fl db import FILE`.

    In it are the whole history of the run and all model files, each held against its digest; with it
    come the runs whose models it began from. All must be over.
    """
    from ..transfer.archive import archive_run

    found = archive_run(database, database.run(run), file, overwrite=force)
    *origins, name = found.runs
    also = f", with {' and '.join(origins)}, where it began" if origins else ""
    what = f"{found.events} events, {found.files} model files{also}"
    click.echo(f"{file}: run {name}, {what}; {found.size} bytes")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        return ""
