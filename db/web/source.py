"""The database that the page looks into, which may come, go and be replaced meanwhile."""

import os
import threading
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from fl_main.db.model_db import ModelDB


class Source:
    """Opens the database when it is first asked for, and again where another one lies in its place.

    Args:
        folder: The database's; it need not be there yet.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._opening = threading.Lock()
        self._opened: tuple[ModelDB, tuple[int, int]] | None = None
        self._replaced: list[ModelDB] = []  # others may still read from the last of them

    def database(self) -> ModelDB:
        """Return the database; may be called from any thread.

        Raises:
            StoreError: If there is none, or it cannot be read.
        """
        with self._opening:
            known = self._opened
            if known is not None and _identity(known[0].file) == known[1]:
                return known[0]
            self._let_go()
            found = ModelDB(self.folder)
            self._opened = (found, _identity(found.file))
            return found

    def _let_go(self) -> None:
        while self._replaced:
            self._replaced.pop().close()
        if self._opened is not None:
            self._replaced.append(self._opened[0])
            self._opened = None

    def close(self) -> None:
        """Close what is open; may be called twice."""
        with self._opening:
            self._let_go()
            self._let_go()


def _identity(file: Path) -> tuple[int, int]:
    """Return what tells a file from another one of the same name."""
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _database(request: Request) -> ModelDB:
    source: Source = request.app.state.source
    return source.database()


Database = Annotated[ModelDB, Depends(_database)]
