"""Arrays that come with an update, and are what the next task begins with once that was counted.

NUMBER.TASK.safetensors           to be kept, if TASK's update is accepted and counted
NUMBER.TASK.accepted.safetensors  the same, once it was accepted
NUMBER.current.safetensors        those of the last update that was counted

A higher number is newer. What is kept as a change of something older says of what: `NUMBER-BASIS`.
"""

import re
import threading
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fl_main.digests import Digest
from fl_main.disk import read_whole, write_whole
from fl_main.errors import StateFolderError, WeightsError
from fl_main.ports import Disk
from fl_main.weights import Array, Layout, Weights, pieces, views

SUFFIX = ".safetensors"
_NOTHING = 0  # the number of what there is before anything was kept
_RUN = "run"


def write_arrays(
    disk: Disk,
    path: Path,
    data: Iterable[memoryview],
    layout: Layout,
    digest: Digest | None = None,
    *,
    durable: bool,
) -> None:
    """Write a safetensors file.

    Args:
        data: The arrays' bytes in order.
        layout: Of the arrays.
        digest: Takes the bytes, too.
        durable: Whether it must outlive a loss of power.

    Raises:
        OSError: If it cannot be written.
    """
    file = disk.open(path, write=True)
    try:
        file.truncate(0)
        file.write_at(0, memoryview(layout.header))
        place = len(layout.header)
        for piece in data:
            file.write_at(place, memoryview(piece))
            if digest is not None:
                digest.update(piece)
            place += len(piece)
        if durable:
            file.sync()
    finally:
        file.close()


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of kept arrays.

    Attributes:
        task_id: The task they came with, empty once they are current.
        is_accepted: Whether its update was accepted.
        basis: The number of what they were made from; of current ones, of what was added last.
    """

    number: int
    task_id: str = ""
    is_accepted: bool = False
    basis: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether they are what the next task begins with."""
        return not self.task_id

    @property
    def name(self) -> str:
        """The file's name."""
        basis = "" if self.basis is None else f"-{self.basis:08d}"
        accepted = ".accepted" if self.is_accepted else ""
        return f"{self.number:08d}{basis}.{self.task_id or 'current'}{accepted}{SUFFIX}"

    @classmethod
    def of(cls, name: str) -> "Kept | None":
        """Return what a file's name says, None if it is none of ours."""
        found = re.fullmatch(r"(\d+)(?:-(\d+))?\.(\w+?)(\.accepted)?\.safetensors", name)
        if found is None:
            return None
        task_id = "" if found[3] == "current" else found[3]
        return cls(int(found[1]), task_id, bool(found[4]), int(found[2]) if found[2] else None)


class Shelf:
    """A folder of kept arrays. Its methods raise `OSError` where the disk does.

    They may be called from any thread: a program begins and ends its tasks in its own, while the network
    thread hears what became of the updates before.

    Args:
        folder: Where they lie; there already.
        disk: That it is on.
        durable: Whether what is written must outlive a loss of power.
    """

    def __init__(self, folder: Path, disk: Disk, *, durable: bool) -> None:
        self.folder = folder
        self._disk = disk
        self._durable = durable
        self._changing = threading.RLock()

    def put(self, task_id: str, data: Iterable[memoryview], layout: Layout, basis: int | None = None) -> None:
        """Keep arrays for the case that a task's update is counted.

        Args:
            data: Their bytes.
            layout: Of them.
            basis: The number of what they are a change of, where that matters.
        """
        with self._changing:
            path = self.folder / Kept(self._next_number(), task_id, basis=basis).name
            self._disk.open(path, write=True).close()  # nobody else takes that number
        write_arrays(self._disk, path, data, layout, durable=self._durable)

    def settle(self, task_id: str, *, is_accepted: bool) -> None:
        """Take what became of an update that was not counted yet."""
        with self._changing:
            for kept in self._all():
                if kept.task_id == task_id and not kept.is_accepted:
                    if is_accepted:
                        self._rename(kept, replace(kept, is_accepted=True))
                    else:
                        self._remove(kept)

    def pending(self, accepted: Container[str]) -> list[str]:
        """Return the tasks whose arrays wait for their accepted update to be counted.

        Args:
            accepted: Tasks whose update was, though the disk could not be told yet.
        """
        with self._changing:
            return [kept.task_id for kept in self._all() if kept.is_accepted or kept.task_id in accepted]

    def promote(self, task_id: str) -> None:
        """Make the arrays kept with a task current: its update was counted."""
        with self._changing:
            current = self._current()
            for kept in self._all():
                if kept.task_id == task_id and (current is None or kept.number > current.number):
                    self._make_current(kept)

    def _make_current(self, kept: Kept) -> None:
        self._rename(kept, Kept(kept.number))
        self.sync()
        self._drop_overtaken()

    def current(self) -> dict[str, Array]:
        """Return the arrays kept with the last update that was counted.

        Raises:
            StateFolderError: If they are damaged.
        """
        with self._changing:
            kept = self._current()
            return {} if kept is None else self._read(kept)

    def clear(self) -> None:
        """Forget everything."""
        with self._changing:
            for kept in self._all():
                self._remove(kept)
            self.sync()

    def sweep(self, whole: Container[str]) -> None:
        """Delete what came with updates that were never whole, and what was overtaken."""
        for name in self._disk.names(self.folder):
            if name.endswith(".tmp"):
                self._disk.remove(self.folder / name)
        for kept in self._all():
            if not (kept.is_current or kept.is_accepted or kept.task_id in whole):
                self._remove(kept)
        self._drop_overtaken()

    def _drop_overtaken(self) -> None:
        """Delete arrays older than the current ones: their updates will never be counted."""
        if (current := self._current()) is not None:
            for kept in self._all():
                if kept.number < current.number:
                    self._remove(kept)

    def _current(self) -> Kept | None:
        return max((kept for kept in self._all() if kept.is_current), key=_number, default=None)

    def _next_number(self) -> int:
        return max((kept.number for kept in self._all()), default=_NOTHING) + 1

    def _all(self) -> list[Kept]:
        return [kept for name in self._disk.names(self.folder) if (kept := Kept.of(name))]

    # --- files ----------------------------------------------------------------------------

    def _read(self, kept: Kept) -> dict[str, Array]:
        file = self.folder / kept.name
        data = read_whole(self._disk, file)
        try:
            length = int.from_bytes(data[:8], "little")
            return views(Layout.from_header(data[8 : 8 + length]), memoryview(data)[8 + length :])
        except (WeightsError, ValueError) as error:
            raise StateFolderError(
                f"{file} is damaged ({error}); delete it to go on without what this agent kept"
            ) from error

    def _rename(self, kept: Kept, target: Kept) -> None:
        self._disk.move(self.folder / kept.name, self.folder / target.name)

    def _remove(self, kept: Kept) -> None:
        self._disk.remove(self.folder / kept.name)

    def sync(self) -> None:
        """Wait until the disk has what was written here, if it must outlive a loss of power."""
        if self._durable:
            self._disk.sync_folder(self.folder)


class Residuals(Shelf):
    """Error feedback: what an agent could not send of its updates, added to what it sends next.

    An update is made from the residual of the one before it, which may not be counted yet. If all
    are counted in their turn, each one's residual becomes the current one as it is. If one is left
    out, or two are counted out of turn (those of one round are in the order of their tasks' ids), the
    change that each made is added to what is current: the sum of what was sent in
    counted updates, and the current residual, is what these updates would have been (to rounding).
    """

    def begin(self, run_id: str) -> None:
        """Forget what is left of another run."""
        with self._changing:
            file = self.folder / _RUN
            said = run_id.encode()
            if self._disk.has(file) and read_whole(self._disk, file) == said:
                return
            self.clear()
            write_whole(self._disk, file, said, durable=self._durable)

    def newest(self, uncounted: Container[str]) -> tuple[int, dict[str, Array]]:
        """Return the number and arrays of what the next update begins with; of nothing, 0 and none.

        Args:
            uncounted: Tasks whose update was accepted and will be counted.
        """
        with self._changing:
            current = self._current() or Kept(_NOTHING)
            self._drop_left_out(current, uncounted)
            newer = [kept for kept in self._waiting() if kept.number > _reach(current)]
            kept = max((kept for kept in newer if kept.task_id in uncounted), key=_number, default=current)
            return kept.number, self._read(kept) if kept.number != _NOTHING else {}

    def promote(self, task_id: str) -> None:
        """Take what is left of an update into the current residual: it was counted."""
        with self._changing:
            current = self._current() or Kept(_NOTHING)
            for kept in self._waiting():
                if kept.task_id == task_id:
                    if kept.basis != current.number:
                        self._add(current, kept)
                    self._make_current(kept)

    def _waiting(self) -> list[Kept]:
        """Return what came with updates that may still be counted: a newer one may be before an older."""
        return [kept for kept in self._all() if not kept.is_current]

    def _drop_left_out(self, current: Kept, uncounted: Container[str]) -> None:
        """Delete what came with accepted updates that never will be counted, and nothing is a change of."""
        bases = {kept.basis for kept in self._waiting()}
        for kept in self._waiting():
            is_out = kept.is_accepted and kept.task_id not in uncounted
            if is_out and kept.number < _reach(current) and kept.number not in bases:
                self._remove(kept)

    def _current(self) -> Kept | None:
        current = super()._current()
        if current is not None and current.basis is not None:  # killed before that was noted
            for kept in self._all():
                if kept.number == current.basis and not kept.is_current:
                    self._rename(kept, Kept(kept.number))
        return current

    def _drop_overtaken(self) -> None:
        """Delete what nothing refers to any more."""
        current = self._current() or Kept(_NOTHING)
        waiting = self._waiting()
        needed = {current.number, *(kept.number for kept in waiting), *(kept.basis for kept in waiting)}
        for kept in self._all():
            if kept.number not in needed:
                self._remove(kept)

    def _add(self, current: Kept, kept: Kept) -> None:
        """Make current + (kept - its basis) current; what is to be added twice by nobody says its number."""
        basis = next((old for old in self._all() if old.number == kept.basis), None)
        target = self.folder / Kept(self._next_number(), basis=kept.number).name
        temporary = target.with_name(target.name + ".tmp")
        change = self._read(kept)
        arrays = {name: array.copy() for name, array in change.items()}
        if basis is not None:
            _fold_in(np.subtract, arrays, self._read(basis))
        if current.number != _NOTHING:
            _fold_in(np.add, arrays, self._read(current))
        layout = Layout.of(arrays)
        write_arrays(self._disk, temporary, pieces(arrays, layout), layout, durable=self._durable)
        self._disk.move(temporary, target)


def _fold_in(operation: Callable[..., object], arrays: dict[str, Array], other: Weights) -> None:
    for name in arrays.keys() & other.keys():
        operation(arrays[name], other[name], out=arrays[name])


def _reach(current: Kept) -> int:
    """Return the number of the last update in a residual."""
    return current.number if current.basis is None else current.basis


def _number(kept: Kept) -> int:
    return kept.number
