"""`fl db tag`, `prune` and `withdraw`: what changes a database, beside a daemon or without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from fl_main.console import Output, output_options, print_table
from fl_main.errors import StoreError

from ..model_db import ModelDB
from .common import as_json, print_json, progress_bar, with_database

_yes = click.option(
    "--yes", "is_sure", is_flag=True, help="Do it; without this it only says what it would do."
)


@click.command()
@click.option(
    "--keep",
    required=True,
    metavar="POLICY",
    help="What stays of what agents sent: globals (none of it), rounds:5 (the last of each run), bytes:10GB.",
)
@click.option("--run", "runs", multiple=True, help="Only models of this run; may be given again.")
@_yes
@output_options
@with_database
def prune(database: ModelDB, keep: str, runs: tuple[str, ...], is_sure: bool, output: Output | None) -> None:
    """Delete the files of models that agents sent, or were sent; the rows stay, and say why.

    Without --yes it only says what it would do. Never deleted are global and initial models, the
    strategy's arrays, and what a tag, a run's current models, an open task, a kept update or one that is
    not counted yet needs. A daemon may have the database open.
    """
    from ..upkeep.prune import Keep, plan_prune
    from ..upkeep.prune import prune as pruned

    policy = Keep.parse(keep)
    if is_sure:
        with progress_bar("files") as progress:
            found = pruned(database, policy, runs, progress)
    else:
        found = plan_prune(database, policy, runs)
    if output == "json":
        print_json({**asdict(found), "files": found.files, "size": found.size})
        return
    rows = [asdict(group) for group in found.going]
    print_table(rows, ["run", "kind", "models", "files", "size"], output)
    if output is None:
        needed = f"; {found.needed} more stay, as something needs them" if found.needed else ""
        did = "deleted" if found.is_done else "would be deleted; say --yes to do it"
        click.echo(f"\n{found.files} files of {found.size} bytes {did}{needed}")


@click.command()
@click.argument("agent")
@click.option("--run", "runs", multiple=True, help="Only from this run; may be given again.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report there, in Markdown; the file must not exist.",
)
@_yes
@as_json
@with_database
def withdraw(
    database: ModelDB,
    agent: str,
    runs: tuple[str, ...],
    file: Path | None,
    is_sure: bool,
    output: Output | None,
) -> None:
    """Delete what AGENT sent: its stored updates; a report says what that removes and what not.

    Without --yes it only says what it would do. The rows stay and say that it was withdrawn. Global
    models that count its updates still contain it: the report names them, and the ways on. A run that is
    under way must not ask the agent any more: `fl run quarantine RUN AGENT`.
    """
    from ..upkeep.withdraw import plan_withdrawal
    from ..upkeep.withdraw import withdraw as withdrawn
    from ..upkeep.withdrawal_report import report

    with _to_be_written(file) as part:
        found = withdrawn(database, agent, runs) if is_sure else plan_withdrawal(database, agent, runs)
        if part is not None:
            part.write_text(report(found), encoding="utf-8")
    if output == "json":
        print_json(asdict(found))
    elif file is None:
        click.echo(report(found), nl=False)
    if not is_sure and output is None:
        click.echo("\nNothing was changed; say --yes to do it")


@contextmanager
def _to_be_written(file: Path | None) -> Iterator[Path | None]:
    """Lend what becomes the file of a report: where none can be written, that is told before the deed."""
    if file is None:
        yield None
        return
    if file.exists():
        raise StoreError(f"{file} exists already; give the report another name")
    from ..transfer.export import appearing

    with appearing(file, "write the report", overwrite=False) as part:
        part.touch()
        yield part


@click.command()
@click.argument("model")
@click.argument("name")
@with_database
def tag(database: ModelDB, model: str, name: str) -> None:
    """Give MODEL the NAME within its run: RUN:NAME finds it, and its file stays, whatever is pruned.

    A name that another model of the run has is moved, not removed. A daemon may have the database open.
    """
    from ..upkeep.tag import tag_model

    done = tag_model(database, model, name)
    was = f", until now {done.before}" if done.before not in (None, done.model_id) else ""
    click.echo(f"{done.reference} is model {done.model_id}{was}")
