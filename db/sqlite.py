"""SQLite as it comes with Python: how our database is opened, and connections that read.

Who looks into a database needs no more than this, and the daemon writes by it. The schema and what
changes it are SQLAlchemy's (`engine`, `schema`, `upgrade`), which takes longer to load than a question
to answer.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

FILE = "fl.db"
APPLICATION_ID = 0x666C6D64  # "flmd": tells our files from other SQLite files (sqlite.org/fileformat2)
BUSY_S = 10.0  # how long to wait for another process's lock; ours are held for milliseconds
READERS = 16  # connections that are kept

Durability = Literal["process", "power"]


def connected(uri: str, pragmas: Sequence[str]) -> sqlite3.Connection:
    """Return a connection whose transactions begin and end when they are told to.

    Args:
        uri: The file and how to open it (sqlite.org/uri).
        pragmas: Statements that come first.
    """
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in pragmas:
            connection.execute(pragma).close()
    except BaseException:
        connection.close()
        raise
    return connection


def writing(file: Path, durability: Durability) -> sqlite3.Connection:
    """Return a connection that writes; its rows know their columns' names.

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
    connection = connected(file.absolute().as_uri() + "?mode=rwc", pragmas)
    connection.row_factory = sqlite3.Row
    return connection


def reading_uri(file: Path, *, immutable: bool = False) -> str:
    """Return how a database is opened that is only read.

    Args:
        file: The database.
        immutable: It lies where SQLite cannot lock, and nobody writes to it.
    """
    return "file:" + quote(str(file.absolute())) + ("?immutable=1" if immutable else "?mode=ro")


READ_ONLY = ("PRAGMA query_only = ON",)


class Readers:
    """Connections that cannot write, for any number of threads; each is used by one at a time.

    Args:
        file: The database.
        immutable: See `reading_uri`.

    Attributes:
        uri: How each of them is opened.
    """

    def __init__(self, file: Path, *, immutable: bool = False) -> None:
        self.uri = reading_uri(file, immutable=immutable)
        self._idle: list[sqlite3.Connection] = []

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees one state of the database; rows know their columns' names."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connected(self.uri, READ_ONLY)
            connection.row_factory = sqlite3.Row
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.rollback()
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if len(self._idle) < READERS:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close those that are not in use; may be called again."""
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        self.close()
