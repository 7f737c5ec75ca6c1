"""The versions of the schema: what changed with each, and which of them can be read.

Whoever changes the schema adds a migration that makes the same change to a database of the
version before; a test compares the two ways. What a migration says must not follow `schema`,
which goes on. `upgrade` carries them out. Views hold nothing: it makes them anew with each migration.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from sqlite3 import DatabaseError
from typing import TYPE_CHECKING

from fl_main import __version__
from fl_main.digests import DigestAlgorithm
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError

from .rows import Facts
from .sqlite import APPLICATION_ID

if TYPE_CHECKING:
    from sqlite3 import Connection as PlainConnection

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Migration:
    """A change of the schema from one version to the next.

    Attributes:
        apply: Makes the change; runs in a transaction of its own, together with the note of it,
            while rows may name rows that are not there.
        added: What the chain's facts of before do not say: by kind of record, the new columns
            and what old rows have there.
    """

    name: str
    apply: "Callable[[Connection], None]"
    added: Mapping[str, Facts] = field(default_factory=dict)


def _asynchronous_modes(connection: "Connection") -> None:
    for table, column in (
        ("rounds", "busy_s FLOAT DEFAULT 0 NOT NULL"),
        ("rounds", "wasted_s FLOAT DEFAULT 0 NOT NULL"),
        ("rounds", "idle_s FLOAT DEFAULT 0 NOT NULL"),
        ("steps", "enough INTEGER DEFAULT 0 NOT NULL"),
        ("steps", "usual_s FLOAT"),
        ("agents", "poll_s FLOAT"),
        ("tasks", "config TEXT DEFAULT '{}' NOT NULL"),
        ("updates", "received_s FLOAT DEFAULT 0 NOT NULL"),
    ):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    for index, place in (
        ("tasks_by_model", "tasks (model_id)"),
        ("updates_by_model", "updates (model_id)"),
        ("rounds_by_model", "rounds (model_id)"),
        ("rounds_by_base", "rounds (base_model_id)"),
    ):
        connection.exec_driver_sql(f"CREATE INDEX {index} ON {place}")
    _rebuild(connection, "models", ("CHECK (form IN ('full'))", "CHECK (form IN ('full', 'delta'))"))


def _codecs(connection: "Connection") -> None:
    connection.exec_driver_sql("ALTER TABLE models ADD COLUMN codec TEXT DEFAULT '' NOT NULL")
    connection.exec_driver_sql("ALTER TABLE updates ADD COLUMN plain_size INTEGER DEFAULT 0 NOT NULL")
    _rebuild(connection, "models", ("'state', 'channel')", "'state', 'channel', 'download')"))


def _rebuild(connection: "Connection", table: str, *changes: tuple[str, str], but_for: str = "") -> None:
    """Make a table anew with another constraint: SQLite cannot change one in its place.

    The steps are those of sqlite.org/lang_altertable section 7. Rows keep their numbers, which
    say in which order they came.

    Args:
        changes: What is replaced in the table's SQL, and by what.
        but_for: The column of rows' numbers, if they are to be 1, 2, 3, … in the same order.
    """
    query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"
    create, *indexes = connection.exec_driver_sql(query, (table,)).scalars().all()
    body = create[create.index("(") :]
    for old, new in changes:
        body = body.replace(old, new)
    made = f"CREATE TABLE new_{table} {body}"
    names = [row.name for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
    columns = ", ".join(f'"{name}"' for name in names if name != but_for)
    if not but_for:
        columns = f"rowid, {columns}"
    copy = f"INSERT INTO new_{table} ({columns}) SELECT {columns} FROM {table} ORDER BY rowid"  # noqa: S608
    rename = f"ALTER TABLE new_{table} RENAME TO {table}"
    for statement in (made, copy, f"DROP TABLE {table}", rename, *indexes):
        connection.exec_driver_sql(statement)


_ASYNCHRONOUS: Mapping[str, Facts] = {
    "round": {"busy_s": 0.0, "wasted_s": 0.0, "idle_s": 0.0},
    "step": {"enough": 0, "usual_s": None},
    "agent": {"poll_s": None},
    "task": {"config": {}},
    "update": {"received_s": 0.0},
}

_CODECS: Mapping[str, Facts] = {"model": {"codec": ""}, "update": {"plain_size": 0}}


def _fewer_bytes(connection: "Connection") -> None:
    for table, column in (
        ("runs", "frozen TEXT DEFAULT '{}' NOT NULL"),
        ("updates", "saved_bytes INTEGER DEFAULT 0 NOT NULL"),
    ):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")


_FEWER_BYTES: Mapping[str, Facts] = {"run": {"frozen": {}}, "update": {"saved_bytes": 0}}


def _what_may_go(connection: "Connection") -> None:
    connection.exec_driver_sql(
        "CREATE INDEX models_passing ON models (run_id, round_id) "
        "WHERE is_stored = 1 AND kind IN ('local', 'channel', 'download')"
    )


def _evidence(connection: "Connection") -> None:
    for table, column in (
        ("updates", "notes TEXT DEFAULT '{}' NOT NULL"),
        ("agents", "outlying INTEGER DEFAULT 0 NOT NULL"),
        ("agents", "quarantined TEXT DEFAULT '' NOT NULL"),
    ):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")


_EVIDENCE: Mapping[str, Facts] = {
    "update": {"notes": {}},
    "agent": {"outlying": 0, "quarantined": ""},
}


def _numbered_history(connection: "Connection") -> None:
    """Let every number be found again: those of updates without gaps, of events with the last one kept."""
    counted = "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT"
    plain = ("UNIQUE (task_id,", "PRIMARY KEY (update_id), UNIQUE (task_id,")
    _rebuild(connection, "updates", (counted, "INTEGER NOT NULL"), plain, but_for="update_id")
    kept = ("event_id INTEGER NOT NULL", f"event_id {counted}")
    _rebuild(connection, "events", kept, ("PRIMARY KEY (event_id),", ""))


def _rollbacks(connection: "Connection") -> None:
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN rollbacks INTEGER DEFAULT 0 NOT NULL")
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN rounds_wanted INTEGER")


_ROLLBACKS: Mapping[str, Facts] = {"run": {"rollbacks": 0, "rounds_wanted": None}}


def _nothing(connection: "Connection") -> None:
    """Change no table: with each migration, all views are made anew as they stand today."""


MIGRATIONS: Sequence[Migration] = (  # the first brings version 1 to version 2
    Migration("asynchronous modes", _asynchronous_modes, _ASYNCHRONOUS),
    Migration("codecs", _codecs, _CODECS),
    Migration("fewer bytes", _fewer_bytes, _FEWER_BYTES),
    Migration("what may go", _what_may_go),
    Migration("evidence", _evidence, _EVIDENCE),
    Migration("numbered history", _numbered_history),
    Migration("rollbacks", _rollbacks, _ROLLBACKS),
    Migration("views", _nothing),
    Migration("views", _nothing),  # the round of the best model; counting without joins
)


def newest(migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the schema version that this code works with."""
    return 1 + len(migrations)


def as_written(word: str, facts: Facts) -> Iterator[Facts]:
    """Yield the facts of a row as this version would chain them, then as each one before.

    Args:
        word: What the chain calls such a record.
    """
    yield facts
    for migration in reversed(MIGRATIONS):
        added = migration.added.get(word, {})
        if any(facts[name] != value for name, value in added.items()):
            return  # no older version could have meant this row
        facts = {name: value for name, value in facts.items() if name not in added}
        yield facts


def added_since(word: str) -> Facts:
    """Return the columns that came after version 1, with what they are where the chain does not say so."""
    found: Facts = {}
    for migration in MIGRATIONS:
        found |= migration.added.get(word, {})
    return found


def version_of(connection: "PlainConnection", place: str) -> int | None:
    """Return a database's schema version; None if it is empty.

    Raises:
        StoreError: If it is not a model database.
        StoreDamagedError: If its version cannot be read.
    """
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    except DatabaseError as error:
        if error.sqlite_errorname != "SQLITE_NOTADB":
            raise
        raise StoreError(f"{place} is not a model database; choose another folder") from error
    if application == 0 and not tables:
        return None
    if application != APPLICATION_ID:
        raise StoreError(f"{place} is a database of another program; choose another folder")
    query = "SELECT value FROM meta WHERE key = 'schema_version'"
    row = connection.execute(query).fetchone() if "meta" in tables else None
    if row is None or not row[0].isdecimal():
        raise StoreDamagedError(f"{place} does not say which version it is; put a backup of it there")
    return int(row[0])


def algorithm_of(connection: "PlainConnection", place: str) -> DigestAlgorithm:
    """Return what a database names its model files by: decided when it was made, for good.

    Raises:
        StoreDamagedError: If it does not say, or says what nobody knows.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'digest_algorithm'").fetchone()
    found = row[0] if row else ""
    if found not in (known := list(DigestAlgorithm)):
        raise StoreDamagedError(
            f"{place} says that {found!r} digests name model files, which are {' or '.join(known)}; "
            "put a backup of it there"
        )
    return DigestAlgorithm(found)


def require_readable(version: int | None, place: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Check that a database can be read without changing it.

    Raises:
        StoreVersionError: If it is newer or older than this code.
        StoreError: If it is empty.
    """
    if version is None:
        raise StoreError(f"{place} is empty; an aggregator makes it when it starts")
    refuse_newer(version, place, migrations)
    if version < newest(migrations):
        raise StoreVersionError(
            f"{place} has schema version {version}, fl_main {__version__} reads {newest(migrations)}; "
            "start the aggregator once to bring it up to date"
        )


def refuse_newer(version: int, place: str, migrations: Sequence[Migration]) -> None:
    """Check that this code knows a version.

    Raises:
        StoreVersionError: If it is newer.
    """
    if version > newest(migrations):
        raise StoreVersionError(
            f"{place} has schema version {version}, fl_main {__version__} knows up to {newest(migrations)}; "
            "install the newer fl_main that made it"
        )
