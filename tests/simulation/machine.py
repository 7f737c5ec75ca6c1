"""A simulated machine: a real folder whose disk may be full, fail, or lose what was not synced."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fl_main.disk import RealDisk
from fl_main.ports import DiskFile, Lock

from .process import Process


@dataclass(slots=True)
class _Moved:
    """A change of a folder that a loss of power may undo."""

    folder: Path
    undo: Callable[[], None]


class Machine:
    """What outlives the processes of a site: its files.

    Without a loss of power every change of a file stays, whoever is killed. With one, what was
    not synced may be there, or in part, or not at all; changes of folders are undone from the
    last one back to some point.

    Attributes:
        folder: A real folder.
        fault: The `errno` with which every change of a file fails at the moment, or None.
        database_fault: Name and text of the error with which SQLite fails at the moment.
        locks: Paths that are locked.
    """

    def __init__(self, folder: Path, random: Random, *, loses_power: bool) -> None:
        self.folder = folder
        self.fault: int | None = None
        self.database_fault: tuple[str, str] | None = None
        self.locks: set[Path] = set()
        self._random = random
        self._loses_power = loses_power
        self._synced: dict[Path, bytes] = {}  # what the disk has of files that its cache has newer
        self._moved: list[_Moved] = []

    def before_change(self, path: Path) -> None:
        """Remember what the disk has of a file that is going to be changed."""
        if self._loses_power and path not in self._synced:
            self._synced[path] = path.read_bytes() if path.exists() else b""

    def synced(self, path: Path) -> None:
        """A file's content is safe."""
        self._synced.pop(path, None)

    def synced_folder(self, folder: Path) -> None:
        """What was made, moved and deleted in a folder is safe."""
        self._moved = [change for change in self._moved if change.folder != folder]

    def moved(self, folder: Path, undo: Callable[[], None]) -> None:
        """Remember a change of a folder."""
        if self._loses_power:
            self._moved.append(_Moved(folder, undo))

    def renamed(self, source: Path, target: Path) -> None:
        """What is not synced of a file goes with it."""
        if source in self._synced:
            self._synced[target] = self._synced.pop(source)
        else:
            self._synced.pop(target, None)

    def lose_power(self) -> None:
        """Keep of everything that was not synced what chance keeps."""
        for path, before in self._synced.items():
            if path.exists():
                path.write_bytes(self._remains(before, path.read_bytes()))
        keep = self._random.randint(0, len(self._moved))
        for change in reversed(self._moved[keep:]):
            change.undo()
        self._synced.clear()
        self._moved.clear()

    def _remains(self, before: bytes, after: bytes) -> bytes:
        cut = self._random.randint(0, len(after))
        return self._random.choice([before, after, after[:cut], after[:cut] + bytes(len(after) - cut)])


class SimDisk(RealDisk):
    """The disk of a machine as one process sees it; see `fl_main.ports.Disk`."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process

    def change(self, what: str, path: Path) -> None:
        """Be killed, or find that the disk cannot be written."""
        self._process.call(f"{what} {path.name}")
        if self._machine.fault is not None:
            raise OSError(self._machine.fault, os.strerror(self._machine.fault), str(path))

    def open(self, path: Path, *, write: bool = False) -> DiskFile:
        if not write:
            self._process.call(f"opening {path.name}")
            return _SimFile(self, self._machine, path, super().open(path))
        self.change("opening to write", path)
        if not path.exists():
            self._machine.before_change(path)
            self._machine.moved(path.parent, lambda: path.unlink(missing_ok=True))
        return _SimFile(self, self._machine, path, super().open(path, write=True))

    def move(self, source: Path, target: Path) -> None:
        self.change(f"moving {source.name} to", target)
        content = source.read_bytes()
        before = target.read_bytes() if target.exists() else None
        super().move(source, target)
        self._machine.renamed(source, target)
        self._machine.moved(target.parent, lambda: _unmove(source, target, content, before))
        self._process.call(f"moved {target.name}")

    def remove(self, path: Path) -> None:
        self.change("deleting", path)
        if path.exists():
            content = path.read_bytes()
            self._machine.moved(path.parent, lambda: _put_back(path, content))
        super().remove(path)

    def make_folder(self, folder: Path) -> None:
        self.change("making the folder", folder)
        super().make_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        self.change("syncing the folder", folder)
        self._machine.synced_folder(folder)

    def lock(self, path: Path) -> Lock:
        self._process.call(f"locking {path.name}")
        if path in self._machine.locks:
            raise BlockingIOError(f"{path} is locked")
        self._machine.locks.add(path)
        held = _Held(self._machine, path)
        self._process.at_the_end(held.release)
        return held


class _Held:
    def __init__(self, machine: Machine, path: Path) -> None:
        self._machine = machine
        self._path: Path | None = path

    def release(self) -> None:
        if self._path is not None:
            self._machine.locks.discard(self._path)
            self._path = None


class _SimFile:
    """An open file; see `fl_main.ports.DiskFile`."""

    def __init__(self, disk: SimDisk, machine: Machine, path: Path, file: DiskFile) -> None:
        self._disk = disk
        self._machine = machine
        self._path = path
        self._file = file

    def size(self) -> int:
        return self._file.size()

    def read_at(self, place: int, view: memoryview) -> int:
        self._disk._process.call(f"reading {self._path.name}")
        return self._file.read_at(place, view)

    def write_at(self, place: int, view: memoryview) -> None:
        self._disk.change("writing", self._path)
        self._machine.before_change(self._path)
        half = len(view) // 2
        self._file.write_at(place, view[:half])
        self._disk._process.call(f"in the middle of writing {self._path.name}")
        self._file.write_at(place + half, view[half:])

    def truncate(self, size: int) -> None:
        self._disk._process.call(f"truncating {self._path.name}")
        self._machine.before_change(self._path)
        self._file.truncate(size)

    def sync(self) -> None:
        self._disk.change("syncing", self._path)
        self._machine.synced(self._path)

    def close(self) -> None:
        self._file.close()


def _unmove(source: Path, target: Path, content: bytes, before: bytes | None) -> None:
    if target.exists():
        content = target.read_bytes()  # as the loss of power left it
        target.unlink()
    source.write_bytes(content)
    if before is not None:
        target.write_bytes(before)


def _put_back(path: Path, content: bytes) -> None:
    if not path.exists():
        path.write_bytes(content)
