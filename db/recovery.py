"""What is looked through when a database is opened: files and rows that a crash left alone."""

import logging

from sqlalchemy import Connection, select

from fl_main.errors import StoreDamagedError

from . import sqlite
from .engine import translated
from .files import ModelFiles
from .schema import files as files_table
from .schema import runs, tasks
from .snapshots import UNANSWERED

logger = logging.getLogger("fl_main.db")


def sweep(connection: Connection, files: ModelFiles) -> tuple[list[str], list[str]]:
    """Delete what was staged for nothing, and compare the files with the rows.

    Staged answers to tasks that are still open stay: their transfer can go on. Everything else
    that is staged was not stored and will be made or sent again.

    Returns:
        In words, what rows know and the disk does not have; and the digests of files that no row knows.
    """
    with translated(files.folder, "look through the models"):
        _sweep_staging(connection, files)
        return _sweep_stored(connection, files)


def _sweep_staging(connection: Connection, files: ModelFiles) -> None:
    query = select(tasks.c.task_id).where(UNANSWERED)
    unanswered = set(connection.execute(query).scalars())
    for name in files.staged():
        if name.split(".", 1)[0] not in unanswered:  # <task>.<channel>
            logger.debug("deleted left-over staging file name=%s", name)
            files.unstage(name)


def _sweep_stored(connection: Connection, files: ModelFiles) -> tuple[list[str], list[str]]:
    query = select(files_table.c.digest).where(files_table.c.is_stored == 1)
    known = set(connection.execute(query).scalars())
    found = list(files.digests())
    _require_records(connection, files, len(found))
    unnamed = [digest for digest in found if digest not in known]
    for digest in unnamed:
        logger.info("found a model file that no record names digest=%s: it is deleted", digest)
    missing = sorted(known.difference(found))
    return [f"model file {files.path(digest)} is missing" for digest in missing], unnamed


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
