"""Rows against the chain: whether every table says what was committed, and nothing else."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from sqlite3 import Connection, DatabaseError, OperationalError, Row
from typing import Any

from fl_main.errors import WeightsError
from fl_main.weights import Layout

from . import chain, migrations, rows, structure
from .rows import Facts, Form

# What reading a value raises that somebody altered: no number, no JSON, or JSON in JSON without an end.
_NOT_OURS = (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)


class Fault(StrEnum):
    """What is wrong, for programs."""

    DATABASE = "database"  # SQLite's own check failed
    REFERENCE = "reference"  # a row names another that is not there
    STRUCTURE = "structure"  # a table, index or view is not as this version makes it
    CHAIN = "chain"  # the history of a run was altered
    HISTORY = "history"  # it does not lead on from a head that was noted elsewhere
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
    """What the chain says last of a row: a digest of its facts, when, and which event was the first."""

    facts: bytes
    first_at: float
    last_at: float
    event_id: int


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
        differences = list(structure.differences(self._connection))
        for where, what in differences:
            yield Damage(Fault.STRUCTURE, where, what)
        try:
            yield from self._check_all()
        except (IndexError, OperationalError) as error:
            if not differences:
                raise
            what = f"with such tables it cannot be looked through further: {error}"
            yield Damage(Fault.STRUCTURE, "fl.db", what)

    def _check_all(self) -> Iterator[Damage]:
        yield from self._check_chains()
        yield from self._check_numbers()
        yield from self._check_meta()
        numbers = self._numbers_of_updates()
        for form in rows.FORMS.values():
            yield from self._check_rows(form, numbers if form is rows.UPDATE else None)
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
        head, number, is_broken = chain.Head(), 0, False
        for row in self._connection.execute("SELECT * FROM events ORDER BY run_id, seq"):
            if row["run_id"] != run_id:
                run_id, head, number, is_broken = row["run_id"], chain.Head(), 0, False
            if not is_broken and (what := _break(row, head, number)):
                is_broken = True  # what follows is bound to this: named once
                yield Damage(Fault.CHAIN, f"chain of run {run_id or '(none)'} at seq {row['seq']}", what)
            head, number = chain.Head(row["seq"], row["hash"]), row["event_id"]
            self._note(row)

    def _check_numbers(self) -> Iterator[Damage]:
        """Look for gaps in the numbers of events; SQLite keeps the last one that it gave."""
        query = "SELECT count(*), ifnull(max(event_id), 0) FROM events"
        count, last = self._connection.execute(query).fetchone()
        given = dict(self._connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        number = given.pop("events", 0)
        if isinstance(number, int) and number > max(count, last):
            missing = number - count
            yield Damage(
                Fault.ROW_MISSING,
                "events",
                f"of {number} events that were committed, {missing} are not there",
            )
        elif not count == last == number or given:
            yield Damage(Fault.ROW_ALTERED, "events", "their numbers are not those of their commits")

    def _note(self, row: Row) -> None:
        run_id, at, record, key, facts = (row[name] for name in ("run_id", "at", "record", "key", "facts"))
        if record == rows.EVENT:
            if not run_id:
                self._own.append((at, _loaded(facts)))
            return
        if record == rows.MODEL.word:
            self._digests.add(str(_loaded(facts).get("digest")))
        place = (run_id, record, key)
        before = self._said.get(place)
        first_at, event_id = (before.first_at, before.event_id) if before else (at, row["event_id"])
        self._said[place] = _Latest(_short(facts), first_at, at, event_id)

    def _numbers_of_updates(self) -> dict[int, int]:
        """Return the number that each update has, by the event that first told of it."""
        firsts = (said.event_id for (_, word, _), said in self._said.items() if word == rows.UPDATE.word)
        return {event_id: number for number, event_id in enumerate(sorted(firsts), 1)}

    # --- the rows -------------------------------------------------------------------------

    def _check_rows(self, form: Form, numbers: dict[int, int] | None = None) -> Iterator[Damage]:
        parents = self._parents() if form is rows.MODEL else {}
        for row in self._connection.execute(f"SELECT * FROM {form.table}"):  # noqa: S608
            try:
                if form is rows.MODEL:
                    facts = rows.model_facts(row, parents.pop(row["model_id"], []))
                else:
                    facts = form.facts_of_row(row)
                is_canonical = form.is_canonical(row)
            except _NOT_OURS as error:
                where = f"{form.table} of run {row['run_id']}"
                yield Damage(Fault.ROW_ALTERED, where, f"not readable: {error}")
                continue
            if damage := self._compare(form, row, facts, numbers):
                yield damage
            elif not is_canonical:
                where = _where(form.table, row["run_id"], form.key_of(facts))
                yield Damage(Fault.ROW_ALTERED, where, "it says in other words what was committed")
        for model_id in parents:
            yield Damage(Fault.ROW_UNKNOWN, f"parents of {model_id}", "there is no such model")

    def _parents(self) -> dict[str, list[tuple[str, float | None]]]:
        found: dict[str, list[tuple[str, float | None]]] = defaultdict(list)
        query = "SELECT model_id, position, parent_id, share FROM parents ORDER BY model_id, position"
        for model_id, position, parent_id, share in self._connection.execute(query):
            is_next = position == len(found[model_id])
            found[model_id].append((parent_id, share) if is_next else ("", None))  # "": none was
        return found

    def _compare(
        self, form: Form, row: rows.Row, facts: Facts, numbers: dict[int, int] | None
    ) -> Damage | None:
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
        if numbers is not None and row["update_id"] != numbers[latest.event_id]:
            return Damage(Fault.ROW_ALTERED, where, "its number is not that of its commit")
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
                try:
                    details = dict(event["details"])
                    by, names = details.pop("by"), list(details.pop("migrations"))
                except _NOT_OURS:  # altered: the chain's check names it
                    continue
                done += [(len(done) + n, name, at, by) for n, name in enumerate(names, 1)]
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
        if row["is_stored"] not in (0, 1):
            return Damage(Fault.ROW_ALTERED, where, "whether it is stored, it does not say")
        if models and any(model["is_stored"] for model in models) != bool(row["is_stored"]):
            what = "it does not say as its models do whether it is stored"
            return Damage(Fault.ROW_ALTERED, where, what)
        return None

    def _check_layouts(self) -> Iterator[Damage]:
        used = {digest for (digest,) in self._connection.execute("SELECT DISTINCT layout_digest FROM files")}
        for digest, text in self._connection.execute("SELECT digest, arrays FROM layouts"):
            try:
                arrays = json.loads(text)
                is_right = Layout.from_wire(arrays).digest == digest and rows.canonical(arrays) == text
            except (*_NOT_OURS, WeightsError):
                is_right = False
            if not is_right:
                yield Damage(Fault.ROW_ALTERED, f"layouts {digest}", "its arrays do not have this digest")
            elif digest not in used:
                yield Damage(Fault.ROW_UNKNOWN, f"layouts {digest}", "no file has this layout")


def _break(row: Row, head: chain.Head, number: int) -> str:
    """Return what is wrong with a row of a chain that ends in `head`, event `number`, before it."""
    run_id, seq, at, record, key, facts = (row[name] for name in _LINKED)
    if seq != head.seq + 1:
        return f"events are missing: {head.seq} comes before it"
    try:
        found = chain.link(head.hash, run_id, seq, at, record, key, facts)
    except _NOT_OURS as error:
        return f"the chain breaks: this event was altered ({error})"
    if found != row["hash"]:
        return "the chain breaks: this event was altered, or one before it replaced"
    if row["event_id"] <= number:
        return f"its number {row['event_id']} is not after {number}, which comes before it"
    return ""


_LINKED = ("run_id", "seq", "at", "record", "key", "facts")


def _loaded(facts: str) -> dict[str, Any]:
    try:
        found = json.loads(facts)
    except _NOT_OURS:  # altered: the chain's check names it
        return {}
    return found if isinstance(found, dict) else {}


def _short(facts: str) -> bytes:
    return hashlib.sha256(str(facts).encode(errors="surrogatepass")).digest()  # altered, it may be anything


def _where(table: str, run_id: str, key: str) -> str:
    return f"{table} {key}" if key == run_id else f"{table} {key} of run {run_id}"
