"""`fl db lineage`: where a model comes from and what became of it."""

from dataclasses import asdict
from pathlib import Path

import click

from fl_main.console import Output

from ..faults import translated
from ..insight import drawing
from ..insight.lineage import MOST, Lineage
from ..model_db import ModelDB
from .common import as_json, print_json, with_database


def _steps(ctx: click.Context, option: click.Parameter, value: str) -> int | None:
    """Return a number of steps, None for all."""
    if value == "all":
        return None
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number of steps nor `all`")
    return int(value)


@click.command()
@click.argument("what", metavar="MODEL|RUN")
@click.option("--up", callback=_steps, default="2", show_default=True, help="Steps to parents, or `all`.")
@click.option("--down", callback=_steps, default="2", show_default=True, help="Steps to children, or `all`.")
@click.option("--most", type=click.IntRange(min=1), default=MOST, show_default=True, help="Models at most.")
@click.option("--dot", is_flag=True, help="Print it for Graphviz.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file.")
@as_json
@with_database
def lineage(
    database: ModelDB,
    what: str,
    up: int | None,
    down: int | None,
    most: int,
    dot: bool,
    svg: Path | None,
    output: Output | None,
) -> None:
    """Show where a model comes from, and what became of it; or all models of a run.

    Percentages are a model's share in the mean that its child is; without one, the child began from
    it. Of a run with more models than `--most`, those of agents are left out.
    """
    run = database.find_run(what)
    if run is not None:
        home, found, of, lines = run.name, run.lineage(most), f"run {run.name}", None
    else:
        model = database.model(what)
        home, found = model.run.name, model.lineage(up, down, most)
        of, lines = f"model {model.model_id}", drawing.as_tree(found, model.model_id)
    if svg is not None:
        with translated(svg, "draw a lineage"):
            svg.write_text(drawing.as_svg(found, f"Lineage of {of}", home), encoding="utf-8")
        click.echo(f"{svg}: lineage of {of}, {_counted(found)}")
    elif dot:
        click.echo(drawing.as_dot(found), nl=False)
    elif output == "json":
        print_json(asdict(found))
    else:
        for line in drawing.as_list(found) if lines is None else lines:
            click.echo(line)


def _counted(found: Lineage) -> str:
    more = f", {found.left_out} left out" if found.left_out else ""
    return f"{len(found.nodes)} models{more}"
