"""Whether a database's tables, indexes and views are those of this version, and no others."""

import re
from collections.abc import Iterator
from functools import cache
from sqlite3 import Connection

from sqlalchemy.dialects import sqlite

from . import schema
from .insight.views import VIEWS

_MADE = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\S+)")


def differences(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield what is not as this version makes it: which table, index, view or trigger, and what of it."""
    query = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%'"
    query += " ESCAPE '\\'"  # SQLite's own tables: of numbers, of statistics
    found = {
        (kind, name): sql if kind == "view" else _plain(sql) for kind, name, sql in connection.execute(query)
    }
    made = _as_made()
    for kind, name in sorted(made.keys() | found.keys()):
        where = f"{kind} {name}"
        if (kind, name) not in found:
            yield where, "it is not there"
        elif (kind, name) not in made:
            yield where, f"no version of fl_main makes such a {kind}"
        elif found[kind, name] != made[kind, name]:
            yield where, f"it is not the {kind} that this version makes"


@cache
def _as_made() -> dict[tuple[str, str], str]:
    dialect = sqlite.dialect()
    made: dict[tuple[str, str], str] = {}
    for statement in schema.statements():
        text = _plain(str(statement.compile(dialect=dialect)))
        begin = _MADE.match(text)
        assert begin is not None, text
        made[begin[1].lower(), begin[2]] = text
    return made | {("view", view.name): view.sql for view in VIEWS}


def _plain(sql: str) -> str:
    """Return SQL without what means nothing: quotes around names, and white space."""
    text = " ".join(sql.replace('"', "").split())
    return text.replace("( ", "(").replace(" )", ")").replace(" ,", ",")
