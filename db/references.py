"""How people name a model: by id, the beginning of an id or digest, or a place in a run."""

import re
from collections.abc import Collection
from sqlite3 import Connection
from typing import Protocol

from fl_main.digests import DigestAlgorithm
from fl_main.errors import NotFoundError

from . import queries
from .records import RunFacts

_WAYS = "give a model id, the beginning of a digest, or run:ROUND, run:best, run:last"
_ROUND = re.compile(r"[0-9]{1,18}")  # more, SQLite has no number for
_DIGITS = re.compile(rf"(({'|'.join(DigestAlgorithm)}):)?[0-9a-f]{{4,64}}")


class _Run(Protocol):
    @property
    def facts(self) -> RunFacts: ...


class _Runs(Protocol):
    def run(self, name: str | None = None) -> _Run: ...


def resolve(connection: Connection, reference: str, runs: _Runs) -> str:
    """Return the id of the model that a reference names.

    Args:
        runs: Finds a run by its name.

    Raises:
        NotFoundError: If it names no model, or several.
    """
    if queries.model(connection, reference) is not None:
        return reference
    if _DIGITS.fullmatch(reference) and (found := _by_beginning(connection, reference)):
        return found
    name, colon, place = reference.rpartition(":")
    if not colon and len(queries.run_names(connection)) != 1:
        raise NotFoundError(f"there is no model {reference!r}; {_WAYS}")
    return _of_run(connection, runs.run(name if colon else None).facts, place)


def _by_beginning(connection: Connection, start: str) -> str | None:
    tags = [""] if ":" in start else [f"{algorithm}:" for algorithm in DigestAlgorithm]
    for column, text in (("model_id", start), *(("digest", tag + start) for tag in tags)):
        found = _starting(connection, column, text)
        if len({digest for _, digest in found}) > 1:
            raise NotFoundError(f"{start!r} is the beginning of several models; give more digits of one")
        if found:
            return found[0][0]
    return None


def _starting(connection: Connection, column: str, text: str) -> list[tuple[str, str]]:
    """Return the ids and digests of models; those whose file is there, and older ones, first."""
    query = f"SELECT model_id, digest FROM models WHERE {column} >= ? AND {column} < ?"  # noqa: S608
    found = connection.execute(f"{query} ORDER BY is_stored DESC, rowid", (text, text + "g"))
    return [(row["model_id"], row["digest"]) for row in found]


def _of_run(connection: Connection, run: RunFacts, place: str) -> str:
    named = {"best": run.best_model_id, "last": run.model_id}
    named["final"] = run.model_id if run.status.is_over else None
    tags = queries.tags(connection, run.run_id)
    found = {**named, **tags}.get(place)
    if _ROUND.fullmatch(place):
        query = "SELECT model_id FROM rounds WHERE run_id = ? AND round_id = ?"
        row = connection.execute(query, (run.run_id, int(place))).fetchone()
        found = row and row["model_id"]
    if found is None:
        raise NotFoundError(_why_not(run, place, tags))
    return found


def _why_not(run: RunFacts, place: str, tags: Collection[str]) -> str:
    if place == "final" and run.model_id:
        return f"run {run.name!r} is {run.status}, not over; its latest model is {run.name}:last"
    if place.isdecimal():
        return f"run {run.name!r} has no model of round {place}; see `fl db rounds {run.name}`"
    has = f" (its tags: {', '.join(sorted(tags))})" if tags else ""
    return f"there is no model {place!r} in run {run.name!r}{has}; {_WAYS}"
