"""`python -m bench.strategies`: the page of strategies from docstrings, and convergence under label skew."""

from pathlib import Path

import click

from bench.rounds.report import filled
from bench.strategies import pages
from bench.strategies.skew import Record, draw, measure, read, table

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE, FIGURE = (
    DOCS / "records" / "strategies.json",
    DOCS / "strategies.md",
    DOCS / "figures" / "strategies.svg",
)


def sections(record: Record) -> dict[str, str]:
    """Return the generated texts of the page, by name."""
    return {**pages.sections(), "strategies skew": table(record)}


@click.group()
def main() -> None:
    """Write the page of strategies."""


@main.command("measure")
@click.option("--seeds", default=5, show_default=True, help="Trainings of each.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where the record goes.")
def measure_command(seeds: int, file: Path | None) -> None:
    """Train with every strategy where labels differ from site to site, about a minute."""
    record = measure(seeds, click.echo)
    if file:
        record.write(file)
    click.echo(table(record))


@main.command("report")
@click.argument("file", type=click.Path(path_type=Path, exists=True), default=RECORD)
def report_command(file: Path) -> None:
    """Write the page's generated parts, and the figure, from docstrings and a record."""
    record = read(file)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), sections(record)), "utf-8")
    draw(record, FIGURE)
    click.echo(f"{PAGE} and {FIGURE} are written")


if __name__ == "__main__":
    main()
