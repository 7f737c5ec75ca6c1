"""`fl db best`: which model is best, by what metric, since when."""

import click

from fl_main.console import Output, output_options, print_table
from fl_main.errors import NotFoundError

from ..insight.ranking import Standing
from ..model_db import ModelDB
from ..runs_and_models import Run
from .common import when, with_database


@click.command()
@click.argument("run", required=False)
@click.option("--metric", help="Name of the metric; else the one of the run's settings.")
@click.option("--source", type=click.Choice(["evaluate", "train"]), help="On held-out data, or in training.")
@click.option("--direction", type=click.Choice(["min", "max"]), help="Which way is better.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="So many of RUN.")
@output_options
@with_database
def best(
    database: ModelDB,
    run: str | None,
    metric: str | None,
    source: str | None,
    direction: str | None,
    top: int,
    output: Output | None,
) -> None:
    """List the best models of RUN; of several runs, without RUN, the best of each.

    By which metric, and which way is better, the run's settings say (`best`), unless options do.
    `value` is the mean over agents, counted by their examples; `since` when it was measured, and
    `rounds_ago` how many global models the run made after that one.
    """
    runs = database.runs()
    if run is not None or len(runs) == 1:
        chosen = database.run(run)
        rows = [_row(entry, output) for entry in chosen.standings(metric, source, direction)[:top]]
        print_table(rows, ["place", *_COLUMNS], output)
        return
    found = [_best_of(one, metric, source, direction) for one in runs]
    if metric is not None and runs and not any(found):
        raise NotFoundError(f"no run was measured by {metric}; name a run to see by what it was")
    rows = [
        {"run": one.name} | (_row(entry, output) if entry else {})
        for one, entry in zip(runs, found, strict=True)
    ]
    print_table(rows, _COLUMNS, output)


def _best_of(run: Run, metric: str | None, source: str | None, direction: str | None) -> Standing | None:
    """Return the best model of a run, None where nothing was measured yet."""
    try:
        return next(iter(run.standings(metric, source, direction)), None)
    except NotFoundError:
        return None


_COLUMNS = [
    *("run", "model", "round", "metric", "better", "value", "examples", "agents"),
    *("since", "rounds_ago", "stored"),
]


def _row(entry: Standing, output: Output | None) -> dict[str, object]:
    return {
        "place": entry.place,
        "run": entry.run,
        "model": entry.model_id,
        "round": entry.round_id,
        "metric": f"{entry.source} {entry.metric}",
        "better": entry.direction,
        "value": entry.value,
        "examples": entry.num_examples,
        "agents": entry.agents,
        "since": when(entry.measured_at, output),
        "rounds_ago": entry.rounds_since,
        "stored": "yes" if entry.is_stored else f"no: {entry.why_not}",
    }
