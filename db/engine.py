"""SQLAlchemy's engines for the daemon: one connection that writes, any number that read."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from . import faults
from .sqlite import READ_ONLY, READERS, connected


def writing(file: Path, durability: Literal["process", "power"]) -> Engine:
    """Return an engine whose transactions take the write lock when they begin.

    Durability `process` lets the machine's loss of power undo the last transactions, in order;
    `power` does not.
    """
    synchronous = "FULL" if durability == "power" else "NORMAL"
    pragmas = [
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {synchronous}",
        "PRAGMA fullfsync = ON",  # only macOS knows it, and only `power` syncs at commits
        "PRAGMA foreign_keys = ON",
        "PRAGMA wal_autocheckpoint = 4000",  # pages: most are written again and again
    ]
    return _engine(file.absolute().as_uri() + "?mode=rwc", pragmas, "BEGIN IMMEDIATE")


def reading(uri: str) -> Engine:
    """Return an engine that cannot write; each transaction sees one state of the database.

    Args:
        uri: As `sqlite.reading_uri` makes it.
    """
    return _engine(uri, READ_ONLY, "BEGIN")


def _engine(uri: str, pragmas: Sequence[str], begin: str) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://",
        # No isolation level: SQLAlchemy says when a transaction begins, not the driver.
        creator=lambda: connected(uri, pragmas),
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=READERS,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def plain(connection: Connection) -> sqlite3.Connection:
    """Return the connection beneath, in the same transaction: for what readers share with the daemon."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


@contextmanager
def translated(place: Path, doing: str) -> Iterator[None]:
    """Do as `faults.translated`, where SQLite's errors come wrapped in SQLAlchemy's."""
    with faults.translated(place, doing):
        try:
            yield
        except DBAPIError as error:
            raise (error.orig or error) from error
