"""SQLAlchemy's connections for the daemon: to make and change tables, and to read."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from . import faults, sqlite
from .sqlite import READ_ONLY, READERS, Durability, connected


def writing(file: Path, durability: Durability) -> Engine:
    """Return an engine for whoever makes tables or changes them; see `sqlite.writing`."""
    return _engine(lambda: sqlite.writing(file, durability), "BEGIN IMMEDIATE")


def reading(uri: str) -> Engine:
    """Return an engine that cannot write; each transaction sees one state of the database.

    Args:
        uri: As `sqlite.reading_uri` makes it.
    """
    return _engine(lambda: connected(uri, READ_ONLY), "BEGIN")


def _engine(creator: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://",
        # No isolation level: SQLAlchemy says when a transaction begins, not the driver.
        creator=creator,
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
