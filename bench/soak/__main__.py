"""`python -m bench.soak`: a real daemon, a thousand real agents that come and go, and a verdict."""

import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from bench.soak.options import Options
from bench.soak.soak import soak
from tests.system.daemons import DaemonProcess


@click.command()
@click.option("--agents", default=1000, show_default=True, help="That take part at any time.")
@click.option("--minutes", default=20.0, show_default=True, help="Until the run is stopped.")
@click.option("--rounds", default=1, show_default=True, help="That must be done, or it goes on for a while.")
@click.option("--megabytes", default=1.0, show_default=True, help="Size of the model.")
@click.option("--mode", type=click.Choice(["sync", "semi-sync", "async"]), default="sync", show_default=True)
@click.option("--poll", default=0.0, show_default=True, help="Part of the agents that poll.")
@click.option(
    "--churn", default=120.0, show_default=True, help="Agents that leave, break or crash per minute."
)
@click.option("--pause", "pause_s", default=1.0, show_default=True, help="Seconds of an agent for a task.")
@click.option("--every", "every_s", default=10.0, show_default=True, help="Seconds between two lines.")
@click.option("--seed", default=0, show_default=True, help="Of what happens by chance.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to work; kept. Default: a temporary one."
)
@click.option("--output", type=click.Path(path_type=Path), help="CSV file for the samples.")
@click.option("--figure", type=click.Path(path_type=Path), help="SVG file for a figure of them.")
def main(folder: Path | None, output: Path | None, figure: Path | None, **how: object) -> None:
    """Let a thousand agents come and go for a while, and see whether the daemon stays as it is."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the clean-up
    with ExitStack() as opened:
        place = folder or Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="fl-soak-")))
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise click.UsageError(f"{place} is not empty: the run that lies there would go on")
        options = Options(**how, folder=place.resolve())  # type: ignore[arg-type]
        table = opened.enter_context(output.open("w", encoding="utf-8")) if output else None
        daemon = DaemonProcess(place, [options.run()], **options.settings())
        opened.callback(daemon.kill)
        sys.exit(0 if soak(options, daemon.started(), table, figure) else 1)


if __name__ == "__main__":
    main()
