"""The real disk, for agents and the model database alike.

Beside `links.py` this is the one module of the core that touches the world outside.
"""

import io
import os
from pathlib import Path

from fl_main.ports import Disk, DiskFile, Lock

_BINARY = getattr(os, "O_BINARY", 0)  # Windows


class RealFile:
    """A `fl_main.ports.DiskFile` of the operating system."""

    def __init__(self, path: Path, *, write: bool) -> None:
        # It is `FileIO` that holds the descriptor, and no `__del__` of ours: Python drops a
        # KeyboardInterrupt that comes while a `__del__` runs, and the program would go on.
        flags = (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | _BINARY
        self._held = io.FileIO(
            path, "r+" if write else "r", opener=lambda name, _: os.open(name, flags, 0o644)
        )
        self._fd = self._held.fileno()

    def size(self) -> int:
        """See `DiskFile`."""
        return os.fstat(self._fd).st_size

    def read_at(self, place: int, view: memoryview) -> int:
        """See `DiskFile`."""
        done = 0
        while done < len(view) and (count := _read_at(self._fd, place + done, view[done:])):
            done += count
        return done

    def write_at(self, place: int, view: memoryview) -> None:
        """See `DiskFile`."""
        while view:
            count = _write_at(self._fd, place, view)
            view, place = view[count:], place + count

    def truncate(self, size: int) -> None:
        """See `DiskFile`."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """See `DiskFile`."""
        _sync(self._fd)

    def close(self) -> None:
        """See `DiskFile`."""
        self._fd = -1  # whoever goes on is told, and does not touch the next file of that number
        self._held.close()


class RealDisk:
    """The `fl_main.ports.Disk` of the operating system."""

    def open(self, path: Path, *, write: bool = False) -> DiskFile:
        """See `Disk`."""
        return RealFile(path, write=write)

    def move(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink(missing_ok=True)

    def has(self, path: Path) -> bool:
        """See `Disk`."""
        return path.is_file()

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:
        """See `Disk`."""
        folder.mkdir(parents=True, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """See `Disk`."""
        if os.name == "nt":  # a folder cannot be opened there; NTFS journals renames
            return
        fd = os.open(folder, os.O_RDONLY)
        try:
            _sync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path) -> Lock:
        """See `Disk`."""
        from filelock import FileLock, Timeout  # asyncio and more, for nothing where nobody locks

        # Not bound to a thread: whoever replaces the holder frees it from a thread of its own.
        held = FileLock(path, thread_local=False)
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(f"{path} is locked") from None
        return held


REAL_DISK = RealDisk()


def read_whole(disk: Disk, path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: If it cannot be read.
    """
    file = disk.open(path)
    try:
        data = bytearray(file.size())
        return bytes(data[: file.read_at(0, memoryview(data))])
    finally:
        file.close()


def write_whole(disk: Disk, path: Path, data: bytes, *, durable: bool) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        durable: Whether it must outlive a loss of power from here on.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    file = disk.open(temporary, write=True)
    try:
        file.truncate(0)
        file.write_at(0, memoryview(data))
        if durable:
            file.sync()
    finally:
        file.close()
    disk.move(temporary, path)
    if durable:
        disk.sync_folder(path.parent)


if hasattr(os, "preadv"):

    def _read_at(fd: int, place: int, view: memoryview) -> int:
        return os.preadv(fd, [view], place)

    def _write_at(fd: int, place: int, view: memoryview) -> int:
        return os.pwrite(fd, view, place)

else:  # macOS before 11, Windows

    def _read_at(fd: int, place: int, view: memoryview) -> int:
        os.lseek(fd, place, os.SEEK_SET)
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)

    def _write_at(fd: int, place: int, view: memoryview) -> int:
        os.lseek(fd, place, os.SEEK_SET)
        return os.write(fd, view)


def _sync(fd: int) -> None:
    """Wait until the disk has a file: on macOS fsync alone does not."""
    try:
        import fcntl
    except ImportError:
        os.fsync(fd)
        return
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, full)
