"""A name for a model: people find it by it, and its file stays, whatever is pruned."""

import re
from dataclasses import dataclass
from sqlite3 import Connection

from fl_main.errors import SettingsError, StoreError
from fl_main.store import EventRecord, TagRecord

from .. import queries
from ..model_db import ModelDB

# The writer is imported where something is written: it needs SQLAlchemy, which others do without.

TAKEN = ("best", "final", "last")  # what they name is the run's own affair
_TAG = re.compile(r"(?=.*[^0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # digits alone are a round


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag that was set.

    Attributes:
        reference: What `ModelDB.model` takes from now on.
        before: The model that had the tag until then, None if none had.
    """

    reference: str
    model_id: str
    before: str | None


def tag_model(db: ModelDB, reference: str, tag: str) -> Tagged:
    """Give a model a name within its run; a daemon may have the database open.

    A tag that another model of the run has is moved. Tags are history: they can be moved, not removed.

    Args:
        reference: The model, as `ModelDB.model` takes it.
        tag: Letters, digits, `.`, `_` and `-`, at most 64, not only digits.

    Raises:
        SettingsError: If it cannot be a tag.
        StoreError: If the model is not stored, or cannot be written of.
    """
    from .writing import SecondWriter

    if tag in TAKEN:
        raise SettingsError(f"tag {tag!r} is set by the run itself; choose another")
    if not _TAG.fullmatch(tag):
        raise SettingsError(f"tag {tag!r}: give up to 64 letters, digits, '.', '_' or '-', not only digits")
    model = db.model(reference)
    run = db.run(model.run_id)
    with SecondWriter(db.folder) as store, store.changing("tag a model") as change:
        _require_stored(change.connection, model.model_id)
        before = queries.tags(change.connection, model.run_id).get(tag)
        details = {"tag": tag, "model_id": model.model_id, "before": before}
        event = EventRecord(model.run_id, "model_tagged", actor="tag", details=details)
        change.add([TagRecord(model.run_id, tag, model.model_id), event])
    return Tagged(f"{run.name}:{tag}", model.model_id, before)


def _require_stored(connection: Connection, model_id: str) -> None:
    """Check that there is something to be kept: until the transaction ends, nobody deletes it.

    Raises:
        StoreError: If there is not.
    """
    row = queries.model(connection, model_id)
    if row is None or not row["is_stored"]:
        why = row["not_stored_reason"] if row else "removed"
        raise StoreError(f"model {model_id} is not stored, because it was {why}; a tag would keep nothing")
