"""The model files of a database: one per digest, staged until a commit moves it into its place.

Complete files are `models/ab/abcd….safetensors`, named by the digest of the whole file; those on
their way are `models/.staging/<name>`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from fl_main.digests import Digest, DigestAlgorithm, algorithm_of, file_digest, tagged
from fl_main.disk import REAL_DISK
from fl_main.errors import StoreDamagedError, StoreError, WeightsError
from fl_main.ports import Disk, DiskFile
from fl_main.weights import Layout

from .faults import translated

SUFFIX = ".safetensors"
_READ_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_ASIDE = "pruned."


class StagedFile:
    """A model file on its way into the store; used by one thread at a time.

    The header is written first, so that the file is complete once its data is there.

    Args:
        name: What `StoredPayload.staged` calls it.
        algorithm: Of its digest.
        resume: Whether to go on with what is there, if it is of the same layout.
        durable: Whether `finish` waits until the disk has it.

    Raises:
        StoreFullError: If there is no room for the header.
    """

    def __init__(
        self,
        disk: Disk,
        path: Path,
        name: str,
        layout: Layout,
        algorithm: DigestAlgorithm,
        *,
        resume: bool,
        durable: bool,
    ) -> None:
        self._disk = disk
        self._path = path
        self._name = name
        self._layout = layout
        self._algorithm = algorithm
        self._durable = durable
        self._size = 0
        self._digest: Digest = file_digest(layout, algorithm)
        self._file: DiskFile | None = None
        self._opened()
        try:
            if not (resume and self._take_over()):
                self.restart()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> DiskFile:
        """Return the file; a finished one is opened again."""
        if self._file is None:
            with translated(self._path, "open a staging file"):
                self._file = self._disk.open(self._path, write=True)
        return self._file

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
        header, file = self._layout.header, self._opened()
        with translated(self._path, "read a staging file"):
            there = file.size() - len(header)
            begin = bytearray(len(header))
            if not 0 <= there <= self._layout.nbytes:
                return False
            if file.read_at(0, memoryview(begin)) != len(header) or begin != header:
                return False
            if there != self._layout.nbytes:
                there -= there % 8  # a whole value of any type, so that checks can go on from here
            self._hash(file, there)
            file.truncate(len(header) + self._size)
        return True

    def _hash(self, file: DiskFile, there: int) -> None:
        buffer = memoryview(bytearray(min(_READ_BYTES, max(there, 1))))
        while self._size < there:
            part = buffer[: min(len(buffer), there - self._size)]
            count = file.read_at(len(self._layout.header) + self._size, part)
            if not count:
                return
            self._digest.update(part[:count])
            self._size += count

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
        file = self._opened()
        with translated(self._path, "stage a model"):
            try:
                file.write_at(start, view)
            except OSError:
                file.truncate(start)
                raise

    @property
    def layout(self) -> Layout:
        """Where each array lies."""
        return self._layout

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on; a finished file is opened again.

        Raises:
            StoreError: If it ends before, or cannot be read.
        """
        view = memoryview(buffer).cast("B")
        with translated(self._path, "read a staging file"):
            count = self._opened().read_at(len(self._layout.header) + offset, view)
        if count < len(view):
            raise StoreError(f"{self._path} ends too early, at byte {offset + count} of its data")

    def restart(self) -> None:
        """Throw away what is there; a finished file is opened again.

        Raises:
            StoreFullError: If there is no room for the header.
        """
        file = self._opened()
        with translated(self._path, "stage a model"):
            file.truncate(0)
        self._size = 0
        self._digest = file_digest(self._layout, self._algorithm)
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
                self._opened().sync()
        self.close()
        return tagged(self._digest)

    def close(self) -> None:
        """Close the file; it stays, so that the transfer can go on later. May be called twice."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def discard(self) -> None:
        """Close and delete it."""
        self.close()
        with translated(self._path, "delete a staging file"):
            self._disk.remove(self._path)


class StoredFile:
    """A model file in its place, read in any order; used by one thread at a time.

    Raises:
        StoreDamagedError: If the file is missing, or not what its layout says.
    """

    def __init__(self, disk: Disk, path: Path, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._start = len(layout.header)
        try:
            self._file = disk.open(path)
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
        header = bytearray(self._start)
        with translated(self._path, "read a model file"):
            found = self._file.size()
            self._file.read_at(0, memoryview(header))
        if found != expected:
            raise StoreDamagedError(f"model file {self._path} has {found} bytes instead of {expected}")
        if header != self._layout.header:
            raise StoreDamagedError(f"model file {self._path} does not begin with the header of its layout")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on.

        Raises:
            StoreDamagedError: If the file ends before.
        """
        view = memoryview(buffer).cast("B")
        place = self._start + offset
        with translated(self._path, "read a model file"):
            count = self._file.read_at(place, view)
        if count < len(view):
            raise StoreDamagedError(f"model file {self._path} ends too early, at byte {place + count}")

    def close(self) -> None:
        """Close it; may be called twice."""
        self._file.close()


class ModelFiles:
    """The folder of model files.

    Args:
        folder: The database's folder.
        algorithm: Of the digests that name them.
        disk: Where it lies.
        durable: Whether what is done must survive a loss of power.
    """

    def __init__(
        self, folder: Path, algorithm: DigestAlgorithm, disk: Disk = REAL_DISK, *, durable: bool = False
    ) -> None:
        self.folder = folder / "models"
        self.algorithm = algorithm
        self._disk = disk
        self._lasting: set[Path] = set()  # folders below that will still be there after a loss of power
        self.staging = self.folder / ".staging"
        self._durable = durable

    def make(self) -> None:
        """Make the folders."""
        with translated(self.staging, "make the folder of the models"):
            self._disk.make_folder(self.staging)

    def path(self, digest: str) -> Path:
        """Return where the file of a digest lies, whether it is there or not.

        Raises:
            StoreError: If it is no digest of this database's algorithm.
        """
        if not self.has_name(digest):
            raise StoreError(f"{digest!r} is not a digest of this database, as {self.algorithm}:<64 digits>")
        name = digest.partition(":")[2]
        return self.folder / name[:2] / (name + SUFFIX)

    def has_name(self, digest: str) -> bool:
        """Whether a file of this digest has a name here: it is of this database's algorithm."""
        try:
            return algorithm_of(digest) is self.algorithm
        except WeightsError:
            return False

    def stage(self, name: str, layout: Layout, *, resume: bool = False) -> StagedFile:
        """Open a staging file; see `Store.stage`."""
        path, durable = self._staged(name), self._durable
        return StagedFile(self._disk, path, name, layout, self.algorithm, resume=resume, durable=durable)

    def is_staged(self, name: str) -> bool:
        """Whether there is a staging file of that name."""
        return self._disk.has(self._staged(name))

    def _staged(self, name: str) -> Path:
        escaped = quote(name, safe="")  # no name leads out of the folder
        return self.staging / (escaped if not escaped.startswith(".") else "%2E" + escaped[1:])

    def place(self, moves: Iterable[tuple[str | None, str]]) -> None:
        """Move staged files into their places; what is in its place already is fine.

        Where an equal file is in its place, that one stays; one that differs was damaged, and is
        replaced. A file that is not staged any more was moved by a commit that failed afterwards.

        Args:
            moves: Names of staging files (None: it must be there) and the digests of their content.

        Raises:
            StoreDamagedError: If a file is neither staged nor in its place.
        """
        changed: set[Path] = set()
        for name, digest in moves:
            target = self.path(digest)
            if target.parent not in self._lasting:
                self._disk.make_folder(target.parent)
                changed |= {self.folder, target.parent}
            try:
                if name is not None:
                    self._put(self._staged(name), target)
                    changed.add(target.parent)
                    continue
            except FileNotFoundError:
                pass
            if not self._disk.has(target):
                raise StoreDamagedError(f"model file {target} was neither staged nor stored")
        if self._durable:
            for folder in sorted(changed):
                self._disk.sync_folder(folder)
        self._lasting |= changed

    def _put(self, staged: Path, target: Path) -> None:
        """Move a staged file; not upon an equal one, as ext4 then writes it to the disk at once."""
        if self._disk.has(target) and self._are_equal(staged, target):
            self._disk.remove(staged)
        else:
            self._disk.move(staged, target)

    def _are_equal(self, one: Path, other: Path) -> bool:
        with closing(self._disk.open(one)) as first, closing(self._disk.open(other)) as second:
            size = first.size()
            if second.size() != size:
                return False
            for place in range(0, size, _READ_BYTES):
                length = min(_READ_BYTES, size - place)
                left, right = bytearray(length), bytearray(length)  # compared as they lie in memory
                first.read_at(place, memoryview(left))
                second.read_at(place, memoryview(right))
                if left != right:
                    return False
        return True

    def set_aside(self, digest: str) -> str:
        """Make a staging file of a stored one, if it is there, and return its name."""
        name = f"{_ASIDE}{digest}"
        with suppress(FileNotFoundError):
            self._disk.move(self.path(digest), self._staged(name))
        return name

    def is_set_aside(self, name: str) -> bool:
        """Whether a staging file is one that was set aside: nobody needs it, whoever let it lie."""
        return name.startswith(_ASIDE)

    def open(self, digest: str, layout: Layout) -> StoredFile:
        """Open a file that is in its place.

        Raises:
            StoreDamagedError: If it is missing, or not what its layout says.
        """
        return StoredFile(self._disk, self.path(digest), layout)

    def digests(self) -> Iterator[str]:
        """Yield the digests of all files that are in a place of ours."""
        for path in self.stored():
            if _NAME.fullmatch(path.name) and path.parent.name == path.name[:2]:
                yield f"{self.algorithm}:{path.name.removesuffix(SUFFIX)}"

    def stored(self) -> Iterator[Path]:
        """Yield every file that is not staged, ours or not."""
        for folder, below, names in os.walk(self.folder):
            if ".staging" in below:
                below.remove(".staging")
            for name in names:
                yield Path(folder, name)

    def staged(self) -> list[str]:
        """Return the names of all staging files."""
        return [unquote(name) for name in self._disk.names(self.staging)]

    def unstage(self, name: str) -> None:
        """Delete a staging file; it may be gone already."""
        self._disk.remove(self._staged(name))
