"""Records of one commit as rows by table, ready for one statement per table."""

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table, UniqueConstraint
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from fl_main.store import EventRecord, ModelRecord, Record

from . import chain, rows, schema
from .chain import Head

_DIALECT = sqlite.dialect(paramstyle="named")
_KEPT = {"update_id", "created_at", "received_at", "joined_at"}  # of the first commit of a row


@cache
def upsert(table: Table) -> str:
    """Return the SQL that inserts a row of a table, or brings the row of the same key up to date."""
    names = [column.name for column in table.columns if column.name not in ("update_id", "event_id")]
    statement = insert(table)
    if table is not schema.events:
        key = _key(table)
        changes = {name: statement.excluded[name] for name in names if name not in _KEPT.union(key)}
        statement = statement.on_conflict_do_update(index_elements=key, set_=changes)
    return str(statement.compile(dialect=_DIALECT, column_keys=names))


def _key(table: Table) -> list[str]:
    """What says of two rows that they are the same: the unique columns, else the primary key."""
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            return [column.name for column in constraint.columns]
    return [column.name for column in table.primary_key.columns]


class Batch:
    """Rows to write, by table in the order in which tables were first needed.

    Args:
        at: Wall time, Unix seconds.
        head_of: Gives the end of a run's chain.
        known_layouts: Digests of layouts that are in the database.

    Attributes:
        at: That time.
        heads: The new ends of the chains.
        moves: Staging files (or None) and digests of the models among the records.
        layouts: The models' layouts, by digest.
    """

    def __init__(self, at: float, head_of: Callable[[str], Head], known_layouts: Collection[str]) -> None:
        self.at = float(at)
        self._head_of = head_of
        self._known = known_layouts
        self.tables: dict[Table, list[dict[str, Any]]] = {}
        self.heads: dict[str, Head] = {}
        self.moves: list[tuple[str | None, str]] = []
        self.layouts: dict[str, Any] = {}

    def add_all(self, records: Sequence[Record]) -> None:
        """Take records in order."""
        for record in records:
            if isinstance(record, EventRecord):
                self._chain(record.run_id or "", rows.EVENT, "", rows.event_facts(record))
            else:
                self._add(record)

    def _add(self, record: Any) -> None:
        form = rows.FORMS[type(record)]
        facts = form.facts(record)
        self._put(schema.metadata.tables[form.table], rows.row_of(form, record, facts, self.at))
        if isinstance(record, ModelRecord):
            self._add_file(record)
        self._chain(record.run_id, form.word, form.key_of(facts), facts)

    def _add_file(self, model: ModelRecord) -> None:
        payload, layout = model.payload, model.payload.layout
        self.moves.append((payload.staged, payload.digest))
        self.layouts[layout.digest] = layout
        if layout.digest not in self._known:
            self._put(schema.layouts, {"digest": layout.digest, "arrays": rows.canonical(layout.to_wire())})
        file = {
            "digest": payload.digest,
            "size": payload.size,
            "layout_digest": layout.digest,
            "is_stored": True,
        }
        self._put(schema.files, file)
        for position, (parent, share) in enumerate(model.parents):
            parts = {"model_id": model.model_id, "position": position, "parent_id": parent, "share": share}
            self._put(schema.parents, parts)

    def _put(self, table: Table, row: dict[str, Any]) -> None:
        self.tables.setdefault(table, []).append(row)

    def add_facts(self, run_id: str, word: str, key: str, facts: rows.Facts) -> None:
        """Chain facts about a row that is changed by other means."""
        self._chain(run_id, word, key, facts)

    def _chain(self, run_id: str, word: str, key: str, facts: rows.Facts) -> None:
        head = self.heads.get(run_id) or self._head_of(run_id)
        self.heads[run_id], row = chain.append(head, run_id, self.at, word, key, rows.canonical(facts))
        self._put(schema.events, row)
