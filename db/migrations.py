"""Making a database, and bringing an older one up to date.

A new database is made from `schema` as it stands and notes every migration as done. Whoever
changes the schema adds a migration that makes the same change to a database of the version
before, and a test that compares the two ways. There is none yet: this is the first version.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DatabaseError

from fl_main import __version__
from fl_main.errors import StoreDamagedError, StoreError, StoreVersionError

from . import chain, schema
from .rows import canonical


@dataclass(frozen=True, slots=True)
class Migration:
    """A change of the schema from one version to the next.

    Attributes:
        apply: Makes the change; runs in a transaction of its own, together with the note of it.
    """

    name: str
    apply: Callable[[Connection], None]


MIGRATIONS: Sequence[Migration] = ()  # the first brings version 1 to version 2


def newest(migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the schema version that this code works with."""
    return 1 + len(migrations)


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
        with connection.begin():
            migration.apply(connection)
            _note(connection, number, migration.name, at)
            _set(connection, "schema_version", str(number))
            details = {"schema_version": str(number), "migrations": [migration.name], "by": __version__}
            _chain(connection, at, "database_migrated", details)


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
