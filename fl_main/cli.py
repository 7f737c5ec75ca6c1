"""The root of the `fl` command: what it can do, and where the code for it lies."""

from dataclasses import dataclass
from importlib import import_module

import click

from fl_main import __version__
from fl_main.console import CommandGroup, run_command


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A command that is imported when it is used; its line of help is known before."""

    target: str  # module:name
    help: str


# Names in strings: the core must not import the folders beside it, and `fl --help` need not.
COMMANDS = {
    "aggregator": _Lazy("fl_main.aggregator.cli:aggregator", "Start the daemon that runs rounds."),
    "run": _Lazy("fl_main.aggregator.cli:run", "Create, list, show, pause and stop runs of a daemon."),
    "status": _Lazy("fl_main.aggregator.cli:status", "Show what a daemon is doing and what it waits for."),
    "why": _Lazy(
        "fl_main.aggregator.why_cli:why", "Tell why something waits or failed, and what would help."
    ),
    "agent": _Lazy("fl_main.agent.cli:agent", "Start an agent around a training function of yours."),
    "db": _Lazy("fl_main.db.cli:db", "Look into a model database."),
    "settings": _Lazy("fl_main.settings_cli:settings", "Check and explain settings files."),
}


class LazyGroup(CommandGroup):
    """A group whose commands are those of `COMMANDS`, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fl", message="%(prog)s %(version)s")
def fl() -> None:
    """Federated learning: several sites train one model, their data stays where it is."""


def main() -> None:
    """Run `fl` with the arguments of the process, and end the process."""
    run_command(fl, prog_name="fl")
