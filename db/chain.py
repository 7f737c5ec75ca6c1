"""The hash chain of a run: each committed fact is bound to the one before it.

An altered, removed or inserted row of the chain changes every hash after it; a row of any other
table must say what the latest fact of its key says.
"""

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import Any

from .rows import canonical

START = "0" * 64  # what the first row of a chain is bound to


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain."""

    seq: int = 0
    hash: str = START


def link(previous: str, run_id: str, seq: int, at: float, record: str, key: str, facts: str) -> str:
    """Return the hash of a row: SHA-256 over the previous hash and all that the row says."""
    before, run, kind, about = map(canonical, (previous, run_id, record, key))
    head = f"[{before},{run},{seq},{float(at)!r},{kind},{about}]"  # as JSON, at a fifth of its time
    return hashlib.sha256(f"{head}\n{facts}".encode()).hexdigest()


def append(
    head: Head, run_id: str, at: float, record: str, key: str, facts: str
) -> tuple[Head, dict[str, Any]]:
    """Return the new end of a chain and the row that makes it.

    Args:
        head: The end so far.
        record: What kind of record the facts are of; `key`: which row of its table.
        facts: Canonical JSON.
    """
    seq = head.seq + 1
    digest = link(head.hash, run_id, seq, at, record, key, facts)
    row = {
        "run_id": run_id,
        "seq": seq,
        "at": at,
        "record": record,
        "key": key,
        "facts": facts,
        "hash": digest,
    }
    return Head(seq, digest), row


def head_of(connection: sqlite3.Connection, run_id: str) -> Head:
    """Return the stored end of a run's chain."""
    query = "SELECT seq, hash FROM events WHERE run_id = ? ORDER BY seq DESC LIMIT 1"
    row = connection.execute(query, (run_id,)).fetchone()
    return Head(*row) if row else Head()
