"""The model database for people and programs that look into it: read-only.

db = ModelDB("models")
for round in db.run("breast-cancer").rounds():
    print(round.round_id, round.status, round.evaluate)
weights = db.model("breast-cancer:best").weights()
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING

from fl_main.errors import NotFoundError, StoreDamagedError, StoreError

from . import migrations, queries, references, sqlite
from .faults import translated
from .records import Event
from .runs_and_models import Model, Run, model_of

if TYPE_CHECKING:
    from fl_main.weights import Layout

    from .files import ModelFiles
    from .history import Note
    from .insight.asking import Answer
    from .insight.distances import Known
    from .insight.usage import Usage

# What is imported within functions here is for those who look into model files: it needs numpy,
# which takes longer to load than a question about runs and rounds takes to be answered.

_NAMES = 20  # of runs in an error


class ModelDB:
    """A model database, opened for reading; an aggregator may write to it meanwhile.

    Every call sees the latest commit. May be used from any thread, and as a context manager.

    Args:
        folder: The database's folder, e.g. `models`.

    Raises:
        StoreVersionError: If another version of this project made it.
        StoreError: If there is no model database, or it cannot be read.
    """

    def __init__(self, folder: Path | str = "models") -> None:
        self.folder = Path(folder)
        self.file = self.folder / sqlite.FILE
        self._layouts: dict[str, Layout] = {}
        self.distances: Known = {}  # what was measured of rounds before
        with translated(self.folder, "open the model database"):
            self._require_files()
        self._readers = self._opened()

    def _require_files(self) -> None:
        if not self.folder.is_dir():
            raise StoreError(f"there is no folder {self.folder}; name the model database with --folder")
        if not self.file.is_file():
            raise StoreError(f"{self.folder} has no model database in it ({sqlite.FILE} is missing)")

    def _opened(self) -> sqlite.Readers:
        found = sqlite.Readers(self.file)
        try:
            self._check(found)
        except StoreError as error:
            found.close()
            if not self._is_unwritable(error):
                raise
            found = sqlite.Readers(self.file, immutable=True)
            self._check(found)
        return found

    def _check(self, found: sqlite.Readers) -> None:
        with translated(self.file, "open the model database"), found.connect() as connection:
            migrations.require_readable(migrations.version_of(connection, str(self.file)), str(self.file))

    def _is_unwritable(self, error: StoreError) -> bool:
        """Whether SQLite only lacks a place for its lock: a folder that nobody can write to."""
        journal = self.file.with_name(sqlite.FILE + "-wal")
        name = getattr(error.__cause__, "sqlite_errorname", "")
        return not journal.exists() and name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Lend a connection that sees one state of the database: for queries of your own.

        Its rows know their columns by name and by place.

        Raises:
            StoreError: If the database cannot be read.
        """
        with translated(self.file, "read the model database"), self._readers.connect() as connection:
            yield connection

    @property
    def uri(self) -> str:
        """How SQLite opens it for reading."""
        return self._readers.uri

    def close(self) -> None:
        """Close it; may be called twice."""
        self._readers.close()

    def __enter__(self) -> "ModelDB":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @cached_property
    def files(self) -> "ModelFiles":
        """The folder of its model files."""
        from .files import ModelFiles

        with self.connect() as connection:
            return ModelFiles(self.folder, migrations.algorithm_of(connection, str(self.file)))

    def heads(self) -> "list[Note]":
        """Return the head of each run's history, the oldest run first, and last that of the whole database.

        Noted somewhere else (`str` of each), they tell later whether history was written anew or cut
        off since: `verify_database(folder, against=[…])`.
        """
        from . import history

        with self.connect() as connection:
            return history.heads(connection)

    def sql(self, question: str, most_rows: int = 1000, seconds: float = 10.0) -> "Answer":
        """Answer a SELECT; see `insight.views` for what one can ask for besides the tables.

        Args:
            most_rows: Of the answer.
            seconds: After which it is given up.

        Raises:
            StoreError: If it does anything but read, is wrong, or takes too long.
        """
        from .insight import asking

        return asking.ask(self.uri, self.file, question, most_rows, seconds)

    def usage(self, run_id: str | None = None) -> "Usage":
        """Return how many bytes the models take, of one run or all, and the rest of the database."""
        from .insight import usage

        with self.connect() as connection:
            return usage.usage(connection, self.file, run_id)

    # --- runs and models ------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return all runs, the oldest first."""
        with self.connect() as connection:
            return [Run(self, facts) for facts in queries.runs(connection)]

    def events(
        self, kind: str | None = None, since: float | None = None, last: int | None = None
    ) -> list[Event]:
        """Return what happened to the daemon, in order: events of no run.

        Args:
            kind: Only of this kind.
            since: Only from this time on, Unix seconds.
            last: Only so many, the latest.
        """
        with self.connect() as connection:
            return queries.events(connection, "", kind, since=since, last=last)

    def run(self, name: str | None = None) -> Run:
        """Return a run by its name or id; of several with one name, the newest.

        Args:
            name: May be left out where the database has exactly one run.

        Raises:
            NotFoundError: If there is no such run; the message lists those that there are.
        """
        with self.connect() as connection:
            names = queries.run_names(connection)
            if name is None and len(names) == 1:
                [name] = names
            found = queries.run(connection, name) if name is not None else None
        if found is not None:
            return Run(self, found)
        what = "name a run" if name is None else f"there is no run {name!r}"
        raise NotFoundError(f"{what}; the runs in {self.folder} are: {_listed(sorted(set(names)))}")

    def find_run(self, name: str) -> Run | None:
        """Return a run by its name or id as `run` does, or None."""
        with self.connect() as connection:
            found = queries.run(connection, name)
        return None if found is None else Run(self, found)

    def model(self, reference: str) -> Model:
        """Return a model.

        Args:
            reference: Its id, the beginning of its id or digest, or `run:12` (the model of a
                round), `run:best`, `run:final`, `run:last`, `run:<tag>`. The run may be left out
                where there is only one (`best`).

        Raises:
            NotFoundError: If it names no model, or several.
        """
        with self.connect() as connection:
            model_id = references.resolve(connection, reference, self)
        return self.model_by_id(model_id)

    def model_by_id(self, model_id: str) -> Model:
        """Return a model by its whole id.

        Raises:
            NotFoundError: If there is none.
        """
        with self.connect() as connection:
            row = queries.model(connection, model_id)
        if row is None:
            raise NotFoundError(f"there is no model {model_id!r} in {self.folder}")
        return model_of(self, row)

    def models_by_id(self, model_ids: Iterable[str]) -> dict[str, Model]:
        """Return models by their whole ids; those that there are not are not in it."""
        with self.connect() as connection:
            return {
                row["model_id"]: model_of(self, row) for row in queries.models_by_id(connection, model_ids)
            }

    def layout(self, digest: str) -> "Layout":
        """Return a layout by its digest.

        Raises:
            StoreDamagedError: If it is missing.
        """
        from fl_main.weights import Layout

        if digest not in self._layouts:
            with self.connect() as connection:
                text = queries.layout_of(connection, digest)
            if text is None:
                raise StoreDamagedError(f"{self.file}: layout {digest} is missing; see `fl db verify`")
            self._layouts[digest] = Layout.from_wire(json.loads(text))
        return self._layouts[digest]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more (`fl db runs`)" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more or "none yet"
