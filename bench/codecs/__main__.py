"""`python -m bench.codecs measure`: bytes, time, accuracy with every codec; `report`: tables and figure."""

from pathlib import Path

import click

from bench.codecs.measure import measure
from bench.codecs.record import read
from bench.codecs.report import draw, sections, write_page

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE, FIGURE = (
    DOCS / "records" / "codecs.json",
    DOCS / "compression.md",
    DOCS / "figures" / "codecs.svg",
)


@click.group()
def main() -> None:
    """Tell what codecs save, what they cost, and what they do to accuracy."""


@main.command("measure")
@click.option("--seeds", default=5, show_default=True, help="Trainings of each.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where the record goes.")
def measure_command(seeds: int, file: Path | None) -> None:
    """Measure all of it, a few minutes, and print the tables."""
    record = measure(seeds, click.echo)
    if file:
        record.write(file)
    click.echo("\n\n".join(sections(record).values()))


@main.command("report")
@click.argument("file", type=click.Path(path_type=Path, exists=True), default=RECORD)
def report_command(file: Path) -> None:
    """Write the tables of the page, and the figure, from a record."""
    record = read(file)
    write_page(record, PAGE)
    draw(record, FIGURE)
    click.echo(f"{PAGE} and {FIGURE} are written")


if __name__ == "__main__":
    main()
