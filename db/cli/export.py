"""`fl db export`: models out of the database."""

from pathlib import Path

import click

from ..model_db import ModelDB
from ..runs_and_models import Model
from .common import form_of, with_database


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option(
    "--as-stored",
    is_flag=True,
    help="Write what was received: a delta, or arrays of a codec; else the model that it stands for.",
)
@with_database
def export(database: ModelDB, model: str, file: Path, force: bool, as_stored: bool) -> None:
    """Write MODEL to FILE: .safetensors, .npz, or .pt, a state dict of PyTorch."""
    from ..transfer.export import export_model

    found = database.model(model)
    export_model(found, file, overwrite=force, as_stored=as_stored)
    layout = found.layout if as_stored else found.decoded_layout
    said = f"{_as_exported(found, as_stored)}{len(layout.arrays)} arrays"
    click.echo(f"{file}: {found.kind} model {found.model_id}, {said}")


def _as_exported(model: Model, as_stored: bool) -> str:
    """Say what of a model was written."""
    said: list[str | None]
    if as_stored:
        said = [form_of(model), model.codec and f"encoded by {model.codec}"]
    else:
        said = [model.base_id and f"{model.base_id} + delta", model.codec and f"decoded from {model.codec}"]
    return "".join(f"{words}, " for words in said if words)
