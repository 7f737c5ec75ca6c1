"""The model database as the daemon uses it: SQLite for facts, one file per model.

Others may write to it, too (`upkeep.writing`): whatever depends on rows that are there already is
looked up within a transaction, which SQLite gives to one writer at a time, and files are moved into
and out of their places only within one.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Table, select

from fl_main.digests import DigestAlgorithm
from fl_main.disk import REAL_DISK
from fl_main.errors import StoreDamagedError, StoreError
from fl_main.ports import Disk, Lock
from fl_main.settings import DatabaseSettings
from fl_main.store import Milestone, ModelRecord, PastEvent, Record, RunSnapshot, TaskRecord, UpdateRecord
from fl_main.weights import Array, Layout

from . import chain, disk, engine, milestones, queries, recovery, retention, rows, schema, snapshots, sqlite
from .batch import Batch, upsert
from .chain import Head
from .engine import translated
from .files import ModelFiles, StagedFile, StoredFile
from .migrations import algorithm_of
from .model_db import ModelDB
from .upgrade import migrate

logger = logging.getLogger("fl_main.db")

PRUNED = "deleted by the retention settings"


class ModelStore:
    """A `fl_main.store.Store` in a folder; one process at a time may have it open.

    Methods may be called from any thread: those that write wait for each other, those that
    read see the last commit.

    Args:
        folder: Made if it is not there.
        settings: Durability and retention; the folder they name is not used.
        clock: Wall time in Unix seconds, for what happens without a time given.
        files_on: The disk that the model files lie on; SQLite has its own way to it.

    Attributes:
        damages: What the look through the folder found missing, a line each.

    Raises:
        StoreLockedError: If another process has it open.
        StoreVersionError: If a newer version of this project made it.
        StoreError: If it cannot be opened or made.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: DatabaseSettings | None = None,
        clock: Callable[[], float] = time.time,
        files_on: Disk = REAL_DISK,
    ) -> None:
        self.folder = Path(folder)
        self.damages: list[str] = []
        self._settings = settings or DatabaseSettings()
        self._clock = clock
        self._file = self.folder / sqlite.FILE
        self._files_on = files_on
        self._writing = threading.Lock()
        self._heads: dict[str, Head] = {}
        self._layouts: dict[str, Layout] = {}
        self._let_go: dict[str, None] = {}  # digests of files that are to be deleted
        self._seen_version = 0  # of SQLite's for this connection: another one when others have written
        self._is_open = False
        self._lock = self._locked()
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _locked(self) -> Lock | None:
        """Make the folder ready and take its lock."""
        disk.prepare(self.folder)
        return disk.lock(self.folder, self._files_on)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _open(self) -> None:
        self._readers = engine.reading(sqlite.reading_uri(self._file))
        try:
            with translated(self._file, "open the model database"):
                self._writer = sqlite.writing(self._file, self._settings.durability)
                self._migrate()
                self._files = self._files_named()
            self._is_open = True
            self._files.make()
            self._look_through()
        except BaseException:
            self._is_open = False
            self._dispose()
            raise

    def _look_through(self) -> None:
        """Delete what a crash left, and note what is missing."""
        with self._writing:
            self._sweep_staging()
            with self._read() as connection:
                self.damages, unnamed = recovery.sweep_stored(connection, self._files)
            self._let_go |= dict.fromkeys(unnamed)
            self._delete_files()

    def _sweep_staging(self) -> None:
        """Delete what was staged for nothing; the caller holds the lock of this process."""
        with self._transaction("look through the staging files"), self._read() as connection:
            is_shared = self._lock is None or disk.is_claimed(self.folder, self._files_on)
            recovery.sweep_staging(connection, self._files, is_shared=is_shared)

    def _migrate(self) -> None:
        """Make the database, or bring it up to date."""
        wanted, place = DigestAlgorithm(self._settings.digest), str(self._file)
        opened = engine.writing(self._file, self._settings.durability)
        try:
            with opened.connect() as connection:
                migrate(connection, place, self._clock(), algorithm=wanted)
        finally:
            opened.dispose()

    def _files_named(self) -> ModelFiles:
        """Return the model files, named as the database says."""
        with self._read() as connection:
            found = algorithm_of(engine.plain(connection), str(self._file))
        if found is not DigestAlgorithm(self._settings.digest):
            text = "%s names model files by %s for good; database.digest is for new ones"
            logger.info(text, self._file, found)
        durable = self._settings.durability == "power"
        return ModelFiles(self.folder, found, self._files_on, durable=durable)

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Of the digests that name the model files; see `Store.algorithm`."""
        return self._files.algorithm

    # --- writing --------------------------------------------------------------------------

    def commit(self, records: Sequence[Record], at: float) -> None:
        """Store records in one transaction; see `Store.commit`.

        Raises:
            StoreError: If nothing was stored; staged files are still there for another try.
        """
        with self._writing, self._change("store records", at) as batch:
            batch.add_all(records)

    @contextmanager
    def _change(self, doing: str, at: float) -> Iterator[Batch]:
        """One transaction, and what is stored at its end; the caller holds the lock of this process."""
        with self._transaction(doing):
            batch = Batch(at, self._head_of, self._layouts.keys())
            yield batch
            self._insert(batch)
            self._files.place(batch.moves)
        self._committed(batch)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        """One transaction, in which nobody else writes; the caller holds the lock of this process.

        It goes past SQLAlchemy, which takes as long for its beginning as SQLite for all of it.
        """
        if not self._is_open:
            raise StoreError(f"the model database {self.folder} is closed")
        with translated(self._file, doing):
            self._execute("BEGIN IMMEDIATE")
            try:
                self._notice_others()
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # also where SQLite could not commit
                    self._writer.rollback()
                raise

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        self._writer.execute(statement, values).close()

    def _notice_others(self) -> None:
        """Forget the ends of the chains, if another process has written since our last transaction."""
        version = self._writer.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._seen_version = version
            self._heads.clear()

    def _committed(self, batch: Batch) -> None:
        self._heads.update(batch.heads)
        self._layouts.update(batch.layouts)
        for _, digest in batch.moves:
            self._let_go.pop(digest, None)  # it is needed again

    def _insert(self, batch: Batch) -> None:
        for table, table_rows in batch.tables.items():
            self._write(upsert(table), table_rows)

    def _write(self, statement: str, table_rows: list[dict[str, Any]]) -> None:
        self._writer.executemany(statement, table_rows).close()

    def _head_of(self, run_id: str) -> Head:
        return self._heads.get(run_id) or chain.head_of(self._writer, run_id)

    def prune(self) -> int:
        """Delete files that the retention settings let go; return how many bytes that freed.

        Rows stay and say why their file is gone. The files are set aside after the commit, and
        deleted without holding up others; if the process ends in between, the next start finds
        them without a row and deletes them.
        """
        if self._settings.retention.keep == "all" or not (self._let_go or self._may_prune()):
            return 0
        with self._writing:
            with self._change("prune the model database", self._clock()) as batch:
                with self._read() as connection:  # it sees the same: nobody else writes meanwhile
                    stored = retention.stored_models(connection, self._settings.retention)
                chosen = retention.choose(stored, self._settings.retention)
                if chosen:
                    gone = [model.model_id for group in chosen.values() for model in group]
                    self._mark_removed(batch, gone, PRUNED)
            self._let_go |= dict.fromkeys(chosen)
            self._delete_files()
        return sum(group[0].size for group in chosen.values())

    def _may_prune(self) -> bool:
        """Whether anything may have to go; commits go on while we look."""
        with self._read() as connection:
            return bool(retention.candidates(connection, self._settings.retention))

    def _delete_files(self) -> None:
        """Delete the files that were let go, unless somebody needs them again.

        They are set aside within a transaction, as an equal model may be on its way, here or in another
        process; what fails is tried the next time. A process that ends before leaves them to the next
        start, which finds them without a row.
        """
        if not self._let_go:
            return
        aside: list[str] = []
        with translated(self._files.folder, "delete model files"):
            with self._transaction("delete model files"):
                needed = self._stored_among(self._let_go)
                for digest in list(self._let_go):
                    if digest not in needed:
                        aside.append(self._files.set_aside(digest))
                    del self._let_go[digest]
            for name in aside:
                self._files.unstage(name)

    def _stored_among(self, digests: Iterable[str]) -> set[str]:
        """Return those whose files some model needs."""
        query = "SELECT digest FROM files WHERE is_stored AND digest IN (SELECT value FROM json_each(?))"
        return {row["digest"] for row in self._writer.execute(query, (json.dumps(list(digests)),))}

    def _mark_removed(self, batch: Batch, model_ids: Sequence[str], reason: str) -> list[str]:
        """Let rows say that models are not stored any more; return the digests that no model needs now."""
        ids = json.dumps(model_ids)  # one statement for however many there are, see `schema.among`
        self._execute(
            "UPDATE models SET is_stored = 0, not_stored_reason = ?, changed_at = ? "
            "WHERE model_id IN (SELECT value FROM json_each(?))",
            (reason, batch.at, ids),
        )
        parents = queries.parents_of(self._writer, model_ids)
        query = "SELECT * FROM models WHERE model_id IN (SELECT value FROM json_each(?))"
        touched: dict[str, None] = {}
        for row in self._writer.execute(query, (ids,)):
            touched[row["digest"]] = None
            facts = rows.model_facts(row, parents[row["model_id"]])
            batch.add_facts(row["run_id"], rows.MODEL.word, row["model_id"], facts)
        return self._mark_files(list(touched))

    def _mark_files(self, digests: list[str]) -> list[str]:
        """Let rows say that files are not stored any more, but those that a stored model is in."""
        query = (
            "SELECT DISTINCT digest FROM models "
            "WHERE is_stored AND digest IN (SELECT value FROM json_each(?))"
        )
        held = {row["digest"] for row in self._writer.execute(query, (json.dumps(digests),))}
        gone = [digest for digest in digests if digest not in held]
        self._execute(
            "UPDATE files SET is_stored = 0 WHERE digest IN (SELECT value FROM json_each(?))",
            (json.dumps(gone),),
        )
        return gone

    # --- reading --------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with translated(self._file, "read the model database"), self._readers.connect() as connection:
            yield connection

    def snapshots(self) -> list[RunSnapshot]:
        """Return all runs as they stand, the oldest first."""
        with self._read() as connection:
            return snapshots.read_all(connection, lambda digest: self._layout(connection, digest))

    def find_task(self, task_id: str) -> tuple[TaskRecord, UpdateRecord | None] | None:
        """Return a task of any round, and its first recorded answer."""
        with self._read() as connection:
            return snapshots.find_task(connection, task_id)

    def tasks_beginning(self, beginning: str, most: int) -> list[tuple[TaskRecord, UpdateRecord | None]]:
        """Return tasks of any run whose ids begin so; see `Store.tasks_beginning`."""
        with self._read() as connection:
            return snapshots.tasks_beginning(connection, beginning, most)

    def events(self, run_id: str | None, most: int) -> list[PastEvent]:
        """Return the latest events of a run, or of none, the oldest first."""
        with self._read() as connection:
            return snapshots.latest_events(connection, run_id or "", most)

    def last_commit_at(self) -> float | None:
        """Return the wall time of the last commit, if there ever was one."""
        with self._read() as connection:
            return snapshots.last_commit_at(connection)

    def find_model(self, model_id: str) -> ModelRecord | None:
        """Return a model by its id."""
        with self._read() as connection:
            found = snapshots.models_by_id(
                connection, [model_id], lambda digest: self._layout(connection, digest)
            )
            return found.get(model_id)

    def named_model(self, reference: str) -> ModelRecord:
        """Return a model by what people call it; see `Store.named_model`."""
        with ModelDB(self.folder) as db:
            model = db.model(reference)
        if not model.is_stored:
            raise StoreError(f"model {model.model_id} is not stored: {model.not_stored_reason}")
        with self._read() as connection:
            [found] = snapshots.models_by_id(
                connection, [model.model_id], lambda digest: self._layout(connection, digest)
            ).values()
        return found

    def settings_of(self, run_id: str) -> Mapping[str, Any]:
        """Return what a run was created with; see `Store.settings_of`."""
        with ModelDB(self.folder) as db:
            run = db.find_run(run_id)
        return run.facts.settings if run else {}

    def whole(self, model_id: str) -> tuple[dict[str, Array], Layout]:
        """Return a model's arrays by name, and their layout; see `Store.whole`."""
        with ModelDB(self.folder) as db:
            model = db.model_by_id(model_id)
            return model.weights(), model.decoded_layout

    def milestone(self, run_id: str, round_id: int) -> Milestone | None:
        """Return how a run stood when a round was over; see `Store.milestone`."""
        with self._read() as connection:
            return milestones.read(
                connection, run_id, round_id, lambda digest: self._layout(connection, digest)
            )

    def _layout(self, connection: Connection, digest: str) -> Layout:
        layout = self._layouts.get(digest) or snapshots.read_layout(connection, digest)
        if layout is None:
            raise StoreDamagedError(f"{self._file}: layout {digest} is missing; see `fl db verify`")
        return self._layouts.setdefault(digest, layout)

    def is_staged(self, name: str) -> bool:
        """Whether there is such a staging file; see `Store.is_staged`."""
        return self._files.is_staged(name)

    def unstage(self, task_ids: Sequence[str]) -> None:
        """Delete what is staged of answers to tasks; see `Store.unstage`."""
        over = set(task_ids)
        with translated(self._files.staging, "delete staging files"):
            for name in self._files.staged():
                if name.partition(".")[0] in over:
                    self._files.unstage(name)

    def stage(self, name: str, layout: Layout, *, resume: bool = False) -> StagedFile:
        """Open a staging file; see `Store.stage`."""
        return self._files.stage(name, layout, resume=resume)

    def read(self, digest: str, layout: Layout | None = None) -> StoredFile:
        """Open a stored payload; see `Store.read`.

        Raises:
            StoreDamagedError: If its file is missing or of the wrong size.
            StoreError: If no model has this digest, or its file was deleted.
        """
        return self._files.open(digest, layout or self._layout_of(digest))

    def _layout_of(self, digest: str) -> Layout:
        table: Table = schema.files
        with self._read() as connection:
            query = select(table.c.layout_digest, table.c.is_stored).where(table.c.digest == digest)
            row = connection.execute(query).one_or_none()
            if row is None:
                raise StoreError(f"no model in {self.folder} has the digest {digest}")
            if not row.is_stored:
                raise StoreError(f"model {digest} is not stored any more: {_why_gone(connection, digest)}")
            return self._layout(connection, row.layout_digest)

    def free_bytes(self) -> int:
        """Return the room left on the disk."""
        return disk.free_bytes(self.folder)

    def close(self) -> None:
        """Flush and close; may be called twice."""
        with self._writing:
            if not self._is_open:
                return
            self._is_open = False
            self._dispose()
            self._unlock()

    def _dispose(self) -> None:
        """Close all connections, the writer last: it brings the journal into the database file."""
        self._readers.dispose()
        with suppress(AttributeError):  # it was never opened
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _why_gone(connection: Connection, digest: str) -> str:
    """Return why the models of a file are not stored: the first one's reason."""
    reason = select(schema.models.c.not_stored_reason).where(schema.models.c.digest == digest).limit(1)
    return str(connection.execute(reason).scalar_one())
