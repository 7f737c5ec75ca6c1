"""A disk that is small, so that it can be full: a tmpfs where we may mount one."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

PIECE_BYTES = 1 << 20


class SmallDisk:
    """A folder on a file system of its own, where this process may mount one; else a plain folder.

    Args:
        folder: Made here.
        size_bytes: Of the file system.

    Attributes:
        is_mounted: Whether it can be filled and made read-only.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._ballast = folder / "ballast"
        self.is_mounted = _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder)

    def make_room(self, free_bytes: int) -> None:
        """Let it grow until so much is free; it must not be full or read-only by a fault of ours."""
        if self.is_mounted:
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            _mount("-o", f"remount,size={used + free_bytes}", self.folder)

    def fill(self, left_bytes: int) -> None:
        """Leave only so much room."""
        piece = bytes(PIECE_BYTES)
        with suppress(OSError), open(self._ballast, "wb", buffering=0) as file:  # until there is no room
            while True:
                file.write(piece)
        size = self._ballast.stat().st_size if self._ballast.exists() else 0
        os.truncate(self._ballast, max(0, size - left_bytes))

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def set_read_only(self, is_read_only: bool) -> bool:
        """Remount it; False if the system refuses, as it does while a file is open for writing."""
        return _mount("-o", f"remount,{'ro' if is_read_only else 'rw'}", self.folder)

    def copy_to(self, folder: Path) -> None:
        """Copy everything to a folder that stays."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def close(self) -> None:
        """Unmount it; what was on it is gone."""
        if self.is_mounted:
            subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)
            self.is_mounted = False


def _mount(*args: str | Path) -> bool:
    try:
        return subprocess.run(["mount", *map(str, args)], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
