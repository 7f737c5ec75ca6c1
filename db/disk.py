"""The folder of a database: its locks, and whether its disk will do."""

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fl_main.errors import StoreError, StoreLockedError
from fl_main.ports import Disk, Lock

from .faults import translated

LOCK_FILE = "lock"
_CLAIM = "beside-"  # how the locks of those begin who write beside a daemon
_MOUNTS = Path("/proc/mounts")  # Linux only; elsewhere nothing is refused
_NETWORK = {"nfs", "nfs4", "cifs", "smbfs", "smb3", "fuse.sshfs"}


def prepare(folder: Path) -> None:
    """Make the folder of a database.

    Raises:
        StoreError: If it cannot be made, or lies on a network file system.
    """
    with translated(folder, "make the model database"):
        folder.mkdir(parents=True, exist_ok=True)
    if kind := network_file_system(folder):
        raise StoreError(
            f"{folder} is on a network file system ({kind}), where SQLite's locks do not hold; "
            "choose a folder on a local disk (database.folder)"
        )


def network_file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the network file system that a folder is on, or None."""
    try:
        text = mounts.read_text(errors="replace")
    except OSError:
        return None
    best, found = "", ""
    here = str(folder.resolve())
    for line in text.splitlines():
        _, place, kind, *_ = [*line.split(" "), "", "", ""]
        place = place.replace("\\040", " ")
        inside = here == place or here.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):  # a later mount hides an earlier one
            best, found = place, kind
    return found if found in _NETWORK else None


def lock(folder: Path, on: Disk) -> Lock:
    """Take the lock of a database's only writer.

    Raises:
        StoreLockedError: If another process, or another store of this one, has it.
    """
    with translated(folder, "lock the model database"):
        try:
            return on.lock(folder / LOCK_FILE)
        except BlockingIOError:
            raise StoreLockedError(
                f"the model database {folder} is in use by another aggregator; "
                "stop that one, or give this one another folder (database.folder); "
                "a command that writes to it, as fl db prune, is over soon"
            ) from None


def claim(folder: Path, on: Disk) -> Callable[[], None]:
    """Say that what is staged here is not the daemon's alone, until this process ends, however it ends.

    Claims are made, and looked for, in a transaction: so none is made while somebody looks.

    Returns:
        What takes the claim back.
    """
    path = folder / f"{_CLAIM}{secrets.token_hex(12)}"
    with translated(folder, "lock the staging files"):
        held = on.lock(path)

    def take_back() -> None:
        held.release()
        with suppress(OSError):  # Windows, while a daemon that starts looks at it; the next one deletes it
            on.remove(path)

    return take_back


def is_claimed(folder: Path, on: Disk) -> bool:
    """Whether somebody has a claim; those of processes that ended are deleted."""
    with translated(folder, "look who else writes to the model database"):
        for path in (folder / name for name in on.names(folder) if name.startswith(_CLAIM)):
            try:
                on.lock(path).release()
            except BlockingIOError:
                return True
            on.remove(path)
    return False


def free_bytes(folder: Path) -> int:
    """Return the room left on a folder's disk, for this user."""
    with translated(folder, "ask for the room left"):
        if hasattr(os, "statvfs"):
            stat = os.statvfs(folder)
            return stat.f_bavail * stat.f_frsize
        return shutil.disk_usage(folder).free
