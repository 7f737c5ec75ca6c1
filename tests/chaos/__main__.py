"""`python -m tests.chaos`: kill real processes until enough died, and check that nothing was lost."""

import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.driver import run
from tests.chaos.faults import FAULTS
from tests.chaos.options import Options

NAMES = [fault.__name__ for fault in FAULTS]


@click.command()
@click.option("--seed", type=int, help="Of what happens by chance; default: a new one.")
@click.option("--kills", default=100, show_default=True, help="Processes to kill.")
@click.option("--seconds", default=3600.0, show_default=True, help="After which no more faults are made.")
@click.option("--pace", default=0.5, show_default=True, help="Seconds between two faults, on average.")
@click.option("--sites", default=3, show_default=True, help="Sites of each run.")
@click.option("--rounds", default=40, show_default=True, help="Rounds of a run with a small model.")
@click.option("--large-mb", default=3.0, show_default=True, help="Size of the large model; 0: no such runs.")
@click.option("--disk-mb", default=256, show_default=True, help="Room on the disk when a run begins.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; kept. Default: a new one.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Make this fault; may be given again.")
def main(
    seed: int | None,
    kills: int,
    seconds: float,
    pace: float,
    sites: int,
    rounds: int,
    large_mb: float,
    disk_mb: int,
    folder: Path | None,
    only: tuple[str, ...],
) -> None:
    """Kill daemons and sites while they train, and check afterwards that nothing was lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the clean-up
    place = folder or Path(tempfile.mkdtemp(prefix="fl-chaos-"))
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    options = Options(seed, kills, seconds, pace, sites, rounds, large_mb, disk_mb, place.resolve(), only)
    if not run(options):
        sys.exit(1)
    if folder is None:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
