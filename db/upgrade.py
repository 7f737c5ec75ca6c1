"""Making a database, and bringing an older one up to date.

A new database is made from `schema` as it stands and notes every migration as done.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection

from fl_main import __version__
from fl_main.digests import DigestAlgorithm

from . import chain, schema
from .engine import plain
from .insight import views
from .migrations import MIGRATIONS, Migration, newest, refuse_newer, version_of
from .rows import canonical
from .sqlite import APPLICATION_ID


def migrate(
    connection: Connection,
    place: str,
    at: float,
    migrations: Sequence[Migration] = MIGRATIONS,
    algorithm: DigestAlgorithm = DigestAlgorithm.BLAKE3,
) -> None:
    """Make the tables of an empty database, or bring an older one up to date.

    Args:
        connection: Without an open transaction; each migration gets one.
        place: The file, for messages.
        at: Wall time, Unix seconds.
        algorithm: Of the digests that name the model files of a new database.

    Raises:
        StoreVersionError: If the database is newer than this code.
        StoreError: If it is not a model database.
    """
    with connection.begin():
        version = version_of(plain(connection), place)
        if version is None:
            _create(connection, at, migrations, algorithm)
            return
    refuse_newer(version, place, migrations)
    for number, migration in enumerate(migrations[version - 1 :], version + 1):
        with _references_unchecked(connection), connection.begin(), _without_views(connection):
            migration.apply(connection)
            _note(connection, number, migration.name, at)
            _set(connection, "schema_version", str(number))
            details = {"schema_version": str(number), "migrations": [migration.name], "by": __version__}
            _chain(connection, at, "database_migrated", details)


@contextmanager
def _without_views(connection: Connection) -> Iterator[None]:
    """Take the views away while tables change, and make those of today."""
    for name in (
        connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view'").scalars().all()
    ):
        connection.exec_driver_sql(f'DROP VIEW "{name}"')
    yield
    for statement in views.statements():
        connection.exec_driver_sql(statement)


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


def _create(
    connection: Connection, at: float, migrations: Sequence[Migration], algorithm: DigestAlgorithm
) -> None:
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in schema.statements():
        connection.execute(statement)
    for view in views.statements():
        connection.exec_driver_sql(view)
    facts = {
        "schema_version": str(newest(migrations)),
        "digest_algorithm": str(algorithm),
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
    _, row = chain.append(chain.head_of(plain(connection), ""), "", at, "event", "", canonical(facts))
    connection.execute(schema.events.insert(), row)
