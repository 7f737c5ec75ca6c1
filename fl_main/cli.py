"""The root of the `fl` command: what it can do, and where the code for it lies."""

import click

from fl_main import __version__
from fl_main.console import Lazy, LazyGroup, run_command

# Names in strings: the core must not import the folders beside it, and `fl --help` need not.
COMMANDS = {
    "aggregator": Lazy("fl_main.aggregator.cli:aggregator", "Start the daemon that runs rounds."),
    "run": Lazy(
        "fl_main.aggregator.cli:run", "Create, list, show, stop, resume and roll back runs of a daemon."
    ),
    "status": Lazy("fl_main.aggregator.cli:status", "Show what a daemon is doing and what it waits for."),
    "why": Lazy("fl_main.aggregator.why_cli:why", "Tell why something waits or failed, and what would help."),
    "agent": Lazy("fl_main.agent.cli:agent", "Start an agent around a training function of yours."),
    "db": Lazy("fl_main.db.cli:db", "Look into a model database."),
    "settings": Lazy("fl_main.settings.cli:settings", "Check and explain settings files."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fl", message="%(prog)s %(version)s")
def fl() -> None:
    """Federated learning: several sites train one model, their data stays where it is."""


def main() -> None:
    """Run `fl` with the arguments of the process, and end the process."""
    run_command(fl, prog_name="fl")
