"""A second writer of a model database: beside a daemon that has it open, or without one.

SQLite lets one writer at a time through, who holds the database for milliseconds; whoever else wants
to write waits. A daemon notices with its next transaction that somebody else has written.

Where no daemon has the folder, the second writer locks it, so that none begins in the middle. Where one
has it, another may begin when that one ends: a claim tells it that not all that is staged is its own.
A database is made and brought up to date by daemons only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from sqlalchemy import Connection as Rows

from fl_main.errors import StoreError, StoreLockedError
from fl_main.ports import Lock
from fl_main.settings import DatabaseSettings
from fl_main.store import Record

from .. import disk, migrations, recovery, sqlite
from ..batch import Batch
from ..engine import plain
from ..store import ModelStore

_LASTING = DatabaseSettings(durability="power")  # what it says was done is done, whatever a daemon risks


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction of a second writer, which is stored as a whole or not at all.

    Attributes:
        connection: To ask what is there: until the transaction ends, nobody else changes it. Its rows
            know their columns' names.
        at: Wall time that its records get, Unix seconds.
    """

    connection: Connection
    at: float
    _batch: Batch
    _remove: Callable[[Sequence[str], str], None]
    _let_go: Callable[[Sequence[str]], None]

    def add(self, records: Sequence[Record]) -> None:
        """Take records in order; staged files that they name are moved into their places."""
        self._batch.add_all(records)

    def place(self, moves: Sequence[tuple[str | None, str]]) -> None:
        """Move staged files into their places at the end; see `ModelFiles.place`."""
        self._batch.moves += moves

    def remove(self, model_ids: Sequence[str], reason: str) -> None:
        """Let rows say that models are not stored any more, and why.

        Their files are deleted after the transaction, but those that another stored model is in.
        """
        if model_ids:
            self._remove(model_ids, reason)

    def let_go(self, digests: Sequence[str]) -> None:
        """Delete files after the transaction, where no stored model is in them.

        For those of models that were removed before: whoever did it may have ended before they were gone.
        """
        self._let_go(digests)


class SecondWriter(ModelStore):
    """A store of a database that is there already, whoever else has it open.

    It offers what a daemon's store does (`commit`, `stage`, `read`, …) and transactions that ask before
    they change. May be used as a context manager.

    Args:
        folder: The database's folder.
        clock: Wall time in Unix seconds.

    Attributes:
        is_alone: Whether no daemon has the folder, nor can open it meanwhile.

    Raises:
        StoreVersionError: If the database is older or newer than this code.
        StoreError: If there is none, or it cannot be opened.
    """

    def __init__(self, folder: Path | str, clock: Callable[[], float] = time.time) -> None:
        self._take_back: Callable[[], None] | None = None
        super().__init__(folder, _LASTING, clock)

    @property
    def is_alone(self) -> bool:
        """See the class."""
        return self._lock is not None

    def _locked(self) -> Lock | None:
        if not self._file.is_file():
            raise StoreError(f"{self.folder} has no model database in it ({sqlite.FILE} is missing)")
        try:
            return super()._locked()
        except StoreLockedError:
            return None

    def _migrate(self) -> None:
        with self._read() as connection:
            version = migrations.version_of(plain(connection), str(self._file))
        migrations.require_readable(version, str(self._file))

    def _look_through(self) -> None:
        """Leave what a crash left to the next start of a daemon, or to `tidy`; say that we are at work."""
        if not self.is_alone:
            with self._writing, self._transaction("write to the model database"):
                self._take_back = disk.claim(self.folder, self._files_on)

    def tidy(self) -> None:
        """Delete what others left who were killed, as the start of a daemon does.

        Beside a daemon, only what was to be deleted goes: what else is staged may be its own.
        """
        with self._writing:
            self._sweep_staging()
            with self._read() as connection:
                self._let_go |= dict.fromkeys(recovery.unnamed(connection, self._files))
            self._delete_files()

    def close(self) -> None:
        """See `ModelStore.close`."""
        super().close()
        if self._take_back is not None:
            self._take_back()

    def rows(self) -> AbstractContextManager[Rows]:
        """Lend a connection that reads: within a change, what was there when it began."""
        return self._read()

    @contextmanager
    def changing(self, doing: str) -> Iterator[Change]:
        """Do one transaction.

        It waits for its turn as long as SQLite does (`sqlite.BUSY_S`).

        Args:
            doing: What is tried, for errors, e.g. "prune the model database".

        Raises:
            StoreLockedError: If it waited in vain; nothing was changed.
            StoreError: If it cannot be done; nothing was changed.
        """
        with self._writing:
            let_go: dict[str, None] = {}
            with self._change(doing, self._clock()) as batch:

                def remove(model_ids: Sequence[str], reason: str) -> None:
                    let_go.update(dict.fromkeys(self._mark_removed(batch, model_ids, reason)))

                def let_go_of(digests: Sequence[str]) -> None:
                    let_go.update(dict.fromkeys(filter(self._files.has_name, digests)))

                yield Change(self._writer, batch.at, batch, remove, let_go_of)
            self._let_go |= let_go
            self._delete_files()
