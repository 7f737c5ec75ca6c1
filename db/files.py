"""The model files of a database: one per digest, staged until a commit moves it into its place.

Complete files are `models/ab/abcd….safetensors`, named by the digest of the whole file; those on
their way are `models/.staging/<name>`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote

from fl_main.errors import StoreDamagedError, StoreError
from fl_main.weights import Digest, Layout, file_digest, tagged

from .faults import translated

SUFFIX = ".safetensors"
_READ_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_TAGGED = re.compile(r"sha256:[0-9a-f]{64}")


class StagedFile:
    """A model file on its way into the store; used by one thread at a time.

    The header is written first, so that the file is complete once its data is there.

    Args:
        name: What `StoredPayload.staged` calls it.
        resume: Whether to go on with what is there, if it is of the same layout.
        durable: Whether `finish` waits until the disk has it.

    Raises:
        StoreFullError: If there is no room for the header.
    """

    def __init__(self, path: Path, name: str, layout: Layout, *, resume: bool, durable: bool) -> None:
        self._path = path
        self._name = name
        self._layout = layout
        self._durable = durable
        self._size = 0
        self._digest: Digest = file_digest(layout)
        self._fd = -1
        self._fd = self._open()
        try:
            if not (resume and self._take_over()):
                self.restart()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        with translated(self._path, "open a staging file"):
            return os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)

    @property
    def name(self) -> str:
        """What `StoredPayload.staged` calls it."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes of data that are safely there."""
        return self._size

    def _take_over(self) -> bool:
        """Hash what an earlier process left; false if it is of no use."""
        header = self._layout.header
        with translated(self._path, "read a staging file"):
            there = os.fstat(self._fd).st_size - len(header)
            if not 0 <= there <= self._layout.nbytes or os.read(self._fd, len(header)) != header:
                return False
            if there != self._layout.nbytes:
                there -= there % 8  # a whole value of any type, so that checks can go on from here
            while self._size < there and (data := os.read(self._fd, min(_READ_BYTES, there - self._size))):
                self._digest.update(data)
                self._size += len(data)
            os.ftruncate(self._fd, len(header) + self._size)
        return True

    def write(self, data: bytes | memoryview) -> None:
        """Append data and take it into the digest.

        Raises:
            StoreFullError: If there is no room; the file is as before, so that it can be tried again.
            StoreError: If there is more data than the layout has room for.
        """
        view = memoryview(data).cast("B")
        if self._size + len(view) > self._layout.nbytes:
            raise StoreError(f"{self._path}: more data than the {self._layout.nbytes} bytes of its layout")
        self._write(view, len(self._layout.header) + self._size)
        self._digest.update(view)
        self._size += len(view)

    def _write(self, view: memoryview, start: int) -> None:
        with translated(self._path, "stage a model"):
            try:
                os.lseek(self._fd, start, os.SEEK_SET)
                while view:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                os.ftruncate(self._fd, start)
                raise

    def restart(self) -> None:
        """Throw away what is there; a finished file is opened again.

        Raises:
            StoreFullError: If there is no room for the header.
        """
        if self._fd < 0:
            self._fd = self._open()
        with translated(self._path, "stage a model"):
            os.ftruncate(self._fd, 0)
        self._size = 0
        self._digest = file_digest(self._layout)
        self._write(memoryview(self._layout.header), 0)

    def finish(self) -> str:
        """Close the complete file and return its tagged digest.

        A file that turns out wrong can still be restarted or discarded.

        Raises:
            StoreError: If data is missing.
        """
        if self._size != self._layout.nbytes:
            raise StoreError(f"{self._path}: only {self._size} of {self._layout.nbytes} bytes are there")
        if self._durable:
            with translated(self._path, "write a model to disk"):
                _sync(self._fd)
        self.close()
        return tagged(self._digest)

    def close(self) -> None:
        """Close the file; it stays, so that the transfer can go on later. May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def discard(self) -> None:
        """Close and delete it."""
        self.close()
        with translated(self._path, "delete a staging file"):
            self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        self.close()


class StoredFile:
    """A model file in its place, read in any order; used by one thread at a time.

    Raises:
        StoreDamagedError: If the file is missing, or not what its layout says.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._start = len(layout.header)
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            raise StoreDamagedError(f"model file {path} is missing; see `fl db verify`") from None
        except OSError as error:
            raise StoreError(f"cannot read model file {path}: {error.strerror}") from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @property
    def layout(self) -> Layout:
        """Where each array lies."""
        return self._layout

    def _check(self) -> None:
        expected = self._start + self._layout.nbytes
        if (found := os.fstat(self._fd).st_size) != expected:
            raise StoreDamagedError(f"model file {self._path} has {found} bytes instead of {expected}")
        if os.read(self._fd, self._start) != self._layout.header:
            raise StoreDamagedError(f"model file {self._path} does not begin with the header of its layout")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on.

        Raises:
            StoreDamagedError: If the file ends before.
        """
        view = memoryview(buffer).cast("B")
        place = self._start + offset
        while view:
            try:
                count = _read_at(self._fd, place, view)
            except OSError as error:
                raise StoreError(f"cannot read model file {self._path}: {error.strerror}") from error
            if count == 0:
                raise StoreDamagedError(f"model file {self._path} ends too early, at byte {place}")
            view, place = view[count:], place + count

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


if hasattr(os, "preadv"):

    def _read_at(fd: int, place: int, view: memoryview) -> int:
        return os.preadv(fd, [view], place)

else:  # macOS before 11, Windows

    def _read_at(fd: int, place: int, view: memoryview) -> int:
        os.lseek(fd, place, os.SEEK_SET)
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)


def _sync(fd: int) -> None:
    """Wait until the disk has a file, not only its cache: on macOS fsync alone does not."""
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


class ModelFiles:
    """The folder of model files.

    Args:
        folder: The database's folder.
        durable: Whether what is done must survive a loss of power.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder / "models"
        self.staging = self.folder / ".staging"
        self._durable = durable

    def make(self) -> None:
        """Make the folders."""
        with translated(self.staging, "make the folder of the models"):
            self.staging.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return where the file of a digest lies, whether it is there or not.

        Raises:
            StoreError: If it is no digest of this database's algorithm.
        """
        if not _TAGGED.fullmatch(digest):
            raise StoreError(f"{digest!r} is not a digest of this database, as sha256:<64 digits>")
        name = digest.removeprefix("sha256:")
        return self.folder / name[:2] / (name + SUFFIX)

    def stage(self, name: str, layout: Layout, *, resume: bool = False) -> StagedFile:
        """Open a staging file; see `Store.stage`."""
        return StagedFile(self._staged(name), name, layout, resume=resume, durable=self._durable)

    def is_staged(self, name: str) -> bool:
        """Whether there is a staging file of that name."""
        return self._staged(name).exists()

    def _staged(self, name: str) -> Path:
        escaped = quote(name, safe="")  # no name leads out of the folder
        return self.staging / (escaped if not escaped.startswith(".") else "%2E" + escaped[1:])

    def place(self, moves: Iterable[tuple[str | None, str]]) -> None:
        """Move staged files into their places; what is in its place already is fine.

        A staged file replaces an equal one, which heals it should it be damaged. A file that is
        not staged any more was moved by a commit that failed afterwards.

        Args:
            moves: Names of staging files (None: it must be there) and the digests of their content.

        Raises:
            StoreDamagedError: If a file is neither staged nor in its place.
        """
        changed: set[Path] = set()
        for name, digest in moves:
            target = self.path(digest)
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                changed.add(self.folder)
            try:
                if name is None:
                    target.stat()
                else:
                    os.replace(self._staged(name), target)
                    changed.add(target.parent)
            except FileNotFoundError:
                if not target.is_file():
                    raise StoreDamagedError(f"model file {target} was neither staged nor stored") from None
        if self._durable:
            for folder in changed:
                _sync_folder(folder)

    def remove(self, digest: str) -> None:
        """Delete a file; it may be gone already."""
        self.path(digest).unlink(missing_ok=True)

    def set_aside(self, digest: str) -> Path:
        """Move a file, if it is there, to where nothing is looked for, and return that place."""
        aside = self._staged(f"pruned.{digest}")
        with suppress(FileNotFoundError):
            self.path(digest).rename(aside)
        return aside

    def open(self, digest: str, layout: Layout) -> StoredFile:
        """Open a file that is in its place.

        Raises:
            StoreDamagedError: If it is missing, or not what its layout says.
        """
        return StoredFile(self.path(digest), layout)

    def digests(self) -> Iterator[str]:
        """Yield the digests of all files that are in a place of ours."""
        for path in self.stored():
            if _NAME.fullmatch(path.name) and path.parent.name == path.name[:2]:
                yield "sha256:" + path.name.removesuffix(SUFFIX)

    def stored(self) -> Iterator[Path]:
        """Yield every file that is not staged, ours or not."""
        for folder, below, names in os.walk(self.folder):
            if ".staging" in below:
                below.remove(".staging")
            for name in names:
                yield Path(folder, name)

    def staged(self) -> list[str]:
        """Return the names of all staging files."""
        try:
            return [unquote(entry.name) for entry in os.scandir(self.staging)]
        except FileNotFoundError:
            return []

    def unstage(self, name: str) -> None:
        """Delete a staging file; it may be gone already."""
        self._staged(name).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; NTFS journals renames
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        _sync(fd)
    finally:
        os.close(fd)
