"""`fl db models`, `fl db updates`."""

import click

from fl_main.console import Output, output_options, print_table
from fl_main.store import ModelKind
from fl_main.training import Kind

from ..model_db import Model, ModelDB
from ..records import Update
from .common import form_of, plain, when, with_database


@click.command()
@click.argument("run", required=False)
@click.option("--kind", type=click.Choice([kind.value for kind in ModelKind]), help="Only of this kind.")
@click.option("--round", "round_id", type=int, help="Only of this round.")
@click.option("--agent", help="Only of the agent with this name or id.")
@click.option("--last", type=click.IntRange(min=1), help="Only so many, those of the latest rounds.")
@output_options
@with_database
def models(
    database: ModelDB,
    run: str | None,
    kind: str | None,
    round_id: int | None,
    agent: str | None,
    last: int | None,
    output: Output | None,
) -> None:
    """List the models of RUN."""
    chosen = database.run(run)
    names = {member.agent_id: member.name for member in chosen.agents()}
    tags: dict[str, list[str]] = {}
    for tag, model_id in chosen.tags().items():
        tags.setdefault(model_id, []).append(tag)
    rows = [
        _model_row(model, names, tags, output)
        for model in chosen.models(kind, round_id, last=last if agent is None else None)
        if agent is None or agent in (model.agent_id, names.get(model.agent_id or ""))
    ][-(last or 0) :]
    columns = [
        "model",
        "round",
        "kind",
        "agent",
        "form",
        "codec",
        "bytes",
        "tags",
        "stored",
        "digest",
        "created",
    ]
    if output not in ("json", "csv") and not any(row["codec"] for row in rows):
        columns.remove("codec")
    print_table(rows, [*columns, "base"] if output in ("json", "csv") else columns, output)


def _model_row(
    model: Model, names: dict[str, str], tags: dict[str, list[str]], output: Output | None
) -> dict[str, object]:
    is_short = output not in ("json", "csv")
    return {
        "model": model.model_id,
        "round": model.round_id,
        "kind": str(model.kind),
        "agent": names.get(model.agent_id or "", model.agent_id),
        "form": form_of(model) if is_short else model.form,
        "codec": model.codec or None,
        "base": model.base_id,
        "bytes": model.size,
        "tags": " ".join(tags.get(model.model_id, [])) or None,
        "stored": "yes" if model.is_stored else f"no: {model.not_stored_reason}",
        "digest": model.digest[:19] if is_short else model.digest,
        "created": when(model.created_at, output),
    }


@click.command()
@click.argument("run", required=False)
@click.option("--round", "round_id", type=int, help="Only those of this round's tasks.")
@click.option("--agent", help="Only of the agent with this name or id.")
@output_options
@with_database
def updates(
    database: ModelDB, run: str | None, round_id: int | None, agent: str | None, output: Output | None
) -> None:
    """List the training updates of RUN: what became of each, and what its strategy measured.

    `share` is its part of the model of round `counted`; `distance` how far it was from what came of
    all, `score` what it was chosen by, `kept` whether it was, `cosine` that of what it adds and the
    mean of that; `outlier` whether it was far from the others. Columns that say nothing of any update
    are left out.
    """
    chosen = database.run(run)
    names = {member.agent_id: member.name for member in chosen.agents()}
    found = [
        update
        for update in chosen.updates(round_id)
        if update.kind is Kind.TRAIN
        and (agent is None or agent in (update.agent_id, names.get(update.agent_id)))
    ]
    measured = list(dict.fromkeys(name for update in found for name in update.notes))
    rows = [_update_row(update, names, output) for update in found]
    facts = [name for name in _UPDATE_SOMETIMES if any(row[name] is not None for row in rows)]
    columns = _UPDATE_FACTS + (_UPDATE_SOMETIMES if output in ("json", "csv") else facts) + measured
    print_table(rows, columns, output)


_UPDATE_FACTS = ["round", "agent", "verdict", "counted", "examples"]
_UPDATE_SOMETIMES = ["share", "staleness", "reason", "model"]


def _update_row(update: Update, names: dict[str, str], output: Output | None) -> dict[str, object]:
    return {
        "round": update.round_id,
        "agent": names.get(update.agent_id, update.agent_id),
        "verdict": str(update.verdict),
        "counted": update.counted_in,
        "examples": update.num_examples,
        "share": update.share,
        "staleness": update.staleness,
        "reason": update.reason or None,
        "model": update.model_id,
        **{name: _note(name, value, output) for name, value in update.notes.items()},
    }


def _note(name: str, value: float, output: Output | None) -> float | bool | str | None:
    """Return what was measured; where it is a truth, a word for people."""
    if name not in ("kept", "outlier"):
        return plain(value)
    return bool(value) if output in ("json", "csv") else "yes" if value else "no"
