"""All that is measured of the database, on one machine in one go."""

import time
from collections.abc import Callable
from pathlib import Path

from bench.database.commands import time_commands, time_daemon, time_verify
from bench.database.crowd import measure_crowd
from bench.database.figures import Database
from bench.database.groups import measure_groups
from bench.database.make import Shape, make
from bench.database.pages import time_pages
from bench.database.readers import measure_readers
from fl_main.db import ModelDB
from fl_main.db.sqlite import FILE

GROUP_AGENTS, GROUP_ROUNDS = 1000, 5


def measure_database(
    folder: Path, work: Path, shape: Shape, seconds: float, told: Callable[[str], object]
) -> Database:
    """Measure, and return what was found.

    Args:
        folder: Of the database; made if it is not there. It gets two more runs.
        work: A folder for what is left over.
        seconds: How long readers and a writer go on.
        told: Hears what is done next.
    """
    told("making a database ..." if not folder.exists() else f"using {folder} ...")
    began = time.perf_counter()
    if not folder.exists():
        make(folder, shape)
    found = Database(_counted(folder), (folder / FILE).stat().st_size / 1e6, time.perf_counter() - began)
    told("timing commands ...")
    found.commands = time_commands(folder, work / "out")
    found.start_s, asked = time_daemon(folder)
    found.commands |= asked
    told("asking for pages ...")
    found.pages = time_pages(folder)
    told("verifying ...")
    found.verify_s = time_verify(folder)
    told("committing updates in groups ...")
    found.groups = measure_groups(work / "groups", GROUP_AGENTS, GROUP_ROUNDS)
    told("reading while updates are written ...")
    found.readers = measure_readers(folder, seconds)
    told("reading, pruning and exporting while updates are written ...")
    found.crowd = measure_crowd(folder, work, seconds)
    return found


def _counted(folder: Path) -> dict[str, int]:
    tables = {name: name for name in ("runs", "rounds", "updates", "models")} | {"records": "events"}
    with ModelDB(folder) as found, found.connect() as connection:
        return {
            name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for name, table in tables.items()
        }
