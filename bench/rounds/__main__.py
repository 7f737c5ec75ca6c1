"""`python -m bench.rounds measure`: our rounds beside the floor and others'; `report`: tables and figures."""

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.database.make import Shape
from bench.database.measure import measure_database
from bench.rounds.compare import Size, ratio, size_of
from bench.rounds.contestants import CONTESTANTS
from bench.rounds.figures import draw
from bench.rounds.idle import measure_idle
from bench.rounds.measure import measure
from bench.rounds.plan import FLOORS, FULL, IDLE_AGENTS, SHORT, Part
from bench.rounds.processes import ROOT
from bench.rounds.record import Record, Run, begun, read
from bench.rounds.report import mib_text, seconds_text, sections, write_page
from bench.rounds.work import CannotRunError

DOCS = ROOT / "docs"
RECORD = DOCS / "records" / "benchmarks.json"
READ_S = 20.0  # that readers and a writer go on
PAGE, FIGURES = DOCS / "benchmarks.md", DOCS / "figures"


def size(text: str) -> Size:
    """Return the size that was given as `25x10`."""
    megabytes, _, agents = text.partition("x")
    try:
        found = Size(float(megabytes), int(agents))
    except ValueError:
        found = Size(0, 0)
    if not (found.megabytes > 0 and found.agents > 0):
        raise click.BadParameter(f"{text!r} is not megabytes and agents, such as 25x10")
    return found


@click.group()
def main() -> None:
    """Time rounds of FedAvg with clients that do not train, and the memory they take."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the clean-up


@main.command("measure")
@click.option("--full", is_flag=True, help="Everybody, all sizes, more than an hour; otherwise minutes.")
@click.option(
    "--contestant", "contestants", type=click.Choice([*CONTESTANTS]), multiple=True, help="Only these."
)
@click.option("--size", "sizes", type=size, multiple=True, help="Only these, such as 25x10.")
@click.option(
    "--network", type=click.Choice(["loopback", "tls", "line"]), default="loopback", help="For --size."
)
@click.option("--repeats", default=3, show_default=True, help="Turns of all contestants.")
@click.option("--rounds", type=int, help="Timed in a run; default: by the size.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where the record goes.")
@click.option("--resume", is_flag=True, help="Go on with the record that is there.")
def measure_command(
    full: bool,
    contestants: tuple[str, ...],
    sizes: tuple[Size, ...],
    network: Any,
    repeats: int,
    rounds: int | None,
    file: Path | None,
    resume: bool,
) -> None:
    """Let contestants do the same work in turns."""
    parts: Sequence[Part] = FULL if full else SHORT
    if sizes:
        parts = (Part(contestants or ("floor", "ours"), sizes, network),)
    elif contestants:
        chosen = [tuple(name for name in part.contestants if name in contestants) for part in parts]
        parts = tuple(
            Part(names, part.sizes, part.network) for names, part in zip(chosen, parts, strict=True)
        )
    record = read(file) if resume and file and file.exists() else begun()

    def told(run: Run) -> None:
        _tell(record, run)
        if file:
            record.write(file)  # after every run: an hour is not lost with the last minute

    measure(record, parts, repeats, rounds, told)
    if full and not sizes:
        if record.idle is None:
            _measure_idle(record)
        if file:
            record.write(file)
        if record.database is None:
            _measure_database(record)
    if file:
        record.write(file)
    _tell_tables(record)


@main.command("report")
@click.argument("record", type=click.Path(path_type=Path, exists=True), default=RECORD)
def report_command(record: Path) -> None:
    """Write tables into docs/benchmarks.md and figures into docs/figures from a record."""
    found = read(record)
    write_page(found, PAGE)
    draw(found, FIGURES)
    click.echo(f"written: {PAGE}, and three figures in {FIGURES}")


def _measure_idle(record: Record) -> None:
    try:
        record.idle = measure_idle(IDLE_AGENTS)
    except CannotRunError as error:
        click.echo(f"idle agents were not measured: {error}")


def _measure_database(record: Record) -> None:
    with tempfile.TemporaryDirectory(prefix="fl-bench-", ignore_cleanup_errors=True) as work:
        folder = Path(work)
        record.database = measure_database(folder / "models", folder, Shape(), READ_S, click.echo)


def _tell(record: Record, run: Run) -> None:
    """Print what came of a run."""
    words = run.problem or f"{seconds_text(run.round_s)} a round, {mib_text(run.peak_mib)}"
    floor = FLOORS.get(run.contestant, "")
    beside = ratio(record.runs, run.contestant, floor, size_of(run), run.network)
    if beside is not None and not run.problem:
        words += f", {beside:.2f} times the {floor} so far"
    click.echo(f"{size_of(run)!s:>10} {run.network:<8} {run.contestant:<17} {words}")


def _tell_tables(record: Record) -> None:
    for name, text in sections(record).items():
        if text != "Not measured.":
            click.echo(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
