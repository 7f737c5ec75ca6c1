"""`fl why` without a daemon: the same answers, from what it stored.

Runs are made anew from their rows as the daemon does at its start; nothing is written, and no
code of a user is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select

from fl_main.errors import FLError
from fl_main.ledger import Ledger
from fl_main.settings import RunSettings
from fl_main.store import PastEvent, RunSnapshot
from fl_main.strategies import FedAvg, Strategy, strategy_of
from fl_main.why import HISTORY, MOST, about, everything
from fl_main.why.findings import Finding, Standing, Subject, View, seconds

from . import engine, schema, snapshots
from .engine import translated
from .model_db import ModelDB


def explain(folder: Path, name: str, unreachable: str, now: float) -> dict[str, Any]:
    """Return what a database says of a run, agent or task; without a name all that waits or failed.

    Args:
        folder: The database's.
        name: A run's or agent's name or id, or a task's id or its beginning.
        unreachable: Why the daemon cannot be asked.
        now: Wall time, Unix seconds.

    Raises:
        StoreError: If there is no database, or it cannot be read.
        UnknownNameError: If the name names nothing, or several things.
    """
    with ModelDB(folder) as database, _connected(database) as connection:
        views, broken = _views(database, connection, now)
        if name:
            stored = snapshots.tasks_beginning(connection, name, MOST)
            found = [entry for entry in broken if entry.name == name] or about(name, views, stored)
        else:
            found = [*broken, *everything(views)]
        found.insert(0, _daemon(folder, connection, unreachable, now))
    return {
        "from": "database",
        "now": now,
        "findings": [finding.to_wire() for finding in found[:MOST]],
        "left_out": max(0, len(found) - MOST),
    }


@contextmanager
def _connected(database: ModelDB) -> Iterator[Connection]:
    """Lend a connection such as the daemon reads with; SQLAlchemy's pool is not kept."""
    reading = engine.reading(database.uri)
    try:
        with translated(database.file, "read the model database"), reading.connect() as connection:
            yield connection
    finally:
        reading.dispose()


def _views(database: ModelDB, connection: Connection, now: float) -> tuple[list[View], list[Finding]]:
    """Return the runs, and a finding for each that cannot be made anew."""
    views, broken = [], []
    for snapshot in snapshots.read_all(connection, database.layout):
        try:
            views.append(_view(connection, snapshot, now))
        except (FLError, ValidationError) as error:
            run = snapshot.run.name
            remedy = "correct what the reason names, then start the aggregator"
            what = f"cannot go on: {' '.join(str(error).split())}"  # in one line
            broken.append(Finding(Subject.RUN, run, run, Standing.FAILED, what, remedy))
    return views, broken


def _view(connection: Connection, snapshot: RunSnapshot, now: float) -> View:
    run, table = snapshot.run, schema.runs
    settings = RunSettings.stored(run.settings)
    ledger = Ledger(settings, _strategy(settings), snapshot)
    changed_at = connection.execute(
        select(table.c.changed_at).where(table.c.run_id == run.run_id)
    ).scalar_one()
    history = snapshots.latest_events(connection, run.run_id, HISTORY)
    return View(ledger, run.run_time_s, now, history, is_up=False, still_since=changed_at)


def _strategy(settings: RunSettings) -> Strategy:
    """Return the run's strategy, or a plain one in place of a user's: a look runs no code of others."""
    is_foreign = any(":" in name for name, _ in settings.steps)
    return FedAvg() if is_foreign else strategy_of(settings)


def _daemon(folder: Path, connection: Connection, unreachable: str, now: float) -> Finding:
    """Say that this is the database's answer, and how old it is."""
    last_at = snapshots.last_commit_at(connection)
    ends = [
        past
        for past in snapshots.latest_events(connection, "", HISTORY)
        if past.event.kind in ("daemon_started", "daemon_stopped")
    ]
    age = f"its last fact is {seconds(now - last_at)} old" if last_at is not None else "it holds no fact yet"
    return Finding(
        Subject.AGGREGATOR,
        "",
        "",
        Standing.FAILED,
        f"does not answer; what follows is from its database {folder}",
        "start it: fl aggregator; or name the right one with --url",
        ends[-1].at if ends and ends[-1].event.kind == "daemon_stopped" else None,
        (unreachable, age, *_last_end(ends, now)),
    )


def _last_end(ends: list[PastEvent], now: float) -> list[str]:
    if not ends:
        return []
    ago = seconds(now - ends[-1].at)
    if ends[-1].event.kind == "daemon_stopped":
        return [f"it was stopped in order {ago} ago"]
    where = ends[-1].event.details.get("url")
    return [f"it was started {ago} ago at {where}, and was not stopped in order since"]
