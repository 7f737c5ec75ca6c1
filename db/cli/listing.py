"""`fl db runs`, `rounds`: lists of what is there."""

from dataclasses import asdict

import click

from fl_main.console import Output, output_options, print_table
from fl_main.steps import strategy_in_words
from fl_main.store import RunStatus

from ..model_db import ModelDB
from ..records import Effort, Mean, Round
from ..runs_and_models import Run
from .common import last_option, latest, parts_of, plain, since_option, when, with_database


@click.command()
@click.option("--status", type=click.Choice([status.value for status in RunStatus]), help="Only these.")
@since_option("those that changed")
@last_option("the newest")
@output_options
@with_database
def runs(
    database: ModelDB, status: str | None, since: float | None, last: int | None, output: Output | None
) -> None:
    """List runs."""
    found = [
        run
        for run in database.runs()
        if (status is None or run.status == status) and (since is None or run.facts.changed_at >= since)
    ]
    print_table([_run_row(run, output) for run in latest(found, last)], _RUN_COLUMNS, output)


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
        "changed": when(facts.changed_at, output),
        "reason": facts.reason or None,
    }


@click.command()
@click.argument("run", required=False)
@click.option("--status", type=click.Choice(["open", "done", "failed", "undone"]), help="Only these.")
@since_option("those that began")
@last_option("the latest")
@output_options
@with_database
def rounds(
    database: ModelDB,
    run: str | None,
    status: str | None,
    since: float | None,
    last: int | None,
    output: Output | None,
) -> None:
    """List the rounds of RUN with what came of them.

    Agents are updates in the model (of a round without one: accepted) / agents asked. Metrics are
    means over agents, weighted by examples; `reports` says how many agents reported for
    training/evaluation. `stale` is the mean/largest number of global models between an update's
    base and the model that it counts in; `busy`, `idle` and `wasted` are parts of the agents'
    time. `bytes` are those of the updates as they came, `sent_as` their form and codec, `plain` what
    they would be without it, and `saved` what packing saved of them on their way. `outliers` are
    updates far from what came of all, `dropped` those that a robust strategy left out: `fl db updates`.
    A round is `undone` if the run was rolled back to an earlier one.
    Columns that say nothing in any round are left out.
    """
    found = [
        entry
        for entry in database.run(run).rounds()
        if (status is None or _status(entry) == status) and (since is None or entry.created_at >= since)
    ]
    found = latest(found, last)
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
        rows = [{**row, "status": _status(entry)} for row, entry in zip(rows, found, strict=True)]
    print_table(rows, columns, output)


def _status(entry: Round) -> str:
    return "undone" if entry.is_undone else entry.status


_ROUND_FACTS = [
    *("round", "status", "undone", "reason", "kind", "accepted", "invited", "eligible"),
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
        "undone": entry.is_undone,
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
        **parts_of(entry.effort),
    }
    for source in ("train", "evaluate"):
        for name, mean in _means(entry, source).items():
            row[f"{source}_{name}"] = plain(mean.value)
            row[f"{source}_{name}_examples"] = mean.num_examples
            row[f"{source}_{name}_agents"] = mean.agents
    return row


def _way(form: str, codec: str) -> str | None:
    """Say how updates come, unless it is as they are."""
    return ", ".join(filter(None, ("delta" if form == "delta" else "", codec))) or None


def _stale(effort: Effort) -> str | None:
    """Return the mean and the largest staleness; None where no update was stale."""
    return f"{effort.staleness:.1f}/{effort.max_staleness}" if effort.max_staleness else None


def _reports(means: dict[str, Mean]) -> int:
    return max((mean.agents for mean in means.values()), default=0)
