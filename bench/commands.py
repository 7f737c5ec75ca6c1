"""The two commands of a measurement that a page tells of: `measure`, and `report` from its record."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import click


class Writable(Protocol):
    """A record of a measurement."""

    def write(self, file: Path) -> None:
        """Write it as JSON."""


R = TypeVar("R", bound=Writable)


def commands(
    about: str,
    kept_in: Path,
    *,
    measure: tuple[str, Callable[[int, Callable[[str], None]], R]],
    tables: Callable[[R], str],
    report: tuple[str, Callable[[Path], str]],
) -> click.Group:
    """Return a group of both commands.

    Args:
        about: What they are for.
        kept_in: Where the project keeps the record.
        measure: Help, and what measures with so many seeds and tells how far it is.
        tables: What is printed of a record.
        report: Help, and what writes the page from a record's file and says what is written.
    """

    @click.command("measure", help=measure[0])
    @click.option("--seeds", default=5, show_default=True, help="Trainings of each.")
    @click.option("--json", "file", type=click.Path(path_type=Path), help="Where the record goes.")
    def measure_command(seeds: int, file: Path | None) -> None:
        record = measure[1](seeds, click.echo)
        if file:
            record.write(file)
        click.echo(tables(record))

    @click.command("report", help=report[0])
    @click.argument("file", type=click.Path(path_type=Path, exists=True), default=kept_in)
    def report_command(file: Path) -> None:
        click.echo(f"{report[1](file)} written")

    return click.Group(help=about, commands=[measure_command, report_command])
