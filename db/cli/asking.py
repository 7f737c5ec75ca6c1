"""`fl db sql` and `du`: anything else that one may want to know."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from fl_main.console import Output, output_options, print_table

from ..insight.asking import MOST_ROWS, SECONDS
from ..model_db import ModelDB
from .common import print_facts, print_json, with_database


@click.command()
@click.argument("question", required=False)
@click.option("--views", is_flag=True, help="List the views and tables with their columns instead.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=MOST_ROWS,
    show_default=True,
    help="Print so many rows at most.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=SECONDS,
    show_default=True,
    help="Give up after so many.",
)
@output_options
@with_database
def sql(
    database: ModelDB, question: str | None, views: bool, limit: int, seconds: float, output: Output | None
) -> None:
    """Answer QUESTION, a SELECT in SQLite's SQL; `-` reads it from stdin.

    Nothing can be changed. Ask the views (`--views`), in which names stand for ids and dates can be
    read, or the tables.
    """
    if views:
        _list_views(database, output)
        return
    if question is None:
        raise click.UsageError('Give a question, e.g. "SELECT run, status FROM runs_view", or --views.')
    if question == "-":
        question = sys.stdin.read()
    answer = database.sql(question, limit, seconds)
    names = _apart(answer.columns)
    rows = [dict(zip(names, row, strict=True)) for row in answer.rows]
    print_table(rows, names, output)
    if answer.is_cut:
        click.echo(f"there are more than these {limit} rows; ask for less, or give --limit", err=True)


def _apart(names: tuple[str, ...]) -> list[str]:
    """Return names of which no two are equal: the second `name` is `name:2`."""
    return [
        f"{name}:{number}" if (number := names[: i + 1].count(name)) > 1 else name
        for i, name in enumerate(names)
    ]


def _list_views(database: ModelDB, output: Output | None) -> None:
    from ..insight.views import VIEWS

    if output in ("json", "csv"):
        rows = [{"view": view.name, "column": column} for view in VIEWS for column in view.columns]
        print_table(rows, ["view", "column"], output)
        return
    for view in VIEWS:
        click.echo(f"{view.name}: {view.about}")
        click.echo(_wrapped(view.columns))
    click.echo()
    for table in database.sql("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").rows:
        columns = [name for _, name, *_ in database.sql(f"PRAGMA table_info({table[0]})").rows]
        click.echo(f"table {table[0]}\n{_wrapped(columns)}")


def _wrapped(names: Iterable[str]) -> str:
    return click.wrap_text(", ".join(names), 100, "    ", "    ")


@click.command()
@click.argument("run", required=False)
@output_options
@with_database
def du(database: ModelDB, run: str | None, output: Output | None) -> None:
    """Print how many bytes the models take, of RUN or all, by kind; and the rest of the database.

    `bytes` are those of files; equal models share one, which saves the bytes in `shared`. `may_go` is
    what pruning can free at most.
    """
    found = database.usage(None if run is None else database.run(run).run_id)
    rows = [{**asdict(share), "bytes": share.size} for share in found.shares]
    columns = ["run", "kind", "models", "stored", "files", "bytes", "shared", "may_go"]
    others = {
        "database": found.database,
        "free": found.free,
        "staged_files": found.staged_files,
        "staged": found.staged,
    }
    if output == "json":
        print_json({"models": [{name: row[name] for name in columns} for row in rows], **others})
        return
    if output is None:
        numbers = ("models", "stored", "files", "bytes", "shared", "may_go")
        rows.append({"run": "all", **{name: sum(row[name] for row in rows) for name in numbers}})
    print_table(rows, columns, output)
    if output is None:
        click.echo()
        print_facts(_in_words(database.file, others))


def _in_words(file: Path, others: dict[str, int]) -> dict[str, str]:
    free = f", {others['free']} of them free" if others["free"] else ""
    files = "file" if others["staged_files"] == 1 else "files"
    staged = f"{others['staged_files']} {files} of {others['staged']} bytes on their way in"
    return {file.name: f"{others['database']} bytes{free}", "staging": staged}
