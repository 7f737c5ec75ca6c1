"""`python -m bench.attacks measure`: accuracy of every rule under every attack; `report`: the tables."""

from pathlib import Path

import click

from bench.attacks.measure import measure
from bench.attacks.record import read
from bench.attacks.report import sections, write_page

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE = DOCS / "records" / "attacks.json", DOCS / "robustness.md"


@click.group()
def main() -> None:
    """Tell what attacks do to training, and what robust strategies do against them."""


@main.command("measure")
@click.option("--seeds", default=5, show_default=True, help="Trainings of each.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where the record goes.")
def measure_command(seeds: int, file: Path | None) -> None:
    """Measure all of it, ten minutes, and print the tables."""
    record = measure(seeds, click.echo)
    if file:
        record.write(file)
    click.echo("\n\n".join(sections(record).values()))


@main.command("report")
@click.argument("file", type=click.Path(path_type=Path, exists=True), default=RECORD)
def report_command(file: Path) -> None:
    """Write the tables of the page from a record."""
    write_page(read(file), PAGE)
    click.echo(f"{PAGE} is written")


if __name__ == "__main__":
    main()
