"""Making a database, and bringing an older one up to date.

A new database is made from `schema` as it stands and notes every migration as done. Whoever
changes the schema adds a migration that makes the same change to a database of the version
before; a test compares the two ways. What a migration says must not follow `schema`, which goes on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DatabaseError

from fl_main import __version__
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError

from . import chain, schema
from .rows import Facts, canonical


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
    apply: Callable[[Connection], None]
    added: Mapping[str, Facts] = field(default_factory=dict)


def _asynchronous_modes(connection: Connection) -> None:
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
    _rebuild(connection, "models", "CHECK (form IN ('full'))", "CHECK (form IN ('full', 'delta'))")


def _rebuild(connection: Connection, table: str, old: str, new: str) -> None:
    """Make a table anew with another constraint: SQLite cannot change one in its place.

    The steps are those of sqlite.org/lang_altertable section 7. Rows keep their numbers, which
    say in which order they came.
    """
    query = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL ORDER BY type DESC"
    create, *indexes = connection.exec_driver_sql(query, (table,)).scalars().all()
    made = create.replace(f"CREATE TABLE {table} ", f"CREATE TABLE new_{table} ").replace(old, new)
    columns = ", ".join(row.name for row in connection.exec_driver_sql(f"PRAGMA table_info({table})"))
    copy = f"INSERT INTO new_{table} (rowid, {columns}) SELECT rowid, {columns} FROM {table} ORDER BY rowid"  # noqa: S608
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

MIGRATIONS: Sequence[Migration] = (  # the first brings version 1 to version 2
    Migration("asynchronous modes", _asynchronous_modes, _ASYNCHRONOUS),
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


def version_of(connection: Connection, place: str) -> int | None:
    """Return a database's schema version; None if it is empty.

    Raises:
        StoreError: If it is not a model database.
        StoreDamagedError: If its version cannot be read.
    """
    try:
        application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        is_empty = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one() == 0
    except DatabaseError as error:
        if getattr(error.orig, "sqlite_errorname", "") != "SQLITE_NOTADB":
            raise
        raise StoreError(f"{place} is not a model database; choose another folder") from error
    if application == 0 and is_empty:
        return None
    if application != schema.APPLICATION_ID:
        raise StoreError(f"{place} is a database of another program; choose another folder")
    query = select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")
    value = connection.execute(query).scalar_one_or_none() if inspect(connection).has_table("meta") else None
    if value is None or not value.isdecimal():
        raise StoreDamagedError(f"{place} does not say which version it is; put a backup of it there")
    return int(value)


def require_readable(version: int | None, place: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Check that a database can be read without changing it.

    Raises:
        StoreVersionError: If it is newer or older than this code.
        StoreError: If it is empty.
    """
    if version is None:
        raise StoreError(f"{place} is empty; an aggregator makes it when it starts")
    _refuse_newer(version, place, migrations)
    if version < newest(migrations):
        raise StoreVersionError(
            f"{place} has schema version {version}, fl_main {__version__} reads {newest(migrations)}; "
            "start the aggregator once to bring it up to date"
        )


def _refuse_newer(version: int, place: str, migrations: Sequence[Migration]) -> None:
    if version > newest(migrations):
        raise StoreVersionError(
            f"{place} has schema version {version}, fl_main {__version__} knows up to {newest(migrations)}; "
            "install the newer fl_main that made it"
        )


def migrate(
    connection: Connection, place: str, at: float, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Make the tables of an empty database, or bring an older one up to date.

    Args:
        connection: Without an open transaction; each migration gets one.
        place: The file, for messages.
        at: Wall time, Unix seconds.

    Raises:
        StoreVersionError: If the database is newer than this code.
        StoreError: If it is not a model database.
    """
    with connection.begin():
        version = version_of(connection, place)
        if version is None:
            _create(connection, at, migrations)
            return
    _refuse_newer(version, place, migrations)
    for number, migration in enumerate(migrations[version - 1 :], version + 1):
        with _references_unchecked(connection), connection.begin():
            migration.apply(connection)
            _note(connection, number, migration.name, at)
            _set(connection, "schema_version", str(number))
            details = {"schema_version": str(number), "migrations": [migration.name], "by": __version__}
            _chain(connection, at, "database_migrated", details)


@contextmanager
def _references_unchecked(connection: Connection) -> Iterator[None]:
    """Let tables be replaced to which others refer; SQLite takes this word only between transactions."""
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()


def _create(connection: Connection, at: float, migrations: Sequence[Migration]) -> None:
    connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    for statement in schema.statements():
        connection.execute(statement)
    facts = {
        "schema_version": str(newest(migrations)),
        "digest_algorithm": schema.DIGEST_ALGORITHM,
        "made_by": f"fl_main {__version__}",
        "created_at": repr(at),
    }
    for key, value in facts.items():
        _set(connection, key, value)
    names = ["first schema", *(migration.name for migration in migrations)]
    for number, name in enumerate(names, 1):
        _note(connection, number, name, at)
    _chain(connection, at, "database_created", {**facts, "migrations": names, "by": __version__})


def _set(connection: Connection, key: str, value: str) -> None:
    connection.exec_driver_sql("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _note(connection: Connection, version: int, name: str, at: float) -> None:
    row = {"version": version, "name": name, "applied_at": at, "applied_by": __version__}
    connection.execute(schema.migrations.insert(), row)


def _chain(connection: Connection, at: float, kind: str, details: Mapping[str, object]) -> None:
    facts = {"kind": kind, "round_id": None, "agent_id": None, "actor": "", "details": details}
    _, row = chain.append(chain.head_of(connection, ""), "", at, "event", "", canonical(facts))
    connection.execute(schema.events.insert(), row)
