"""Rows against the chain: whether every table says what was committed, and nothing else."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from sqlite3 import Connection, DatabaseError, Row
from typing import Any

from fl_main.errors import WeightsError
from fl_main.weights import Layout

from . import chain, migrations, rows
from .rows import Facts, Form


class Fault(StrEnum):
    """What is wrong, for programs."""

    DATABASE = "database"  # SQLite's own check failed
    REFERENCE = "reference"  # a row names another that is not there
    CHAIN = "chain"  # the history of a run was altered
    ROW_ALTERED = "row_altered"
    ROW_MISSING = "row_missing"
    ROW_UNKNOWN = "row_unknown"  # it was never committed
    FILE_MISSING = "file_missing"
    FILE_SIZE = "file_size"
    FILE_ALTERED = "file_altered"
    FILE_UNREADABLE = "file_unreadable"
    FILE_UNKNOWN = "file_unknown"  # no row names it


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage, named.

    Attributes:
        where: The table and key, the run and place in its chain, or the file.
        what: What is wrong there, in words.
    """

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class _Latest:
    """What the chain says last of a row: a digest of its facts, and when."""

    facts: bytes
    first_at: float
    last_at: float


class Audit:
    """One look through all rows of a database.

    Args:
        connection: In a transaction, so that it sees one state of the database.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._said: dict[tuple[str, str, str], _Latest] = {}  # by run, kind of record, key
        self._digests: set[str] = set()  # of all models that were ever committed
        self._own: list[tuple[float, dict[str, Any]]] = []  # what the database noted of itself

    def run(self) -> Iterator[Damage]:
        """Yield every damage; a database that SQLite finds damaged is not read further."""
        broken = list(self._check_database())
        yield from broken
        if any(damage.fault is Fault.DATABASE for damage in broken):
            return
        yield from self._check_chains()
        yield from self._check_meta()
        for form in rows.FORMS.values():
            yield from self._check_rows(form)
        yield from self._missing_rows()
        yield from self._check_files()
        yield from self._check_layouts()

    def _check_database(self) -> Iterator[Damage]:
        try:
            for (line,) in self._connection.execute("PRAGMA integrity_check"):
                if line != "ok":
                    yield Damage(Fault.DATABASE, "fl.db", " ".join(str(line).split()))
            for table, row, parent, _ in self._connection.execute("PRAGMA foreign_key_check"):
                what = f"it names a row of {parent} that is not there"
                yield Damage(Fault.REFERENCE, f"{table} row {row}", what)
        except DatabaseError as error:
            yield Damage(Fault.DATABASE, "fl.db", str(error))

    # --- the chain ------------------------------------------------------------------------

    def _check_chains(self) -> Iterator[Damage]:
        """Recompute every chain and note what it says last of each row."""
        run_id: str | None = None
        head, is_broken = chain.Head(), False
        for row in self._connection.execute("SELECT * FROM events ORDER BY run_id, seq"):
            if row["run_id"] != run_id:
                run_id, head, is_broken = row["run_id"], chain.Head(), False
            if not is_broken and (what := _break(row, head)):
                is_broken = True  # what follows is bound to this: named once
                yield Damage(Fault.CHAIN, f"chain of run {run_id or '(none)'} at seq {row['seq']}", what)
            head = chain.Head(row["seq"], row["hash"])
            self._note(row)

    def _note(self, row: Row) -> None:
        run_id, at, record, key, facts = (row[name] for name in ("run_id", "at", "record", "key", "facts"))
        if record == rows.EVENT:
            if not run_id:
                self._own.append((at, _loaded(facts)))
            return
        if record == rows.MODEL.word:
            self._digests.add(str(_loaded(facts).get("digest")))
        place = (run_id, record, key)
        first_at = self._said[place].first_at if place in self._said else at
        self._said[place] = _Latest(_short(facts), first_at, at)

    # --- the rows -------------------------------------------------------------------------

    def _check_rows(self, form: Form) -> Iterator[Damage]:
        parents = self._parents() if form is rows.MODEL else {}
        for row in self._connection.execute(f"SELECT * FROM {form.table}"):  # noqa: S608
            try:
                if form is rows.MODEL:
                    facts = rows.model_facts(row, parents.pop(row["model_id"], []))
                else:
                    facts = form.facts_of_row(row)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                where = f"{form.table} of run {row['run_id']}"
                yield Damage(Fault.ROW_ALTERED, where, f"not readable: {error}")
                continue
            if damage := self._compare(form, row, facts):
                yield damage
        for model_id in parents:
            yield Damage(Fault.ROW_UNKNOWN, f"parents of {model_id}", "there is no such model")

    def _parents(self) -> dict[str, list[tuple[str, float | None]]]:
        found: dict[str, list[tuple[str, float | None]]] = defaultdict(list)
        query = "SELECT model_id, parent_id, share FROM parents ORDER BY model_id, position"
        for model_id, parent_id, share in self._connection.execute(query):
            found[model_id].append((parent_id, share))
        return found

    def _compare(self, form: Form, row: rows.Row, facts: Facts) -> Damage | None:
        run_id, key = row["run_id"], form.key_of(facts)
        where = _where(form.table, run_id, key)
        latest = self._said.pop((run_id, form.word, key), None)
        if latest is None:
            return Damage(Fault.ROW_UNKNOWN, where, "this row was never committed")
        if not any(
            latest.facts == _short(rows.canonical(f)) for f in migrations.as_written(form.word, facts)
        ):
            return Damage(Fault.ROW_ALTERED, where, "the row does not say what was committed")
        if (row[form.first_at], row[form.last_at]) != (latest.first_at, latest.last_at):
            return Damage(Fault.ROW_ALTERED, where, "its times are not those of its commits")
        if form is rows.AGENT and row["left_at"] != (None if row["is_present"] else latest.last_at):
            return Damage(Fault.ROW_ALTERED, where, "left_at is not the time of its commit")
        return None

    def _missing_rows(self) -> Iterator[Damage]:
        tables = {form.word: form.table for form in rows.FORMS.values()}
        for run_id, record, key in self._said:
            where = _where(tables.get(record, record), run_id, key)
            yield Damage(Fault.ROW_MISSING, where, "this row was committed and is not there")

    # --- what follows from the rows ---------------------------------------------------------

    def _check_meta(self) -> Iterator[Damage]:
        """Compare what the database says of itself with what it noted when it was made."""
        meta: dict[str, str] = {}
        done: list[tuple[int, str, float, str]] = []
        for at, event in self._own:
            if event.get("kind") in ("database_created", "database_migrated"):
                details = dict(event["details"])
                by = details.pop("by")
                done += [(len(done) + n, name, at, by) for n, name in enumerate(details.pop("migrations"), 1)]
                meta.update(details)
        found = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        for key in sorted(found.keys() | meta.keys()):
            if found.get(key) != meta.get(key):
                yield Damage(Fault.ROW_ALTERED, f"meta {key}", "it does not say what was noted")
        noted = self._connection.execute("SELECT * FROM migrations ORDER BY version")
        if [tuple(row) for row in noted] != done:
            yield Damage(Fault.ROW_ALTERED, "migrations", "they do not say what was noted")

    def _check_files(self) -> Iterator[Damage]:
        """Compare the rows of files with those of the models in them."""
        held: dict[str, list[Row]] = defaultdict(list)
        query = "SELECT digest, size, layout_digest, is_stored FROM models"
        for model in self._connection.execute(query):
            held[model["digest"]].append(model)
        for row in self._connection.execute("SELECT digest, size, layout_digest, is_stored FROM files"):
            if what := self._wrong_file(row, held[row["digest"]]):
                yield what

    def _wrong_file(self, row: Row, models: list[Row]) -> Damage | None:
        where = f"files {row['digest']}"
        if not models and row["digest"] not in self._digests:
            return Damage(Fault.ROW_UNKNOWN, where, "no model was ever committed with it")
        said = (row["size"], row["layout_digest"])
        if any((model["size"], model["layout_digest"]) != said for model in models):
            return Damage(Fault.ROW_ALTERED, where, "it is not as its models say")
        if models and any(model["is_stored"] for model in models) != bool(row["is_stored"]):
            what = "it does not say as its models do whether it is stored"
            return Damage(Fault.ROW_ALTERED, where, what)
        return None

    def _check_layouts(self) -> Iterator[Damage]:
        used = {digest for (digest,) in self._connection.execute("SELECT DISTINCT layout_digest FROM files")}
        for digest, text in self._connection.execute("SELECT digest, arrays FROM layouts"):
            try:
                is_right = Layout.from_wire(json.loads(text)).digest == digest
            except (ValueError, TypeError, WeightsError):
                is_right = False
            if not is_right:
                yield Damage(Fault.ROW_ALTERED, f"layouts {digest}", "its arrays do not have this digest")
            elif digest not in used:
                yield Damage(Fault.ROW_UNKNOWN, f"layouts {digest}", "no file has this layout")


def _break(row: Row, head: chain.Head) -> str:
    """Return what is wrong with a row of a chain that ends in `head` before it."""
    run_id, seq, at, record, key, facts = (row[name] for name in _LINKED)
    if seq != head.seq + 1:
        return f"events are missing: {head.seq} comes before it"
    if chain.link(head.hash, run_id, seq, at, record, key, facts) != row["hash"]:
        return "the chain breaks: this event was altered, or one before it replaced"
    return ""


_LINKED = ("run_id", "seq", "at", "record", "key", "facts")


def _loaded(facts: str) -> dict[str, Any]:
    try:
        found = json.loads(facts)
    except ValueError:  # altered: the chain's check names it
        return {}
    return found if isinstance(found, dict) else {}


def _short(facts: str) -> bytes:
    return hashlib.sha256(facts.encode()).digest()


def _where(table: str, run_id: str, key: str) -> str:
    return f"{table} {key}" if key == run_id else f"{table} {key} of run {run_id}"
