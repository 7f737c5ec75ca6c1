"""Connections to SQLite: one that writes, any number that read."""

import sqlite3
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool

FILE = "fl.db"
BUSY_S = 10.0  # how long to wait for another process's lock; ours are held for milliseconds
READERS = 16


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
    ]
    return _engine(file.absolute().as_uri() + "?mode=rwc", pragmas, "BEGIN IMMEDIATE", READERS)


def reading(file: Path, *, immutable: bool = False) -> Engine:
    """Return an engine that cannot write; each transaction sees one state of the database.

    Args:
        file: The database.
        immutable: The file lies where SQLite cannot lock, and nobody writes to it.
    """
    mode = "?immutable=1" if immutable else "?mode=ro"
    return _engine("file:" + quote(str(file.absolute())) + mode, ["PRAGMA query_only = ON"], "BEGIN", READERS)


def _engine(uri: str, pragmas: list[str], begin: str, size: int) -> Engine:
    def connect() -> sqlite3.Connection:
        # No isolation level: SQLAlchemy says when a transaction begins, not the driver.
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in pragmas:
                connection.execute(pragma).close()
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite+pysqlite://", creator=connect, poolclass=QueuePool, pool_size=4, max_overflow=size
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
