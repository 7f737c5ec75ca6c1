"""`fl db prune` and `withdraw`: what changes a database, beside a daemon or without one."""

from dataclasses import asdict

import click

from fl_main.console import Output, output_options, print_table

from ..model_db import ModelDB
from .common import print_json, progress_bar, with_database

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
