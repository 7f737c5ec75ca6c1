"""`fl db replay`, `contributions`: what would have come of the stored updates."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fl_main.console import Output, output_options, print_table
from fl_main.errors import SettingsError
from fl_main.plugins import find_here
from fl_main.printable import printable

from ..model_db import ModelDB
from .common import plain, print_json, progress_bar, with_database

if TYPE_CHECKING:
    from ..whatif.contributions import Method
    from ..whatif.planning import Bases
    from ..whatif.records import ReplayedRound

_EVALUATE = "Measure models by package.module:function, which gets the weights and returns numbers by name."


@click.command()
@click.argument("run", required=False)
@click.option("--round", "round_id", type=int, help="Only this round.")
@click.option("--strategy", help="Another one, as in the settings: a name, or a list of steps in YAML.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the strategy; may be given again."
)
@click.option("--without", multiple=True, metavar="AGENT", help="Leave out its updates; may be given again.")
@click.option(
    "--bases",
    type=click.Choice(["replayed", "stored"]),
    default="replayed",
    show_default=True,
    help="What each round goes on from: the replayed model before it, or the stored one.",
)
@click.option("--name", help="Of the new run (default: RUN-replay).")
@click.option("--evaluate", metavar="FUNCTION", help=_EVALUATE)
@output_options
@with_database
def replay(
    database: ModelDB,
    run: str | None,
    round_id: int | None,
    strategy: str | None,
    options: tuple[str, ...],
    without: tuple[str, ...],
    bases: "Bases",
    name: str | None,
    evaluate: str | None,
    output: Output | None,
) -> None:
    """Combine RUN's stored updates again: with another strategy, or without some agents.

    The result is a new run in the database, whose parentage says what it was made from. Of one round a
    replay is exact. Over several rounds the stored updates were trained from the original models: it
    tells what would have come of these updates, not what agents would have trained; without an agent it
    is not unlearning. What there is to know of a replay stands below its table.
    """
    from ..whatif.replay import replay as replayed

    find_here()  # strategies and functions of the user's own
    stated = None if strategy is None else _as_yaml(strategy, "--strategy")
    with progress_bar("rounds") as progress:
        found = replayed(
            database,
            run,
            round_id=round_id,
            strategy=stated,
            options=dict(map(_option, options)) or None,
            without=without,
            bases=bases,
            name=name,
            evaluate=evaluate,
            progress=progress,
        )
    if output == "json":
        print_json(asdict(found))
        return
    rows = [_round_row(entry) for entry in found.rounds]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    measured = {name for entry in found.rounds for name in entry.measured}  # shown also if it is no number
    said = [name for name in columns if name in measured or any(row.get(name) is not None for row in rows)]
    print_table(rows, said, output)
    if output is None:
        click.echo()
        for remark in found.remarks:
            click.echo(printable(remark))
        click.echo(f"The replay is run {found.name}: fl db rounds {found.name}")


@click.command()
@click.argument("run", required=False)
@click.option("--evaluate", required=True, metavar="FUNCTION", help=_EVALUATE)
@click.option("--metric", help="Which of its numbers; may be left out if it is only one.")
@click.option(
    "--method",
    type=click.Choice(["leave-one-out", "shapley"]),
    default="leave-one-out",
    show_default=True,
    help="shapley: exact, for at most eight agents in a round, of whom it folds every coalition.",
)
@click.option("--round", "round_id", type=int, help="Only this round.")
@output_options
@with_database
def contributions(
    database: ModelDB,
    run: str | None,
    evaluate: str,
    metric: str | None,
    method: "Method",
    round_id: int | None,
    output: Output | None,
) -> None:
    """Say what each agent contributed to RUN, by a metric of the models.

    Each round's stored updates are folded without it, on the stored model before the round. Positive is
    what makes the metric larger: of a loss, the worse. Over a run these are sums over its rounds.
    """
    from ..whatif.contributions import contributions as found_of

    find_here()
    with progress_bar("models") as progress:
        found = found_of(
            database,
            run,
            evaluate=evaluate,
            metric=metric,
            method=method,
            round_id=round_id,
            progress=progress,
        )
    if output == "json":
        print_json(asdict(found))
        return
    rows = [
        {"agent": entry.agent, found.metric: entry.value, "rounds": entry.rounds} for entry in found.agents
    ]
    print_table(rows, ["agent", found.metric, "rounds"], output)
    if output is None:
        before, after = (
            sum(entry.nobody for entry in found.rounds),
            sum(entry.everybody for entry in found.rounds),
        )
        total = math.fsum(entry.value for entry in found.agents)
        click.echo(
            f"\n{found.method}: {total:.6g} in all; the rounds together changed {found.metric} by "
            f"{after - before:.6g}"
        )
        for remark in found.remarks:
            click.echo(printable(remark))


def _round_row(entry: "ReplayedRound") -> dict[str, object]:
    row: dict[str, object] = {
        "round": entry.round_id,
        "updates": len(entry.agents),
        "left_out": ", ".join(entry.left_out) or None,
        "as_stored": "yes" if entry.is_same else "no",
    }
    for name, value in entry.measured.items():
        row |= {name: plain(value), f"stored_{name}": plain(entry.stored.get(name, math.nan))}
    return {**row, "model": entry.model_id, "reason": entry.reason or None}


def _as_yaml(text: str, key: str) -> Any:
    from fl_main.settings.yaml_text import parse_yaml

    return parse_yaml(text, key)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--option: {text!r}: give KEY=VALUE")
    return key, _as_yaml(value, f"--option {key}")
