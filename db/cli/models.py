"""`fl db models`, `fl db updates`."""

import click

from fl_main.console import Output, output_options, print_table
from fl_main.store import ModelKind, Verdict
from fl_main.training import Kind

from ..model_db import ModelDB
from ..records import Update
from ..runs_and_models import Model
from .common import (
    agent_option,
    agents_of,
    form_of,
    last_option,
    latest,
    plain,
    since_option,
    when,
    with_database,
)


@click.command()
@click.argument("run", required=False)
@click.option("--kind", type=click.Choice([kind.value for kind in ModelKind]), help="Only of this kind.")
@click.option("--round", "round_id", type=int, help="Only of this round.")
@agent_option
@click.option("--tag", help="Only those with this tag.")
@click.option(
    "--stored/--not-stored", "is_stored", default=None, help="Only those whose file is kept, or not."
)
@since_option("those made")
@last_option("those of the latest rounds")
@output_options
@with_database
def models(
    database: ModelDB,
    run: str | None,
    kind: str | None,
    round_id: int | None,
    agent: str | None,
    tag: str | None,
    is_stored: bool | None,
    since: float | None,
    last: int | None,
    output: Output | None,
) -> None:
    """List the models of RUN."""
    chosen = database.run(run)
    names = chosen.agent_names()
    tags: dict[str, list[str]] = {}
    for its_tag, model_id in chosen.tags().items():
        tags.setdefault(model_id, []).append(its_tag)
    found = [
        model
        for agent_id in ([None] if agent is None else sorted(agents_of(names, agent)))
        for model in chosen.models(kind, round_id, agent_id, last, tag=tag, is_stored=is_stored, since=since)
    ]
    if agent is not None:  # of several agents of one name
        found.sort(key=lambda model: model.created_at)
    rows = [_model_row(model, names, tags, output) for model in latest(found, last)]
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
@agent_option
@click.option("--verdict", type=click.Choice([verdict.value for verdict in Verdict]), help="Only these.")
@click.option("--outliers", is_flag=True, help="Only those that were far from the others.")
@since_option("those that came")
@last_option("those of the latest rounds")
@output_options
@with_database
def updates(
    database: ModelDB,
    run: str | None,
    round_id: int | None,
    agent: str | None,
    verdict: str | None,
    outliers: bool,
    since: float | None,
    last: int | None,
    output: Output | None,
) -> None:
    """List the training updates of RUN: what became of each, and what its strategy measured.

    `share` is its part of the model of round `counted`; `distance` how far it was from what came of
    all, `score` what it was chosen by, `kept` whether it was, `cosine` that of what it adds and the
    mean of that; `outlier` whether it was far from the others. Columns that say nothing of any update
    are left out. --json and --csv tell its task, steps, seconds, bytes and training metrics as well.
    """
    chosen = database.run(run)
    names = chosen.agent_names()
    found = [
        update
        for agent_id in ([None] if agent is None else sorted(agents_of(names, agent)))
        for update in chosen.updates(
            round_id,
            agent_id,
            kind=Kind.TRAIN,
            verdict=verdict,
            since=since,
            are_outliers=outliers,
            last=last,
        )
    ]
    found = latest(sorted(found, key=lambda update: update.update_id), last)
    measured = list(dict.fromkeys(name for update in found for name in update.notes))
    rows = [_update_row(update, names, output) for update in found]
    facts = [name for name in _UPDATE_SOMETIMES if any(row[name] is not None for row in rows)]
    if output in ("json", "csv"):
        trained = [f"train_{name}" for name in dict.fromkeys(name for each in found for name in each.metrics)]
        facts = [*_UPDATE_SOMETIMES, *_UPDATE_MORE, *trained]
    print_table(rows, [*_UPDATE_FACTS, *facts, *measured], output)


_UPDATE_FACTS = ["round", "agent", "verdict", "counted", "examples"]
_UPDATE_SOMETIMES = ["share", "staleness", "reason", "model"]
_UPDATE_MORE = ["task", "steps", "seconds", "bytes", "saved", "received"]


def _update_row(update: Update, names: dict[str, str], output: Output | None) -> dict[str, object]:
    row: dict[str, object] = {
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
    if output not in ("json", "csv"):
        return row
    return {
        **row,
        "task": update.task_id,
        "steps": update.num_steps,
        "seconds": update.seconds,
        "bytes": update.size,
        "saved": update.saved_bytes,
        "received": when(update.received_at, output),
        **{f"train_{name}": plain(value) for name, value in update.metrics.items()},
    }


def _note(name: str, value: float, output: Output | None) -> float | bool | str | None:
    """Return what was measured; where it is a truth, a word for people."""
    if name not in ("kept", "outlier"):
        return plain(value)
    return bool(value) if output in ("json", "csv") else "yes" if value else "no"
