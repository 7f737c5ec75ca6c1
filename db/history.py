"""The heads of all chains, to be noted elsewhere; and whether a noted one is still part of history.

Whoever can write to a database can write all of its history anew, with hashes that fit, or cut off
its end: from within, neither is seen. A hash that lies somewhere else tells both.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from sqlite3 import Connection

from fl_main.errors import StoreError

from .chain import Head, head_of
from .rows import canonical

ALL = "all"  # what stands in a note for the id of a run

_NOTE = re.compile(r"(?:(?P<run>[^:]*):(?P<number>[0-9]{1,18}):)?(?P<hash>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Note:
    """The end of a history, as somebody wrote it down.

    Attributes:
        run_id: Whose; `ALL` for that of the whole database, None if only the hash was noted.
        number: Of events up to there: of that run, or in all.
    """

    run_id: str | None
    number: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> "Note":
        """Return what was written down: RUN-ID:NUMBER:HASH, all:NUMBER:HASH, or a run's HASH alone.

        Raises:
            StoreError: If it is none of these.
        """
        found = _NOTE.fullmatch(text.strip())
        if found is None:
            raise StoreError(
                f"{text.strip()[:100]!r} is no head of a history; give a note as `fl db head` prints it, "
                "or the 64 digits of a hash"
            )
        return cls(found["run"], int(found["number"] or 0), found["hash"])

    def __str__(self) -> str:
        return self.hash if self.run_id is None else f"{self.run_id}:{self.number}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Broken:
    """A noted head that history does not lead to any more.

    Attributes:
        where: Whose history.
        what: What became of it, in words.
    """

    where: str
    what: str


def heads(connection: Connection) -> list[Note]:
    """Return the head of each run's chain, the oldest run first, and last that over all chains.

    The chain of what belongs to no run (how the database was made) is part of the last alone.
    """
    query = """
        SELECT runs.run_id, seq, hash FROM runs JOIN events ON events.run_id = runs.run_id
        AND seq = (SELECT max(seq) FROM events WHERE events.run_id = runs.run_id) ORDER BY runs.rowid
    """
    found = [Note(*row) for row in connection.execute(query)]
    ends = {"": head_of(connection, "")}
    ends |= {note.run_id or "": Head(note.number, note.hash) for note in found}
    return [*found, Note(ALL, _last_number(connection), hash_over(ends))]


def _last_number(connection: Connection) -> int:
    number: int = connection.execute("SELECT ifnull(max(event_id), 0) FROM events").fetchone()[0]
    return number


def hash_over(ends: Mapping[str, Head]) -> str:
    """Return one hash over the ends of all chains: SHA-256 of canonical JSON, by run id."""
    listed = [[run_id, head.seq, head.hash] for run_id, head in sorted(ends.items())]
    return hashlib.sha256(canonical(listed).encode()).hexdigest()


def compare(connection: Connection, noted: Iterable[Note]) -> list[Broken]:
    """Return the noted heads that are not part of history, which goes on from there.

    That the chains are whole up to there is for `audit` to say.
    """
    checks = ((note, _wrong(connection, note)) for note in noted)
    return [Broken(_whose(note), what) for note, what in checks if what]


def _whose(note: Note) -> str:
    if note.run_id in (None, ALL):
        return "history"
    return f"history of run {note.run_id}" if note.run_id else "history of the database itself"


def _wrong(connection: Connection, note: Note) -> str:
    if note.run_id is None:
        found = connection.execute("SELECT 1 FROM events WHERE hash = ?", (note.hash,)).fetchone()
        return "" if found else _UNKNOWN.format(note.hash)
    if note.run_id == ALL:
        there, last = _hash_at(connection, note.number), _last_number(connection)
    else:
        query = "SELECT hash FROM events WHERE run_id = ? AND seq = ?"
        row = connection.execute(query, (note.run_id, note.number)).fetchone()
        there, last = row and row[0], _last_of(connection, note.run_id)
    if there == note.hash:
        return ""
    if last < note.number:
        return f"it ends with event {last}, and event {note.number} was noted: its end was cut off"
    return f"up to event {note.number} it is not what was noted: it was written anew"


_UNKNOWN = (
    "no event of a run has the hash {}: history was written anew or cut off since, or this is another "
    "database (the hash over all runs needs its number: all:NUMBER:HASH)"
)


def _last_of(connection: Connection, run_id: str) -> int:
    query = "SELECT ifnull(max(seq), 0) FROM events WHERE run_id = ?"
    number: int = connection.execute(query, (run_id,)).fetchone()[0]
    return number


def _hash_at(connection: Connection, number: int) -> str:
    """Return the hash over the ends that all chains had after so many events."""
    query = "SELECT run_id, max(seq), hash FROM events WHERE event_id <= ? GROUP BY run_id"
    # Of a bare column beside max(), SQLite gives that row's (sqlite.org/lang_select, 2.5).
    ends = {run_id: Head(seq, found) for run_id, seq, found in connection.execute(query, (number,))}
    return hash_over(ends)
