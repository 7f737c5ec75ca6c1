"""What is looked through when a database is opened: files and rows that a crash left alone."""

import logging

from sqlalchemy import Connection, select

from fl_main.errors import StoreDamagedError

from . import sqlite
from .engine import translated
from .files import ModelFiles
from .schema import among, runs, tasks
from .schema import files as files_table
from .snapshots import UNANSWERED

logger = logging.getLogger("fl_main.db")


def sweep_staging(connection: Connection, files: ModelFiles, *, is_shared: bool) -> None:
    """Delete what was staged for nothing.

    Staged answers to tasks that are still open stay: their transfer can go on. Everything else
    that is staged was not stored and will be made or sent again, unless somebody is about to store it.

    Args:
        is_shared: Whether others may have files staged: then only what was set aside to be deleted goes.
    """
    with translated(files.folder, "look through the staging files"):
        query = select(tasks.c.task_id).where(UNANSWERED)
        unanswered = set(connection.execute(query).scalars())
        for name in files.staged():
            if files.is_set_aside(name) if is_shared else name.split(".", 1)[0] not in unanswered:
                logger.debug("deleted left-over staging file name=%s", name)  # <task>.<channel>
                files.unstage(name)


def sweep_stored(connection: Connection, files: ModelFiles) -> tuple[list[str], list[str]]:
    """Compare the files with the rows.

    Returns:
        In words, what rows know and the disk does not have; and the digests of files that no row knows:
        others may be about to store one.
    """
    query = select(files_table.c.digest).where(files_table.c.is_stored == 1)
    with translated(files.folder, "look through the models"):
        known = set(connection.execute(query).scalars())
        found = _found(connection, files)
    missing = sorted(known.difference(found))
    return [f"model file {files.path(digest)} is missing" for digest in missing], _unnamed(found, known)


def unnamed(connection: Connection, files: ModelFiles) -> list[str]:
    """Return the digests of files that no row knows: others may be about to store one."""
    with translated(files.folder, "look through the models"):
        found = _found(connection, files)
        query = select(files_table.c.digest).where(among(files_table.c.digest, found))
        return _unnamed(found, set(connection.execute(query.where(files_table.c.is_stored == 1)).scalars()))


def _unnamed(found: list[str], known: set[str]) -> list[str]:
    unnamed = [digest for digest in found if digest not in known]
    for digest in unnamed:
        logger.info("found a model file that no record names digest=%s: it goes if none does now", digest)
    return unnamed


def _found(connection: Connection, files: ModelFiles) -> list[str]:
    """Return the digests of all files, unless it is the records that are missing."""
    found = list(files.digests())
    _require_records(connection, files, len(found))
    return found


def _require_records(connection: Connection, files: ModelFiles, found: int) -> None:
    """Refuse to take models for left-overs where it is the records that are missing.

    One file without any run may be left by a crash while the first run was made.

    Raises:
        StoreDamagedError: If there are models, and not one run.
    """
    if found > 1 and connection.execute(select(runs.c.run_id).limit(1)).first() is None:
        raise StoreDamagedError(
            f"{files.folder} has {found} model files, and the database knows of no run: {sqlite.FILE} is "
            "lost or another one; put a backup of it there, or move the model files away"
        )
