"""`fl db card`: what a model is, on a page to be published with it."""

from pathlib import Path

import click

from ..model_db import ModelDB
from .common import with_database


@click.command()
@click.argument("what", metavar="MODEL|RUN")
@click.option("-o", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--license", default="", help="As the Hugging Face hub names it, e.g. apache-2.0.")
@click.option("--name", default="", help="Of the model (default: the name of its run).")
@click.option(
    "--task", default="other", show_default=True, help="As the hub names it: image-classification, …"
)
@click.option("--dataset", default="", help="What the data are called (default: the agents' own data).")
@click.option("--tag", "tags", multiple=True, help="One more tag. May be given again.")
@click.option("--agents", is_flag=True, help="Name the agents; without it they are numbered.")
@with_database
def card(
    database: ModelDB,
    what: str,
    file: Path | None,
    force: bool,
    license: str,
    name: str,
    task: str,
    dataset: str,
    tags: tuple[str, ...],
    agents: bool,
) -> None:
    """Write a model card in the format of the Hugging Face hub: of MODEL, or the final one of RUN.

    In it are results, rounds, agents, settings and where the model comes from; above them, for
    programs, license, tags and results.
    """
    from ..transfer.card import Wishes, card_model, model_card, write_card

    model = card_model(database, what)
    text = model_card(database, model, Wishes(license, name, task, dataset, tags, agents))
    if file is None:
        click.echo(text, nl=False)
        return
    write_card(text, file, overwrite=force)
    click.echo(f"{file}: card of {model.kind} model {model.model_id}")
