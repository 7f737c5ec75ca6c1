"""How big a database is, and how much of it could go."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Connection

from ..rows import PASSING


@dataclass(frozen=True, slots=True)
class Share:
    """What the models of one kind in one run take.

    Attributes:
        models: How many there are, stored or not; `stored`: whose file is there.
        files: Theirs; a file of several equal models is that of the oldest of them.
        size: Bytes of the arrays in these files (a file's header is a few hundred bytes more).
        shared: Bytes that they would take besides if equal models did not share a file.
        may_go: Bytes of files that pruning may free at most: of what came from agents or was sent to
            them. What a tag, an open task or a kept update needs stays all the same.
    """

    run_id: str
    run: str
    kind: str
    models: int
    stored: int
    files: int
    size: int
    shared: int
    may_go: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a database takes on its disk.

    Attributes:
        shares: By run, the oldest first, and kind of models.
        database: Bytes of the SQLite file and its journal; `free`: of them, those of pages in which
            nothing is, to be used again.
        staged_files: Models on their way in, of `staged` bytes.
    """

    shares: tuple[Share, ...]
    database: int
    free: int
    staged_files: int
    staged: int


def usage(connection: Connection, file: Path, run_id: str | None = None) -> Usage:
    """Add up what a database, or the models of one run in it, take.

    Args:
        file: The SQLite file.
    """
    found = {(share.run_id, share.kind): share for share in _shares(connection)}
    for (run, kind), size, is_first, may_go in _in_one_file(connection):
        share = found[run, kind]
        found[run, kind] = replace(
            share,
            files=share.files - (not is_first),
            size=share.size - (0 if is_first else size),
            shared=share.shared + (0 if is_first else size),
            may_go=share.may_go - (0 if (is_first and may_go) or kind not in PASSING else size),
        )
    shares = (share for share in found.values() if run_id in (None, share.run_id))
    journal = file.with_name(file.name + "-wal")
    staged = _sizes(file.parent / "models" / ".staging")
    return Usage(tuple(shares), _size(file) + _size(journal), _free(connection), len(staged), sum(staged))


def _shares(connection: Connection) -> Iterator[Share]:
    """Yield what there is of each run and kind, as if each model had a file of its own."""
    query = """
        SELECT models.run_id, runs.name, models.kind, count(*), sum(is_stored), sum(size * is_stored)
        FROM models JOIN runs ON runs.run_id = models.run_id
        GROUP BY runs.rowid, models.kind ORDER BY runs.rowid, min(models.rowid)
    """
    for run_id, name, kind, models, stored, size in connection.execute(query):
        may_go = size if kind in PASSING else 0
        yield Share(run_id, name, kind, models, stored, stored, size, 0, may_go)


def _in_one_file(connection: Connection) -> Iterator[tuple[tuple[str, str], int, bool, bool]]:
    """Yield models that share a file: run and kind, size, whether the first of it, whether all may go."""
    query = """
        SELECT digest, run_id, kind, size FROM models WHERE is_stored AND digest IN (
            SELECT digest FROM models GROUP BY digest HAVING count(*) > 1
        ) ORDER BY rowid
    """
    groups: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for digest, run_id, kind, size in connection.execute(query):
        groups[digest].append((run_id, kind, size))
    for group in groups.values():
        may_go = all(kind in PASSING for _, kind, _ in group)
        for number, (run_id, kind, size) in enumerate(group):
            yield (run_id, kind), size, number == 0, may_go


def _free(connection: Connection) -> int:
    pages, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size")
    )
    return int(pages * size)


def _sizes(folder: Path) -> list[int]:
    return [_size(path) for path in folder.iterdir()] if folder.is_dir() else []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # meanwhile
        return 0
