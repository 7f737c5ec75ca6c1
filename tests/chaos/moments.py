"""What a process was in the middle of when it was stopped: read from outside, while it stands still."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.chaos.lanes import Site
from tests.chaos.processes import DaemonUnderFire

IDLE = ("starting", "connecting", "waiting")  # of a site
RECENT_S = 0.05  # a line that moved bytes so lately is in use
_WRITE_LOCK = "120 120"  # the byte of the -shm file that a writer locks (sqlite.org/walformat)


def of_daemon(daemon: DaemonUnderFire, database: Path, sites: Sequence[Site]) -> str:
    """Return what a frozen daemon was doing."""
    if daemon.is_stopping:
        return "stopping"
    if not daemon.is_listening:
        return "starting"
    if _holds_write_lock(daemon.pid, database / "fl.db-shm"):
        return "committing"
    staged = _names(database / "models" / ".staging")
    if any(name.count(".") > 1 for name in staged):  # <run>.<round>.<kind>.<channel>
        return "folding"
    if staged:  # <task>.<channel>
        return "receiving an update"
    if any(_is_recent(site.line.down_at) for site in sites):
        return "sending"
    return "waiting"


def of_site(site: Site) -> str:
    """Return what a frozen site was doing."""
    fact = site.journal.last()["fact"]
    if fact in ("nothing", "killed"):
        return "starting"
    if "joined run=" not in site.process.output:
        return "connecting"
    names = _names(site.folder / "outbox")
    if any(name.endswith(".json") for name in names):
        return "sending its update"
    if names:
        return "writing its update"
    if fact in ("training", "trained"):
        return "training" if fact == "training" else "writing its update"
    return "fetching a model" if _is_recent(site.line.down_at) else "waiting"


def _is_recent(at: float) -> bool:
    return time.monotonic() - at < RECENT_S


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def _holds_write_lock(pid: int, shared_memory: Path) -> bool:
    """Whether a write transaction is open: SQLite locks a byte of that file then."""
    try:
        inode = shared_memory.stat().st_ino
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(f" WRITE {pid} " in line and f":{inode} {_WRITE_LOCK}" in line for line in locks)
