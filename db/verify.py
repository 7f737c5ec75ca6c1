"""Is a model database whole: every damage, found and named.

The chain of each run says what was committed; every row of every table must say the same
(`audit`), and every file must have the digest that its row says.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_main.digests import DigestAlgorithm, new_digest, tagged
from fl_main.errors import StoreDamagedError, WeightsError
from fl_main.weights import Layout

from . import history, sqlite
from .audit import Audit, Damage, Fault
from .files import ModelFiles
from .model_db import ModelDB

__all__ = ["Damage", "Fault", "Progress", "verify_database"]

Progress = Callable[[int, int], None]

_PIECE_BYTES = 4 << 20
_RENAME_S = 0.2  # longer than a file lies in its place before its row is committed


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file as its row says."""

    digest: str
    size: int
    arrays: str


def verify_database(
    folder: Path | str, progress: Progress | None = None, against: Sequence[str] = ()
) -> list[Damage]:
    """Look for damage; an aggregator may be writing meanwhile.

    Args:
        folder: The database's folder.
        progress: Called with the bytes of model files read so far, and in all.
        against: Heads that were noted elsewhere (`ModelDB.heads`, `fl db head`): history must lead on
            from them.

    Returns:
        Every damage found; an empty list if there is none.

    Raises:
        StoreError: If there is no database, or not one of this version; or what was noted is no head.
    """
    noted = [history.Note.parse(text) for text in against]
    try:
        db = ModelDB(folder)
    except StoreDamagedError as error:
        return [Damage(Fault.DATABASE, sqlite.FILE, str(error))]
    with db:
        try:
            with db.connect() as connection:  # one state of the database
                connection.text_factory = _as_text
                damages = list(Audit(connection).run())
                broken = history.compare(connection, noted)
                damages += [Damage(Fault.HISTORY, one.where, one.what) for one in broken]
            damages += _check_files(db, progress or (lambda done, total: None))
        except StoreDamagedError as error:
            return [Damage(Fault.DATABASE, sqlite.FILE, str(error))]
        return damages + list(_unknown_files(db))


def _as_text(data: bytes) -> str:
    """Return text that may have been altered: what is no UTF-8 is read, too, and found to be another."""
    return data.decode(errors="backslashreplace")


def _check_files(db: ModelDB, progress: Progress) -> list[Damage]:
    query = """
        SELECT files.digest, size, ifnull(arrays, 'null')
        FROM files LEFT JOIN layouts ON layouts.digest = layout_digest WHERE is_stored
    """
    with db.connect() as connection:
        expected = [_Expected(*row) for row in connection.execute(query)]
    total, done = sum(file.size for file in expected), 0
    damages: list[Damage] = []
    for file in expected:
        if not db.files.has_name(file.digest):  # an altered row
            damages.append(
                Damage(Fault.ROW_ALTERED, f"files {file.digest}", "it is no digest of this database")
            )
            continue
        found = list(_check_file(db.files, file))
        if found and not _was_pruned(db, file.digest):
            damages += found
        done += file.size
        progress(done, total)
    return damages


def _was_pruned(db: ModelDB, digest: str) -> bool:
    """Whether a file was deleted in good order since the list of files was read."""
    query = "SELECT 1 FROM files WHERE digest = ? AND is_stored"
    with db.connect() as connection:
        return connection.execute(query, (digest,)).fetchone() is None


def _check_file(files: ModelFiles, file: _Expected) -> Iterator[Damage]:
    path = files.path(file.digest)
    where = f"file {path}"
    try:
        with path.open("rb", buffering=0) as opened:
            header = _header(opened.read(8), opened.read)
            size = os.fstat(opened.fileno()).st_size
            opened.seek(0)
            digest = _digest(files.algorithm, opened.read)
    except FileNotFoundError:
        yield Damage(Fault.FILE_MISSING, where, "it is missing")
        return
    except OSError as error:
        yield Damage(Fault.FILE_UNREADABLE, where, f"it cannot be read: {error.strerror}")
        return
    if header is None:
        yield Damage(Fault.FILE_UNREADABLE, where, "it is not a safetensors file of this project")
    if header is not None and size != header + file.size:
        yield Damage(Fault.FILE_SIZE, where, f"it has {size} bytes instead of {header + file.size}")
    elif digest != file.digest:
        yield Damage(Fault.FILE_ALTERED, where, f"it was altered: its digest is {digest}")


def _header(length: bytes, read: Callable[[int], bytes]) -> int | None:
    """Return the length of a file's header, or None if it is no safetensors header."""
    count = int.from_bytes(length, "little")
    try:
        if len(length) < 8 or count > 1 << 30:
            return None
        Layout.from_header(read(count))
    except (WeightsError, UnicodeDecodeError):
        return None
    return 8 + count


def _digest(algorithm: DigestAlgorithm, read: Callable[[int], bytes]) -> str:
    digest = new_digest(algorithm)
    while data := read(_PIECE_BYTES):
        digest.update(data)
    return tagged(digest)


def _unknown_files(db: ModelDB) -> Iterator[Damage]:
    """Yield files that no row names; a second look tells those that were just being committed."""
    unknown = _unnamed(db, list(db.files.stored()))
    if unknown:
        time.sleep(_RENAME_S)
        unknown = _unnamed(db, unknown)
    for path in unknown:
        yield Damage(Fault.FILE_UNKNOWN, f"file {path}", "no record names it")


def _unnamed(db: ModelDB, paths: list[Path]) -> list[Path]:
    with db.connect() as connection:
        stored = connection.execute("SELECT digest FROM files WHERE is_stored")
        named = {db.files.path(digest) for (digest,) in stored if db.files.has_name(digest)}
    return [path for path in sorted(paths) if path not in named and path.exists()]
