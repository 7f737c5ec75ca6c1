"""Questions in SQL: what only reads, for a bounded time, with a bounded answer."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_main.errors import StoreError

from ..faults import translated
from ..sqlite import READ_ONLY, connected

MOST_ROWS = 1000
SECONDS = 10.0

_LONGEST_BYTES = 64 << 20  # of one value, e.g. all names in one text
_STEPS = 10_000  # of SQLite's machine between two looks at the clock: a fraction of a millisecond

_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    getattr(sqlite3, "SQLITE_RECURSIVE", 33),  # 33: sqlite.org/c3ref/c_alter_table
}
_PRAGMAS = {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"}
_FUNCTIONS_REFUSED = {"load_extension", "fts3_tokenizer"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question was answered with.

    Attributes:
        columns: Their names, in order; two may have one name.
        rows: As many as were asked for at most.
        is_cut: Whether there are more.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    is_cut: bool


def ask(uri: str, place: Path, question: str, most_rows: int = MOST_ROWS, seconds: float = SECONDS) -> Answer:
    """Answer one SELECT (or VALUES, WITH … SELECT, EXPLAIN); see one state of the database.

    Nothing else is possible: the connection cannot write, and whatever is not reading (another file,
    a setting of the connection) is refused before it begins.

    Args:
        uri: How the database is opened for reading.
        place: Its file, for errors.
        question: In SQLite's SQL.
        most_rows: Of the answer.
        seconds: After which it is given up.

    Raises:
        StoreError: If it is no question, is wrong, or takes too long.
    """
    with translated(place, "read the model database"):
        connection = connected(uri, READ_ONLY)
    with closing(connection):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_BYTES)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(_is_over(seconds), _STEPS)
        try:
            return _answer(connection, question, most_rows)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            raise _told(error, seconds, place) from error


def _answer(connection: sqlite3.Connection, question: str, most_rows: int) -> Answer:
    cursor = connection.execute(question)
    if cursor.description is None:
        raise StoreError(
            "that is no question; begin with SELECT, and `fl db sql --views` lists what there is"
        )
    columns = tuple(name for name, *_ in cursor.description)
    rows = cursor.fetchmany(most_rows) if most_rows else []
    return Answer(columns, rows, cursor.fetchone() is not None)


def _authorize(action: int, one: str | None, other: str | None, place: str | None, inner: str | None) -> int:
    """Say whether SQLite may do what a statement asks for (sqlite.org/c3ref/set_authorizer)."""
    if action == sqlite3.SQLITE_PRAGMA:
        is_fine = one in _PRAGMAS
    elif action == sqlite3.SQLITE_FUNCTION:
        is_fine = (other or "").lower() not in _FUNCTIONS_REFUSED
    else:
        is_fine = action in _ALLOWED
    return sqlite3.SQLITE_OK if is_fine else sqlite3.SQLITE_DENY


def _is_over(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _told(error: Exception, seconds: float, place: Path) -> StoreError:
    words = str(error)
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_INTERRUPT":
        return StoreError(f"no answer within {seconds:g} s; ask for less, or give it more time (--seconds)")
    if name == "SQLITE_AUTH" or "not authorized" in words or "prohibited" in words:
        return StoreError(
            "only questions are answered (SELECT, WITH, VALUES): they change nothing and open no file"
        )
    if name == "SQLITE_TOOBIG":
        return StoreError(f"a value of the answer has more than {_LONGEST_BYTES >> 20} MiB; ask for less")
    if name in ("", "SQLITE_ERROR", "SQLITE_MISUSE", "SQLITE_MISMATCH", "SQLITE_RANGE"):
        return StoreError(f"{words}; `fl db sql --views` lists what one can ask for")
    return StoreError(f"cannot read the model database in {place}: {words}")
