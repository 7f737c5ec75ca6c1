"""A run out of an archive into a database, with its ids, its history and its digests.

Nothing in an archive is trusted: what it says is held against the hashes of its chain, each record is
read as one of ours, each file has the digest that names it, and no name in it is used as a path. All is
read twice: first to check it and to stage the files, then, in one transaction, to insert the rows.

A daemon goes on with what it finds in its database, and a replay does: so a run must be over, its settings
must be settings, and functions in them are only taken from whom the user trusts.
"""

import json
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import Connection
from types import NoneType
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Table

from fl_main.digests import DigestAlgorithm
from fl_main.errors import SettingsError, StoreError, WeightsError
from fl_main.printable import first_fault, first_line
from fl_main.settings import RunSettings
from fl_main.store import EventRecord, RunStatus
from fl_main.weights import Layout

from .. import chain, migrations, rows, schema
from ..batch import upsert
from ..faults import translated
from ..history import Note
from ..model_db import ModelDB
from ..upkeep.writing import Change, SecondWriter
from .archive import LAYOUTS, MANIFEST, copy, events_entry, model_entry
from .importing import require_free_name, require_plain, writing

_MAX_MANIFEST_BYTES = 64 << 20
_MAX_LINE_BYTES = 64 << 20  # of an event: a step of a million agents has less
_MAX_DIRECTORY_BYTES = 256 << 20  # of a ZIP file: a million models have less
_MAX_LAYOUTS_BYTES = 256 << 20  # of all of them: three million arrays have less
_EVENTS_AT_ONCE = 1000
_CHARS_AT_ONCE = 16 << 20  # of these events: a few kilobytes of a ZIP file may be many megabytes
_YEAR_9999 = 253_370_764_800  # in Unix seconds; there are no dates after it
_FORMS = {form.word: form for form in rows.FORMS.values()}

# What zipfile and reading JSON of any shape raise where a file is damaged, or made to mislead.
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, EOFError, RuntimeError, WeightsError)

_Row = dict[str, Any]


class _Run(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str = Field(min_length=1, max_length=200)
    name: str = Field(min_length=1, max_length=200)
    settings: str
    events: int = Field(ge=1)
    head: str = Field(pattern="^[0-9a-f]{64}$")


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1]  # FORMAT
    made_by: str
    schema_version: int = Field(ge=1)
    digest_algorithm: DigestAlgorithm
    runs: tuple[_Run, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What was taken in.

    Attributes:
        runs: Names of the runs that were inserted, the archive's own last; `there`: of those that it
            began from and that were there already.
        events: Of the inserted runs; `files`: theirs.
        head: Of the history of the archive's own run, as one would note it.
    """

    runs: tuple[str, ...]
    there: tuple[str, ...]
    events: int
    files: int
    head: str


def import_archive(
    folder: Path | str,
    file: Path | str,
    name: str | None = None,
    *,
    new: bool = False,
    trust: bool = False,
    actor: str = "",
) -> ReadBack:
    """Insert the run of an archive, and those that it began from unless they are there.

    Args:
        folder: Of the database; an aggregator may have it open.
        name: Another name for the run; that it has one is the next event of its history.
        new: Whether a database is made if there is none; its digests are those of the archive.
        trust: Whether settings may name functions (`package.module:Class`): a daemon calls them when it
            starts, with the options that stand there.
        actor: Who does it.

    Raises:
        StoreError: If the archive is damaged or does not fit this database, its settings name functions
            and nobody trusts them, or the run or its name is there already; nothing is stored then.
    """
    file = Path(file)
    with ExitStack() as opened:
        opened.enter_context(translated(file, "read an archive"))
        archive = opened.enter_context(_opened(file))
        manifest = archive.manifest
        store = opened.enter_context(writing(folder, manifest.digest_algorithm if new else None))
        if manifest.digest_algorithm is not store.algorithm:
            raise StoreError(
                f"{file} names models by {manifest.digest_algorithm} digests, this database by "
                f"{store.algorithm}; read it into one that was made with database.digest: "
                f"{manifest.digest_algorithm}"
            )
        own = manifest.runs[-1]
        contents = [archive.checked(number) for number in range(len(manifest.runs))]
        missing = [n for n, run in enumerate(manifest.runs) if run is own or not _is_there(folder, run)]
        for number in missing:
            _require_settings(manifest.runs[number], trust)
        staged_as = secrets.token_hex(12)  # nothing that an archive says: a daemon stages files, too
        try:
            moves = list(_stage(store, archive, contents, missing, staged_as))
            with store.changing("import a run") as change:
                _insert(change, archive, contents, missing)
                change.place(moves)
                for number in missing:
                    run = manifest.runs[number]
                    is_renamed = run is own and name is not None
                    require_free_name(change.connection, str(name) if is_renamed else run.name, run.run_id)
                if name is not None and name != own.name:
                    _rename(change, own, name, actor)
        finally:
            store.unstage([staged_as])
    inserted = [manifest.runs[number] for number in missing]
    names = [name if name and run is own else run.name for run in inserted]
    head = Note(own.run_id, own.events, own.head)
    there = tuple(run.name for run in manifest.runs if run not in inserted)
    return ReadBack(tuple(names), there, sum(run.events for run in inserted), len(moves), str(head))


@dataclass(slots=True)
class _Contents:
    """What a run's chain says of its models.

    Attributes:
        stored: Digests of the files that must be there, with size and layout.
    """

    stored: dict[str, tuple[int, str]] = field(default_factory=dict)
    layouts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Archive:
    """An opened archive."""

    file: Path
    zip: zipfile.ZipFile
    manifest: _Manifest
    layouts: dict[str, Layout]

    def events(self, number: int) -> Iterator[tuple[_Row, rows.Form | None, rows.Facts]]:
        """Yield each event of a run as a row, once it and its record are found right.

        Raises:
            StoreError: If one is not; also at the end, if some are missing.
        """
        run, head = self.manifest.runs[number], chain.Head()
        with self.zip.open(events_entry(number)) as lines:
            for line in _lines(lines):
                row, head = _linked(line, run.run_id, head)
                form = None if row["record"] == rows.EVENT else _FORMS.get(row["record"])
                yield row, form, _record_facts(row, form, run)
        if (head.seq, head.hash) != (run.events, run.head):
            raise StoreError(f"the history of run {run.name!r} is not whole")

    def checked(self, number: int) -> _Contents:
        """Read the whole chain of a run once.

        Raises:
            StoreError: If it is not as ours are, or the run is not over.
        """
        found, of_models = _Contents(), dict[str, tuple[str, int, str]]()
        last: rows.Facts = {}
        for row, form, facts in self.events(number):
            if form is rows.RUN:
                last = facts
            elif form is rows.MODEL:
                place = facts["digest"], facts["size"], facts["layout_digest"]
                of_models[row["key"]] = place
                if not facts["is_stored"]:
                    del of_models[row["key"]]
                if facts["layout_digest"] not in self.layouts:
                    raise StoreError(f"the layout of model {row['key']} is not in it")
                found.layouts.add(facts["layout_digest"])
        _require_end(self.manifest.runs[number], last)
        for digest, size, layout_digest in of_models.values():
            found.stored[digest] = size, layout_digest
        return found


@contextmanager
def _opened(file: Path) -> Iterator[_Archive]:
    try:
        with file.open("rb") as opened:
            _require_small_directory(opened)
            with zipfile.ZipFile(opened) as archive:
                require_plain(archive)
                yield _Archive(file, archive, _manifest(archive), _layouts(archive))
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise StoreError(f"{file} is no whole archive of a run: {_first_line(error)}") from error


def _require_small_directory(file: IO[bytes]) -> None:
    """Look at the end of a ZIP file, before its list of entries is read into memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 22))
    end = file.read(22)
    if len(end) < 22 or end[:4] != b"PK\5\6":
        raise ValueError("it does not end as one that `fl db archive` wrote")
    (length,) = struct.unpack("<L", end[12:16])
    if length == 0xFFFFFFFF:
        file.seek(max(0, size - 22 - 20 - 56))
        record = file.read(56)
        length = struct.unpack("<Q", record[40:48])[0] if record[:4] == b"PK\6\6" else size
    if length > min(size, _MAX_DIRECTORY_BYTES):
        raise ValueError("it has more entries than any of ours")
    file.seek(0)


def _manifest(archive: zipfile.ZipFile) -> _Manifest:
    if archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise ValueError("its manifest is larger than any of ours")
    found = _Manifest.model_validate_json(archive.read(MANIFEST))
    if found.schema_version > migrations.newest():
        raise StoreError(
            f"it was written by {found.made_by[:40]}, which is newer; upgrade fl_main to read it"
        )
    return found


def _layouts(archive: zipfile.ZipFile) -> dict[str, Layout]:
    if archive.getinfo(LAYOUTS).file_size > _MAX_LAYOUTS_BYTES:
        raise ValueError("it has more layouts than any of ours")
    with archive.open(LAYOUTS) as lines:
        found = (Layout.from_wire(json.loads(line)) for line in _lines(lines))
        return {layout.digest: layout for layout in found}


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            raise ValueError("a line is cut off, or longer than any of ours")
        yield line


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"manifest: {first_fault(error)}"
    return first_line(error)


# --- what a run says ------------------------------------------------------------------------


def _require_settings(run: _Run, trust: bool) -> None:
    """Check that a run has settings with which nothing of others is run, unless they are trusted.

    Raises:
        StoreError: If they are none, or name functions.
    """
    try:
        settings = RunSettings.stored(json.loads(run.settings))
    except (TypeError, ValueError, AttributeError, SettingsError) as error:
        said = _first_line(error).removeprefix("manifest: ")
        raise StoreError(f"the settings of run {run.name} are none of ours: {said}") from error
    named = [name for name in (*(step for step, _ in settings.steps), settings.cohort.rule) if ":" in name]
    if named and not trust:
        raise StoreError(
            f"the settings of run {run.name} name a function, {named[0][:100]!r}, which an aggregator calls "
            "when it starts: if you trust whoever wrote this archive, say --trust"
        )


def _require_end(run: _Run, last: rows.Facts) -> None:
    """Check what a chain says last of its run.

    Raises:
        StoreError: If that is not over, or is called otherwise than the archive says.
    """
    if not last or last["name"] != run.name:
        raise StoreError(f"its history is not that of a run {run.name!r}")
    if not RunStatus(last["status"]).is_over:
        raise StoreError(f"run {run.name!r} is {last['status']} in it: it would go on in two places")


# --- what an event says ---------------------------------------------------------------------


def _linked(line: bytes, run_id: str, head: chain.Head) -> tuple[_Row, chain.Head]:
    """Return an event as a row, if it is bound to the one before it."""
    at, record, key, facts, digest = json.loads(line)
    is_moment = type(at) in (int, float) and 0 <= at < _YEAR_9999  # so that it can be shown as a date
    if not (is_moment and all(isinstance(text, str) for text in (record, key, facts, digest))):
        raise ValueError(f"event {head.seq + 1} is none of ours")
    after, row = chain.append(head, run_id, at, record, key, facts)
    if after.hash != digest:
        raise StoreError(f"the chain breaks at event {after.seq} of run {run_id}: it was altered")
    return row, after


def _record_facts(row: _Row, form: rows.Form | None, run: _Run) -> rows.Facts:
    """Return what an event says of a row, complete, if it is a record of ours of this run."""
    facts = json.loads(row["facts"])
    if not isinstance(facts, dict) or rows.canonical(facts) != row["facts"]:
        raise ValueError(f"event {row['seq']} is not written as ours are")
    if form is None:
        if row["record"] != rows.EVENT:
            raise ValueError(f"event {row['seq']} is a record that no version of fl_main writes")
        if not _are_of(facts, _OF_EVENTS):
            raise ValueError(f"event {row['seq']} does not say what happened as ours do")
        return facts
    said = {**migrations.added_since(form.word), **facts}
    try:
        found = _as_read(form, said, run)
        is_ours = rows.canonical(found) == rows.canonical(said) and form.key_of(found) == row["key"]
        is_ours = is_ours and found["run_id"] == run.run_id
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"event {row['seq']} is no {form.word} of ours: {error}") from error
    if not is_ours:
        raise ValueError(f"event {row['seq']} is no {form.word} of this run")
    return found


_OF_EVENTS: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "round_id": (int, NoneType),
    "agent_id": (str, NoneType),
    "actor": (str,),
    "details": (dict,),
}
_TEXTS = ("model_id", "run_id", "kind", "channel", "form", "codec", "digest", "layout_digest")
_OF_MODELS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_TEXTS, "not_stored_reason"), (str,)),
    **dict.fromkeys(("round_id", "size"), (int,)),
    "agent_id": (str, NoneType),
    "is_stored": (bool,),
    "parents": (list,),
}


def _are_of(facts: rows.Facts, types: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether facts have these names, no others, and values of these types."""
    return facts.keys() == types.keys() and all(type(facts[name]) in found for name, found in types.items())


def _as_read(form: rows.Form, facts: rows.Facts, run: _Run) -> rows.Facts:
    """Return what a record says that is read of facts: the same, if they are of ours."""
    if form is rows.MODEL:
        if not _are_of(facts, _OF_MODELS):
            raise TypeError("a value of another type")
        if not facts["model_id"].isprintable():
            raise ValueError("its id is not for people")
        parents = [
            (str(parent), None if share is None else float(share)) for parent, share in facts["parents"]
        ]
        return rows.model_facts(facts, parents)
    return form.facts_of_row(_table_row(form, facts, run, 0.0))


def _table_row(form: rows.Form, facts: rows.Facts, run: _Run, at: float) -> _Row:
    row = form.row(facts, at)
    return row | {"settings": run.settings} if form is rows.RUN else row


# --- into the database ----------------------------------------------------------------------


def _is_there(folder: Path | str, run: _Run) -> bool:
    """Whether a run that another began from is in this database, with this history.

    Raises:
        StoreError: If it has another one.
    """
    with ModelDB(folder) as db, db.connect() as connection:
        query = "SELECT hash FROM events WHERE run_id = ? AND seq = ?"
        found = connection.execute(query, (run.run_id, run.events)).fetchone()
        begun = connection.execute("SELECT 1 FROM events WHERE run_id = ? LIMIT 1", (run.run_id,)).fetchone()
    if found is not None and found[0] == run.head:
        return True
    if begun is not None:
        what = f"run {run.name!r} (id {run.run_id})"
        raise StoreError(f"{what} is in this database with another history, or less of it")
    return False


def _stage(
    store: SecondWriter, archive: _Archive, contents: list[_Contents], missing: list[int], prefix: str
) -> Iterator[tuple[str, str]]:
    """Stage the files of runs, each held against the digest that names it."""
    wanted = {digest: place for number in missing for digest, place in contents[number].stored.items()}
    for digest, (size, layout_digest) in wanted.items():
        layout, name = archive.layouts[layout_digest], f"{prefix}.{digest.partition(':')[2]}"
        entry = archive.zip.getinfo(model_entry(digest))
        if size != layout.nbytes or entry.file_size != len(layout.header) + layout.nbytes:
            raise StoreError(f"model {digest} in it has another size than its layout")
        with closing(store.stage(name, layout)) as staging, archive.zip.open(entry) as source:
            if source.read(len(layout.header)) != layout.header:
                raise StoreError(f"model {digest} in it does not begin with the header of its layout")
            for piece in copy(source, layout.nbytes):
                staging.write(piece)
            if staging.finish() != digest:
                raise StoreError(f"model {digest} in it was altered")
        yield name, digest


def _insert(change: Change, archive: _Archive, contents: list[_Contents], missing: list[int]) -> None:
    own = archive.manifest.runs[-1]
    query = "SELECT 1 FROM events WHERE run_id = ? LIMIT 1"
    if change.connection.execute(query, (own.run_id,)).fetchone() is not None:
        raise StoreError(f"run {own.name!r} (id {own.run_id}) is in this database already")
    for digest in sorted({digest for number in missing for digest in contents[number].layouts}):
        arrays = rows.canonical(archive.layouts[digest].to_wire())
        change.connection.execute(
            "INSERT OR IGNORE INTO layouts (digest, arrays) VALUES (?, ?)", (digest, arrays)
        )
    for number in missing:
        run = archive.manifest.runs[number]
        tables = _Tables(change.connection, run)
        for event in archive.events(number):
            tables.take(*event)
            if tables.is_full:
                tables.write()
        tables.write()
        _insert_files(change.connection, run.run_id)


class _Tables:
    """Rows of a run's events by table, on their way into the database."""

    def __init__(self, connection: Connection, run: _Run) -> None:
        self._connection = connection
        self._run = run
        self._rows: dict[Table, list[_Row]] = {}
        self._events = self._chars = 0

    @property
    def is_full(self) -> bool:
        """Whether what was taken is to be written before more is."""
        return self._events >= _EVENTS_AT_ONCE or self._chars >= _CHARS_AT_ONCE

    def take(self, event: _Row, form: rows.Form | None, facts: rows.Facts) -> None:
        """Take an event, and the row that it tells of."""
        self._put(schema.events, event)
        self._events, self._chars = self._events + 1, self._chars + len(event["facts"])
        if form is None:
            return
        self._put(schema.metadata.tables[form.table], _table_row(form, facts, self._run, event["at"]))
        for position, (parent, share) in enumerate(facts["parents"] if form is rows.MODEL else ()):
            parts = {"model_id": event["key"], "position": position, "parent_id": parent, "share": share}
            self._put(schema.parents, parts)

    def _put(self, table: Table, row: _Row) -> None:
        self._rows.setdefault(table, []).append(row)

    def write(self) -> None:
        """Insert or bring up to date what was taken, unless it is a row of another run."""
        for table, found in self._rows.items():
            if table in (schema.models, schema.tasks, schema.updates):
                self._require_own(table, found)
            self._connection.executemany(upsert(table), found).close()
        self._rows.clear()
        self._events = self._chars = 0

    def _require_own(self, table: Table, found: list[_Row]) -> None:
        key = "model_id" if table is schema.models else "task_id"
        query = f"""
            SELECT {key} FROM {table.name}
            WHERE {key} IN (SELECT value FROM json_each(?)) AND run_id <> ? LIMIT 1
        """  # noqa: S608
        ids = json.dumps([row[key] for row in found])
        if (row := self._connection.execute(query, (ids, self._run.run_id)).fetchone()) is not None:
            raise StoreError(f"{table.name} {row[0]!r} of another run is in this database already")


def _insert_files(connection: Connection, run_id: str) -> None:
    connection.execute(
        """
        INSERT INTO files (digest, size, layout_digest, is_stored)
        SELECT digest, size, layout_digest, max(is_stored) FROM models WHERE run_id = ? GROUP BY digest
        ON CONFLICT (digest) DO UPDATE SET is_stored = max(is_stored, excluded.is_stored)
        """,
        (run_id,),
    )
    query = """
        SELECT model_id FROM models JOIN files ON files.digest = models.digest
        WHERE run_id = ? AND (files.size, files.layout_digest) <> (models.size, models.layout_digest)
    """
    if (row := connection.execute(query, (run_id,)).fetchone()) is not None:
        raise StoreError(f"model {row[0]} in it is said to have another size or layout than its file")


def _rename(change: Change, run: _Run, name: str, actor: str) -> None:
    row = change.connection.execute("SELECT * FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    renamed = EventRecord(run.run_id, "run_renamed", actor=actor, details={"from": run.name, "to": name})
    change.add([replace(rows.RUN.read(row), name=name), renamed])
