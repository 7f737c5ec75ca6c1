"""What every command of `fl` shares: how it ends, how it logs, how it prints tables."""

import csv
import errno
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any, Literal, NoReturn, TypeVar

import click

from fl_main.errors import FLError, SettingsError
from fl_main.log_handler import PatientHandler
from fl_main.printable import printable

Row = Mapping[str, object]
Output = Literal["table", "json", "csv"]
_F = TypeVar("_F", bound=Callable[..., Any])

_OF_NAMES = ("run", "agent")  # columns of what people name as they like
_LONGEST_NAME = 40  # characters of one in a table that is too wide for the terminal
_INTERRUPTED = 130  # what shells report for a process that ended by SIGINT: 128 and the signal's number


class CommandGroup(click.Group):
    """A group of commands that ends as all of ours do: one line for an error, no traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command named by the arguments; see `click.Command.main`."""
        run = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        return sys.exit(_exit_code(run)) if standalone_mode else run()


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported when it is used; its line of help is known before."""

    target: str  # module:name
    help: str


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are used.

    Args:
        lazy: Its commands by name, in the order in which help lists them.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in self.lazy:
            return None
        module, _, name = self.lazy[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.lazy.items()])


def run_command(
    command: click.Command, args: Sequence[str] | None = None, prog_name: str | None = None
) -> NoReturn:
    """Run a command and end the process.

    The exit code is 0, or 2 for wrong settings or arguments, 130 after Ctrl-C, and 1 for any other
    error of ours, or (in silence) if nobody reads the output any more. Anything else is a bug and
    keeps its traceback.

    Args:
        command: The command, of any click class.
        args: Its arguments; None for those of the process.
        prog_name: What help calls the program; None for what it was started as.
    """
    sys.exit(_exit_code(lambda: command.main(args, prog_name, standalone_mode=False)))


def _exit_code(run: Callable[[], object]) -> int:
    try:
        result = run()
        sys.stdout.flush()  # here a broken pipe can be handled, at exit it cannot
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except FLError as exc:
        print_error(exc)
        return 2 if isinstance(exc, SettingsError) else 1
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 1  # as click does, where it is the one to notice
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _silence_stdout()  # else the flush at exit fails, too
        print_error(FLError(f"cannot write all of the answer: {exc.strerror}; free some space on that disk"))
        return 1
    return result if type(result) is int else 0  # click hands out the code of ctx.exit(code) as a result


def print_error(error: FLError) -> None:
    """Print an error to stderr, each of its lines after `error:`."""
    for line in str(error).splitlines() or [type(error).__name__]:
        click.echo(f"error: {printable(line)}", err=True)


def print_line(text: str) -> None:
    """Print a line of which others, such as agents, may have said a part."""
    click.echo(printable(text))


def _silence_stdout() -> None:
    """Let the flush at exit go nowhere, so that it does not report again what the command ended with."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_logging(format: Literal["text", "json"] = "text", verbose: bool = False) -> None:
    """Send the log to stderr; for programs of ours only, the library never configures logging.

    Args:
        format: One line for people, or one JSON object a line with ts, level, logger and message.
        verbose: Whether to show our own DEBUG lines; other libraries are shown from WARNING on.
    """
    handler = PatientHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fl_main").setLevel(logging.DEBUG if verbose else logging.INFO)


class _TextFormatter(logging.Formatter):
    """`2026-01-01T12:00:00 INFO fl_main.aggregator round complete round=3`, in local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class _JsonFormatter(logging.Formatter):
    """One object a line; times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def output_options(command: _F) -> _F:
    """Add `--json` and `--csv` to a command; it takes `output`, None if neither is given."""
    as_csv = click.option("--csv", "output", flag_value="csv", help="Print comma-separated values.")
    as_json = click.option("--json", "output", flag_value="json", help="Print JSON.")
    return as_json(as_csv(command))


def print_table(
    rows: Sequence[Row], columns: Sequence[str] | Mapping[str, str], output: Output | None = None
) -> None:
    """Print rows to stdout: with rules on a terminal, aligned elsewhere, or as JSON or CSV.

    Args:
        rows: Values by column; None and what is missing print as a dash.
        columns: Names of the columns to print, in order; or their headings by name.
        output: `table`, `json` (a list of objects) or `csv`; None is `table`.
    """
    headings = columns if isinstance(columns, Mapping) else {name: name for name in columns}
    if output == "json":
        chosen = [{name: row.get(name) for name in headings} for row in rows]
        click.echo(json.dumps(chosen, ensure_ascii=False, indent=2, default=str))
    elif output == "csv":
        click.echo(_as_csv(rows, list(headings)), nl=False)
    else:
        _print_text(rows, headings)


def _print_text(rows: Sequence[Row], headings: Mapping[str, str]) -> None:
    is_terminal, text = sys.stdout.isatty(), _as_text(rows, headings)
    if is_terminal and not _fits(text):
        rows = _with_short_names(rows)
        text = _as_text(rows, headings)
    if is_terminal and _fits(text):
        _print_rich(rows, headings)
    else:
        click.echo(text, nl=False)


def _with_short_names(rows: Sequence[Row]) -> Sequence[Row]:
    """Cut long names of runs and agents, which push all that is beside them off the screen.

    Where two names of a column would become one, that column stays as it is.
    """
    for column in _OF_NAMES:
        whole = {value for row in rows if isinstance(value := row.get(column), str)}
        short = {value: f"{value[: _LONGEST_NAME - 1]}…" for value in whole if len(value) > _LONGEST_NAME}
        if len({short.get(value, value) for value in whole}) == len(whole):
            rows = [{**row, column: short.get(str(name := row.get(column)), name)} for row in rows]
    return rows


def _fits(text: str) -> bool:
    """Whether a table is narrow enough for rules around it; rich would cut its cells."""
    return max(map(len, text.splitlines())) + 2 < shutil.get_terminal_size().columns


def _as_csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _as_text(rows: Sequence[Row], headings: Mapping[str, str]) -> str:
    """Columns two spaces apart; numbers to the right."""
    columns = [[heading, *(_cell(row.get(name)) for row in rows)] for name, heading in headings.items()]
    aligned = [
        [pad(cell, width) for cell in column]
        for name, column in zip(headings, columns, strict=True)
        for width, pad in [(max(map(len, column)), str.rjust if _is_numeric(rows, name) else str.ljust)]
    ]
    return "".join("  ".join(line).rstrip() + "\n" for line in zip(*aligned, strict=True))


def _print_rich(rows: Sequence[Row], headings: Mapping[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name, heading in headings.items():
        table.add_column(Text(heading), justify="right" if _is_numeric(rows, name) else "left")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in headings))  # Text: [no markup] in a cell
    Console(file=sys.stdout).print(table)


def _is_numeric(rows: Sequence[Row], name: str) -> bool:
    return all(isinstance(row.get(name), int | float | None) for row in rows)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
