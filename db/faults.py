"""What SQLite and the operating system say, as errors of ours: one line, with a remedy."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_main.errors import StoreDamagedError, StoreError, StoreFullError, StoreLockedError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_MAY_NOT = {errno.EACCES, errno.EPERM}


@contextmanager
def translated(place: Path, doing: str) -> Iterator[None]:
    """Turn whatever SQLite or the disk raise within into a `StoreError`, chained to its cause.

    Args:
        place: The folder or file that is worked on.
        doing: What is tried, for the message, e.g. "store records".
    """
    try:
        yield
    except OSError as error:
        raise of_disk(error, place, doing) from error
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise _of_sqlite(error, place, doing) from error


def of_disk(error: OSError, place: Path, doing: str) -> StoreError:
    """Return the error of ours for one of the operating system."""
    where = error.filename if isinstance(error.filename, str) else place
    if error.errno in _NO_ROOM:
        return StoreFullError(f"cannot {doing}: no room left for {where}; free some space on that disk")
    if error.errno == errno.EROFS:
        return StoreFullError(f"cannot {doing}: {where} is on a read-only disk; choose another folder")
    if error.errno in _MAY_NOT:
        return StoreError(f"cannot {doing}: no permission for {where}; allow it or choose another folder")
    return StoreError(f"cannot {doing} in {where}: {error.strerror or error}")


def _of_sqlite(error: BaseException, place: Path, doing: str) -> StoreError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_FULL":
        return StoreFullError(f"cannot {doing}: no room left for {place}; free some space on that disk")
    if name.startswith("SQLITE_READONLY"):
        return StoreFullError(f"cannot {doing}: {place} is read-only; allow writing or choose another folder")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreLockedError(f"cannot {doing}: another process is writing to {place}; try again later")
    if name == "SQLITE_NOTADB":
        return StoreError(f"cannot {doing}: {place} is not a model database; choose another folder")
    if name.startswith("SQLITE_CORRUPT"):
        return StoreDamagedError(
            f"cannot {doing}: the database in {place} is damaged ({error}); put a backup of it there"
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreError(f"cannot {doing}: {place} cannot be opened; check that it exists and may be read")
    return StoreError(f"cannot {doing} in {place}: {error}")
