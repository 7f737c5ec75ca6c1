"""`fl db`: look into a model database from the command line."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any, TypeVar

import click

from fl_main.console import CommandGroup, Output, output_options, print_table
from fl_main.errors import StoreError
from fl_main.printable import printable
from fl_main.steps import strategy_in_words
from fl_main.store import ModelKind
from fl_main.training import Kind

from .model_db import Model, ModelDB, Run
from .records import Effort, Mean, Round, Update

_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT_FOLDER = "models"
_as_json = click.option("--json", "output", flag_value="json", help="Print JSON.")


def _folder_option(command: _F) -> _F:
    return click.option(
        "-d",
        "--folder",
        type=click.Path(path_type=Path),
        envvar="FL_DB",
        help=f"Folder of the model database (default: {_DEFAULT_FOLDER}; variable FL_DB).",
    )(command)


def _with_database(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the database that `--folder` names, here or before the command."""

    @_folder_option
    @click.pass_context
    def run(ctx: click.Context, /, folder: Path | None, **options: Any) -> None:
        with ModelDB(folder or ctx.obj or Path(_DEFAULT_FOLDER)) as database:
            command(database, **options)

    return update_wrapper(run, command)


@click.group(cls=CommandGroup, name="db", context_settings={"help_option_names": ["-h", "--help"]})
@_folder_option
@click.pass_context
def db(ctx: click.Context, folder: Path | None) -> None:
    """Look into a model database.

    A RUN is its name; it may be left out where there is only one. A MODEL is its id, the
    beginning of its id or digest, or RUN:12 (round 12), RUN:best, RUN:final, RUN:last.
    """
    ctx.obj = folder


@db.command()
@output_options
@_with_database
def runs(database: ModelDB, output: Output | None) -> None:
    """List runs."""
    rows = [_run_row(run, output) for run in database.runs()]
    print_table(rows, _RUN_COLUMNS, output)


_RUN_COLUMNS = ["run", "status", "round", "agents", "strategy", "best", "best_round", "changed", "reason"]


def _run_row(run: Run, output: Output | None) -> dict[str, object]:
    facts = run.facts
    return {
        "run": facts.name,
        "status": str(facts.status),
        "round": facts.rounds_done,
        "agents": facts.agents,
        "strategy": strategy_in_words(facts.settings.get("strategy", "")) or None,
        "best": facts.best_value,
        "best_round": facts.best_round or None,
        "changed": _when(facts.changed_at, output),
        "reason": facts.reason or None,
    }


@db.command()
@click.argument("run", required=False)
@output_options
@_with_database
def rounds(database: ModelDB, run: str | None, output: Output | None) -> None:
    """List the rounds of RUN with what came of them.

    Agents are updates in the model (of a round without one: accepted) / agents asked. Metrics are
    means over agents, weighted by examples; `reports` says how many agents reported for
    training/evaluation. `stale` is the mean/largest number of global models between an update's
    base and the model that it counts in; `busy`, `idle` and `wasted` are parts of the agents'
    time. `bytes` are those of the updates as they came, `sent_as` their form and codec, `plain` what
    they would be without it, and `saved` what packing saved of them on their way. `outliers` are
    updates far from what came of all, `dropped` those that a robust strategy left out: `fl db updates`.
    Columns that say nothing in any round are left out.
    """
    found = database.run(run).rounds()
    named = [(source, name) for source in ("train", "evaluate") for name in _names(found, source)]
    metrics = [f"{source}_{name}" for source, name in named]
    if output in ("json", "csv"):
        details = [f"{metric}_{what}" for metric in metrics for what in ("examples", "agents")]
        columns = [*_ROUND_FACTS, *metrics, *details]
    else:
        columns = ["round", "status", "agents", *_ROUND_SOMETIMES, *metrics, *_ROUND_END]
    rows = [_round_row(entry) for entry in found]
    if output not in ("json", "csv"):
        columns = [name for name in columns if name not in _SOMETIMES or any(row[name] for row in rows)]
    print_table(rows, columns, output)


_ROUND_FACTS = [
    *("round", "status", "reason", "kind", "accepted", "invited", "eligible"),
    *("late", "rejected", "discarded", "bytes", "saved", "plain_bytes", "form", "codec", "seconds", "model"),
    *("counted", "staleness", "max_staleness", "busy_s", "wasted_s", "idle_s", "outliers", "dropped"),
]
_ROUND_SOMETIMES = ["late", "rejected", "stale", "outliers", "dropped"]
_ROUND_TIME = ["busy", "idle", "wasted"]
_ROUND_WAY = ["plain", "saved", "sent_as"]
_ROUND_END = [*_ROUND_TIME, "reports", "bytes", *_ROUND_WAY, "seconds", "model"]
_SOMETIMES = frozenset((*_ROUND_SOMETIMES, *_ROUND_TIME, *_ROUND_WAY))


def _names(found: list[Round], source: str) -> list[str]:
    return sorted({name for entry in found for name in _means(entry, source)})


def _means(entry: Round, source: str) -> dict[str, Mean]:
    return dict(entry.train if source == "train" else entry.evaluate)


def _round_row(entry: Round) -> dict[str, object]:
    row: dict[str, object] = {
        "round": entry.round_id,
        "status": entry.status,
        "reason": entry.reason or None,
        "kind": str(entry.kind) if entry.kind else None,
        "agents": f"{entry.effort.counted or entry.accepted}/{entry.invited}",
        "accepted": entry.accepted,
        "invited": entry.invited,
        "eligible": entry.eligible,
        "late": entry.late,
        "rejected": entry.rejected,
        "discarded": entry.discarded,
        "bytes": entry.size,
        "plain_bytes": entry.plain_size,
        "plain": entry.plain_size if entry.plain_size != entry.size else None,
        "form": entry.form or None,
        "codec": entry.codec or None,
        "sent_as": _way(entry.form, entry.codec),
        "saved": entry.saved_bytes,
        "seconds": entry.seconds,
        "model": entry.model_id,
        "reports": "/".join(str(_reports(_means(entry, source))) for source in ("train", "evaluate")),
        **asdict(entry.effort),
        "outliers": entry.outliers,
        "dropped": entry.dropped,
        "stale": _stale(entry.effort),
        **_parts(entry.effort),
    }
    for source in ("train", "evaluate"):
        for name, mean in _means(entry, source).items():
            row[f"{source}_{name}"] = _plain(mean.value)
            row[f"{source}_{name}_examples"] = mean.num_examples
            row[f"{source}_{name}_agents"] = mean.agents
    return row


def _way(form: str, codec: str) -> str | None:
    """Say how updates come, unless it is as they are."""
    return ", ".join(filter(None, ("delta" if form == "delta" else "", codec))) or None


def _stale(effort: Effort) -> str | None:
    """Return the mean and the largest staleness; None where no update was stale."""
    return f"{effort.staleness:.1f}/{effort.max_staleness}" if effort.max_staleness else None


def _parts(effort: Effort) -> dict[str, str | None]:
    """Return where the agents' time went, in per cent."""
    seconds = {"busy": effort.busy_s, "idle": effort.idle_s, "wasted": effort.wasted_s}
    total = sum(seconds.values())
    return {name: f"{spent / total:.0%}" if total else None for name, spent in seconds.items()}


def _reports(means: dict[str, Mean]) -> int:
    return max((mean.agents for mean in means.values()), default=0)


@db.command()
@click.argument("run", required=False)
@click.option("--kind", type=click.Choice([kind.value for kind in ModelKind]), help="Only of this kind.")
@click.option("--round", "round_id", type=int, help="Only of this round.")
@click.option("--agent", help="Only of the agent with this name or id.")
@click.option("--last", type=click.IntRange(min=1), help="Only so many, those of the latest rounds.")
@output_options
@_with_database
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
        "form": _form(model) if is_short else model.form,
        "codec": model.codec or None,
        "base": model.base_id,
        "bytes": model.size,
        "tags": " ".join(tags.get(model.model_id, [])) or None,
        "stored": "yes" if model.is_stored else f"no: {model.not_stored_reason}",
        "digest": model.digest[:19] if is_short else model.digest,
        "created": _when(model.created_at, output),
    }


def _form(model: Model) -> str:
    return f"delta of {model.base_id}" if model.base_id else model.form


@db.command()
@click.argument("run", required=False)
@click.option("--round", "round_id", type=int, help="Only those of this round's tasks.")
@click.option("--agent", help="Only of the agent with this name or id.")
@output_options
@_with_database
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
        return _plain(value)
    return bool(value) if output in ("json", "csv") else "yes" if value else "no"


@db.command()
@click.argument("what", metavar="MODEL|RUN")
@_as_json
@_with_database
def show(database: ModelDB, what: str, output: Output | None) -> None:
    """Show a model or a run with all that is known of it."""
    run = database.find_run(what)
    if run is not None:
        _show_run(run, output)
    else:
        _show_model(database, database.model(what), output)


def _show_run(run: Run, output: Output | None) -> None:
    effort = run.effort()
    (form, codec), (size, plain_size) = run.way(), run.traffic()
    facts = {**asdict(run.facts), "tags": run.tags(), **asdict(effort)}
    facts |= {"form": form, "codec": codec, "bytes": size, "plain_bytes": plain_size}
    agents = [asdict(agent) for agent in run.agents()]
    if output == "json":
        _print_json({**facts, "members": agents})
        return
    for time in ("created_at", "changed_at"):
        facts[time] = _when(facts[time], None)
    facts["tags"] = ", ".join(f"{tag} = {model_id}" for tag, model_id in run.tags().items())
    facts["frozen"] = _frozen_in_words(run.facts.frozen)
    facts["settings"] = json.dumps(facts["settings"], ensure_ascii=False)
    _print_facts(facts | _effort_in_words(effort))
    click.echo("\nagents")
    columns = ["name", "agent_id", "is_present", "poll_s", "accepted", "refused", "software"]
    left_out = [name for name in ("outlying", "quarantined") if any(agent[name] for agent in agents)]
    print_table(agents, columns + left_out)


def _frozen_in_words(frozen: Mapping[str, Any]) -> str | None:
    """Return what people read of the arrays that a run does not train."""
    if not frozen:
        return None
    return f"{frozen['arrays']} arrays of {frozen['size']} bytes stay at the agents, {frozen['digest']}"


def _effort_in_words(effort: Effort) -> dict[str, str | None]:
    """Return what people read instead of the numbers."""
    times = ", ".join(f"{part} {name}" for name, part in _parts(effort).items() if part)
    total = effort.busy_s + effort.idle_s + effort.wasted_s
    stale = None if effort.staleness is None else f"{effort.staleness:.1f} on average"
    return {
        **dict.fromkeys(asdict(effort)),
        "staleness": stale
        and f"{stale}, {effort.max_staleness} at most, of {effort.counted} counted updates",
        "agents' time": times and f"{times} of {total:.0f} s",
    }


def _show_model(database: ModelDB, model: Model, output: Output | None) -> None:
    run = database.run(model.run_id)
    names = {member.agent_id: member.name for member in run.agents()}
    facts = {
        "model": model.model_id,
        "kind": str(model.kind),
        "run": run.name,
        "round": model.round_id,
        "agent": names.get(model.agent_id or "", model.agent_id),
        "tags": ", ".join(model.tags),
        "form": model.form if output == "json" else _form(model),
        "codec": model.codec or None,
        "digest": model.digest,
        "path": str(model.path) if model.is_stored else f"not stored: {model.not_stored_reason}",
        "bytes": model.size,
        "created": _when(model.created_at, output),
    }
    parents = [asdict(parent) for parent in model.parents]
    arrays = _arrays(model)
    metrics = [
        {**asdict(metric), "agent": names.get(metric.agent_id or "", metric.agent_id or "all (mean)")}
        for metric in model.metrics()
    ]
    if output == "json":
        base = {"base": model.base_id}
        _print_json({**facts, **base, "parents": parents, "arrays": arrays, "metrics": metrics})
        return
    _print_facts(facts)
    _print_section("parents", parents, ["model_id", "share"])
    shapes = [{**entry, "shape": "×".join(map(str, entry["shape"])) or "scalar"} for entry in arrays]
    columns = {name: name for name in ("name", "dtype", "shape", "role")}
    numbers = {"least": "min", "mean": "mean", "largest": "max", "norm": "norm", "not_finite": "not finite"}
    _print_section(_whose_arrays(model), shapes, {**columns, **numbers})
    _print_section("metrics", metrics, ["source", "name", "agent", "value", "num_examples", "agents"])


def _whose_arrays(model: Model) -> str:
    if model.codec:
        return f"arrays as encoded by {model.codec}"
    return "arrays of the delta" if model.base_id else "arrays"


def _arrays(model: Model) -> list[dict[str, Any]]:
    """Return the arrays in numbers, or without them where the file is not there."""
    if model.is_stored:
        return [asdict(entry) for entry in model.arrays()]
    return [
        {"name": spec.name, "dtype": str(spec.dtype), "shape": spec.shape, "role": str(spec.role)}
        for spec in model.layout.arrays
    ]


@db.command()
@click.argument("model")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option(
    "--as-stored",
    is_flag=True,
    help="Write what was received: a delta, or arrays of a codec; else the model that it stands for.",
)
@_with_database
def export(database: ModelDB, model: str, file: Path, force: bool, as_stored: bool) -> None:
    """Write MODEL to FILE, a .safetensors or .npz file."""
    from .export import export_model

    found = database.model(model)
    export_model(found, file, overwrite=force, as_stored=as_stored)
    layout = found.layout if as_stored else found.decoded_layout
    said = f"{_as_exported(found, as_stored)}{len(layout.arrays)} arrays"
    click.echo(f"{file}: {found.kind} model {found.model_id}, {said}")


def _as_exported(model: Model, as_stored: bool) -> str:
    """Say what of a model was written."""
    said: list[str | None]
    if as_stored:
        said = [_form(model), model.codec and f"encoded by {model.codec}"]
    else:
        said = [model.base_id and f"{model.base_id} + delta", model.codec and f"decoded from {model.codec}"]
    return "".join(f"{words}, " for words in said if words)


@db.command()
@_as_json
@_folder_option
@click.pass_context
def verify(ctx: click.Context, folder: Path | None, output: Output | None) -> None:
    """Look for damage: every row, file and digest. Exits with 1 if there is any."""
    from .verify import verify_database

    folder = folder or ctx.obj or Path(_DEFAULT_FOLDER)
    with _progress() as progress:
        damages = verify_database(folder, progress)
    if output == "json":
        _print_json([asdict(damage) for damage in damages])
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


# --- printing ---------------------------------------------------------------------------------


def _when(at: float, output: Output | None) -> object:
    """Return local time for people, Unix seconds for programs."""
    if output in ("json", "csv"):
        return at
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _plain(value: float) -> float | None:
    """Return a number that JSON has."""
    return value if math.isfinite(value) else None


def _print_json(value: object) -> None:
    click.echo(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _print_facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, ""):
            click.echo(f"{name.ljust(width)}  {printable(str(value))}")


def _print_section(title: str, rows: list[dict[str, Any]], columns: list[str] | dict[str, str]) -> None:
    if rows:
        click.echo(f"\n{title}")
        print_table(rows, columns)
