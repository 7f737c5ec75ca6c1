"""`fl why`: what waits or failed, since when, on what evidence, and what helps."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fl_main.errors import ConnectionFailedError, StoreError
from fl_main.printable import printable
from fl_main.settings.files import load_aggregator
from fl_main.why.findings import Finding, seconds

from .cli import ask_daemon, operator_options


@click.command()
@click.argument("name", metavar="[RUN|AGENT|TASK]", required=False, default="")
@operator_options
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
def why(name: str, as_json: bool, **target: Any) -> None:
    """Tell why something waits or failed, and what would help.

    Without a name it tells of everything that waits or failed. RUN and AGENT are names or ids,
    TASK is an id or its beginning. If the daemon cannot be reached, its database is asked.
    """
    try:
        found = ask_daemon("why", about=name, **target)
    except ConnectionFailedError as error:
        found = _ask_database(name, error, **target)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else _print(found)


def _ask_database(
    name: str, error: ConnectionFailedError, file: Path | None, database: Path | None, **_: Any
) -> dict[str, Any]:
    from .app import ask_database

    folder = load_aggregator(file, {"database.folder": database} if database else {}).database.folder
    try:
        return ask_database(folder, name, str(error), time.time())
    except StoreError as missing:
        option = f"there is no folder {folder}; name the model database with --database"
        reason = missing if folder.is_dir() else option  # its own words name the option of `fl db`
        raise ConnectionFailedError(f"{error}\nits database cannot be asked either: {reason}") from missing


def _print(found: dict[str, Any]) -> None:
    findings = [Finding.from_wire(fields) for fields in found["findings"]]
    if not findings:
        click.echo("nothing waits, and nothing failed")
    for number, finding in enumerate(findings):
        if number:
            click.echo()
        _print_one(finding, found["now"])
    if found["left_out"]:
        click.echo(f"\nand {found['left_out']} more; name a run, an agent or a task")


def _print_one(finding: Finding, now: float) -> None:
    words = [str(finding.subject), finding.name]
    if finding.run not in ("", finding.name):
        words += ["of", finding.run]
    click.echo(printable(f"{' '.join(filter(None, words))}: {finding.what}"))
    facts = [("since", _past(finding.since_at, now))]
    facts += [("because", fact) for fact in finding.evidence]
    facts += [("helps", finding.remedy), ("at latest", _to_come(finding.ends_at, now))]
    last = ""
    for label, fact in facts:
        if fact:
            click.echo(f"  {label if label != last else '':<9}  {printable(fact)}")
            last = label


def _past(at: float | None, now: float) -> str:
    return "" if at is None else f"{_clock(at)} ({seconds(now - at)} ago)"


def _to_come(at: float | None, now: float) -> str:
    return "" if at is None else f"{_clock(at)} (in {seconds(at - now)})"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")
