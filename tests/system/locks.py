"""The model database held by somebody else."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold it as another process might: a backup, somebody's shell."""
    with closing(sqlite3.connect(folder / "fl.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
