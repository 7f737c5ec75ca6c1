"""What an agent keeps on disk: who it is, updates that are not answered yet, its own arrays.

agent.json                            the agent's id, and how often it was started
lock                                  held while a process uses the folder
outbox/TASK.json                      facts of a finished update; written last, so it is whole
outbox/TASK.CHANNEL.safetensors       its arrays
state/NUMBER.TASK.safetensors         arrays to keep, if TASK's update is accepted and counted
state/NUMBER.TASK.accepted.safetensors  the same, once it was accepted
state/NUMBER.current.safetensors      those of the last update that was counted
"""

import errno
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fl_main.digests import DigestAlgorithm, algorithm_of, file_digest, tagged
from fl_main.disk import REAL_DISK, read_whole, write_whole
from fl_main.errors import StateFolderError, StateFolderFullError, WeightsError
from fl_main.ports import Disk, DiskFile
from fl_main.weights import Array, Layout, Rows, Weights, pieces, views

logger = logging.getLogger("fl_main.agent")

_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # a disk that is full or fails may be mended
_READ_BYTES = 1 << 20
_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class OutboxPayload:
    """One set of arrays of a finished update.

    Attributes:
        rows: Its layout, as messages carry it.
    """

    channel: str
    digest: str
    size: int
    layout: str
    rows: Rows


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A finished update that was not answered yet."""

    task_id: str
    num_examples: int
    num_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    payloads: tuple[OutboxPayload, ...] = ()
    seconds: float = 0.0


def default_folder(run: str, name: str) -> Path:
    """Return where the state of an agent lies if nothing else is said."""
    base = os.environ.get("FL_STATE_HOME") or os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "fl_main" / "agents" / re.sub(r"[^A-Za-z0-9._-]", "_", f"{run}@{name}")


class StateFolder:
    """An agent's state on disk; one process at a time.

    Args:
        path: The folder; made if it is not there.
        disk: Where it lies.
        new_id: Makes the identity of a new folder.
        durable: Whether what is written must outlive a loss of power.

    Attributes:
        agent_id: Who the agent is.
        start_number: How often it was started before.
        algorithm: What the aggregator names model files by, as it said last.

    Raises:
        StateFolderError: If the folder is in use, damaged or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        disk: Disk = REAL_DISK,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        *,
        durable: bool = False,
    ) -> None:
        self.path = path
        self.algorithm = DigestAlgorithm.BLAKE3
        self._disk = disk
        self._durable = durable
        self._outbox = path / "outbox"
        self._states = path / "state"
        self._to_drop: dict[str, bool] = {}  # answered updates, and whether to keep their state
        with self._translated("choose a state folder that can be written"):
            for folder in (path, self._outbox, self._states):
                disk.make_folder(folder)
            try:
                self._lock = disk.lock(path / "lock")
            except BlockingIOError:
                raise StateFolderError(
                    f"{path} is in use by another process; give this agent another name or state folder"
                ) from None
        try:
            with self._translated("choose a state folder that can be written"):
                self._begin(new_id)
                self._sweep()
        except BaseException:
            self._lock.release()
            raise

    @contextmanager
    def _translated(self, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StateFolderFullError if error.errno in _MAY_PASS else StateFolderError
            raise kind(f"{self.path}: {error.strerror or error}; {remedy}") from error

    def _begin(self, new_id: Callable[[], str]) -> None:
        """Find out who the agent is, and count this start: a clock may go back, a count does not."""
        file = self.path / "agent.json"
        try:
            known = (
                json.loads(read_whole(self._disk, file)) if self._disk.has(file) else {"agent_id": new_id()}
            )
            self.agent_id, self.start_number = str(known["agent_id"]), int(known.get("starts", 0))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateFolderError(
                f"{file} is damaged; delete it, and this site joins as a new agent"
            ) from error
        text = json.dumps({"agent_id": self.agent_id, "starts": self.start_number + 1})
        try:
            write_whole(self._disk, file, text.encode(), durable=True)
        except OSError as error:
            if not self._disk.has(file):
                raise
            logger.warning("cannot write %s: %s; what is in the outbox can be sent all the same", file, error)

    def _sweep(self) -> None:
        """Delete what an earlier process did not finish, and what was overtaken."""
        whole = {Path(name).stem for name in self._disk.names(self._outbox) if name.endswith(".json")}
        for name in self._disk.names(self._outbox):
            if name.partition(".")[0] not in whole or name.endswith(".tmp"):
                self._disk.remove(self._outbox / name)
        for state in self._kept():
            if not (state.is_current or state.is_accepted or state.task_id in whole):
                self._disk.remove(self._states / state.name)
        self._drop_overtaken()

    def close(self) -> None:
        """Let another process use the folder; may be called twice."""
        for task_id, keep_state in list(self._to_drop.items()):
            self.drop(task_id, keep_state=keep_state)
        self._lock.release()

    # --- outbox ---------------------------------------------------------------------------

    def put(
        self,
        task_id: str,
        num_examples: int,
        num_steps: int | None,
        metrics: Mapping[str, float],
        arrays: Mapping[str, tuple[Weights, Layout]],
        state: Weights | None,
        seconds: float,
    ) -> OutboxEntry:
        """Write a finished update, digests computed on the way; whole or not at all.

        Args:
            task_id: The task it answers.
            num_examples: Of its facts; and so the following.
            num_steps: Steps, if known.
            metrics: Its metrics.
            arrays: Arrays and the layout of what is sent of them, by channel.
            state: Arrays to keep once the update is counted.
            seconds: That the work took.

        Raises:
            StateFolderFullError: If there is no room at the moment; nothing of it was kept.
            StateFolderError: If it cannot be written for another reason.
        """
        self._to_drop.pop(task_id, None)
        try:
            with self._translated("free some space on that disk, or see why it fails"):
                payloads = tuple(self._put(task_id, channel, *pair) for channel, pair in arrays.items())
                if state is not None:
                    number = max((kept.number for kept in self._kept()), default=0) + 1
                    name = _Kept(number, task_id).name
                    self._write_arrays(self._states / name, state, Layout.of(state))
                self._sync(self._outbox, self._states)
                entry = OutboxEntry(task_id, num_examples, num_steps, dict(metrics), payloads, seconds)
                self._write_whole(self._facts_file(task_id), json.dumps(asdict(entry)))
        except StateFolderError:
            self.drop(task_id, keep_state=False)
            raise
        return entry

    def _put(self, task_id: str, channel: str, arrays: Weights, layout: Layout) -> OutboxPayload:
        digest = self._write_arrays(self.payload_file(task_id, channel), arrays, layout)
        return OutboxPayload(channel, digest, layout.nbytes, layout.digest, layout.to_wire())

    def entries(self) -> list[OutboxEntry]:
        """Return all finished updates that were not answered yet; a damaged one is deleted."""
        names = self._disk.names(self._outbox)
        found = [self._entry(Path(name).stem) for name in names if name.endswith(".json")]
        return [entry for entry in found if entry is not None]

    def _entry(self, task_id: str) -> OutboxEntry | None:
        try:
            fields = json.loads(read_whole(self._disk, self._facts_file(task_id)))
            payloads = tuple(OutboxPayload(**payload) for payload in fields.pop("payloads"))
            entry = OutboxEntry(**fields, payloads=payloads)
            if all(self._is_whole(task_id, payload) for payload in payloads):
                return entry
        except (ValueError, KeyError, TypeError, OSError, WeightsError):
            pass  # not as it was written
        logger.warning("the update of task %s is damaged in %s; it is made again", task_id, self._outbox)
        self.drop(task_id, keep_state=False)
        return None

    def _is_whole(self, task_id: str, payload: OutboxPayload) -> bool:
        """Whether arrays are as they were written: a loss of power may have left less."""
        return self._digest(task_id, payload, algorithm_of(payload.digest)) == payload.digest

    def in_algorithm(self, entry: OutboxEntry) -> OutboxEntry:
        """Return a finished update with the digests that the aggregator wants now.

        Raises:
            StateFolderError: If its files cannot be read.
        """
        with self._translated("see whether that disk works"):
            payloads = tuple(self._in_algorithm(entry.task_id, payload) for payload in entry.payloads)
        return replace(entry, payloads=payloads)

    def _in_algorithm(self, task_id: str, payload: OutboxPayload) -> OutboxPayload:
        if algorithm_of(payload.digest) is self.algorithm:
            return payload
        return replace(payload, digest=self._digest(task_id, payload, self.algorithm))

    def _digest(self, task_id: str, payload: OutboxPayload, algorithm: DigestAlgorithm) -> str:
        """Return the digest of a file of a finished update, whatever its facts say."""
        digest = file_digest(layout := Layout.from_wire(payload.rows), algorithm)
        file, place = self.open_payload(task_id, payload.channel), len(layout.header)
        buffer = memoryview(bytearray(_READ_BYTES))
        try:
            while count := file.read_at(place, buffer):
                digest.update(buffer[:count])
                place += count
        finally:
            file.close()
        return tagged(digest)

    def open_payload(self, task_id: str, channel: str) -> DiskFile:
        """Open a finished update's arrays: a safetensors file, its data at the end.

        Raises:
            OSError: If it cannot be opened.
        """
        return self._disk.open(self.payload_file(task_id, channel))

    def payload_file(self, task_id: str, channel: str) -> Path:
        """Return the file of a finished update's arrays."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", channel)
        return self._outbox / f"{task_id}.{safe}{_SUFFIX}"

    def drop(self, task_id: str, *, keep_state: bool) -> None:
        """Forget an answered update; its kept arrays stay while it may still be counted.

        What cannot be deleted now is tried again with the next one; at the latest the next start
        finds it, and offers it once more, which changes nothing.
        """
        self._to_drop[task_id] = keep_state
        try:
            for dropped, keeps in list(self._to_drop.items()):
                self._drop(dropped, keep_state=keeps)
                del self._to_drop[dropped]
        except OSError as error:
            logger.debug("cannot delete from %s yet: %s", self._outbox, error.strerror or error)

    def _drop(self, task_id: str, *, keep_state: bool) -> None:
        for kept in self._kept():
            if kept.task_id == task_id and not kept.is_accepted:
                self._settle_state(kept, is_accepted=keep_state)
        self._disk.remove(self._facts_file(task_id))
        for name in self._disk.names(self._outbox):
            if name.startswith(f"{task_id}."):
                self._disk.remove(self._outbox / name)

    def _settle_state(self, kept: "_Kept", *, is_accepted: bool) -> None:
        if is_accepted:
            self._disk.move(self._states / kept.name, self._states / replace(kept, is_accepted=True).name)
        else:
            self._disk.remove(self._states / kept.name)

    def _facts_file(self, task_id: str) -> Path:
        return self._outbox / f"{task_id}.json"

    # --- state ----------------------------------------------------------------------------

    def state(self) -> dict[str, Array]:
        """Return the arrays kept with the last update that was counted.

        Raises:
            StateFolderError: If they cannot be read.
        """
        current = self._current()
        if current is None:
            return {}
        file = self._states / current.name
        with self._translated("see whether that disk works"):
            data = read_whole(self._disk, file)
        try:
            length = int.from_bytes(data[:8], "little")
            layout = Layout.from_header(data[8 : 8 + length])
            return views(layout, memoryview(data)[8 + length :])
        except (WeightsError, ValueError) as error:
            raise StateFolderError(
                f"{file} is damaged ({error}); delete it to go on without what this agent kept"
            ) from error

    def pending_state(self) -> list[str]:
        """Return the tasks whose kept arrays wait for their accepted update to be counted."""
        accepted = {task_id for task_id, keep_state in self._to_drop.items() if keep_state}
        return sorted(kept.task_id for kept in self._kept() if kept.is_accepted or kept.task_id in accepted)

    def promote_state(self, task_id: str) -> None:
        """Make the arrays kept with a task current: its update was counted.

        Raises:
            StateFolderError: If that cannot be written; to be tried again.
        """
        current = self._current()
        for kept in self._kept():
            if kept.task_id == task_id and (current is None or kept.number > current.number):
                with self._translated("free some space on that disk, or let this program write there"):
                    name = _Kept(kept.number).name
                    self._disk.move(self._states / kept.name, self._states / name)
                    self._sync(self._states)
                    self._drop_overtaken()

    def _current(self) -> "_Kept | None":
        return max((kept for kept in self._kept() if kept.is_current), key=_number, default=None)

    def _drop_overtaken(self) -> None:
        """Delete arrays older than the current ones: their updates will never be counted."""
        if (current := self._current()) is not None:
            for kept in self._kept():
                if kept.number < current.number:
                    self._disk.remove(self._states / kept.name)

    def _kept(self) -> list["_Kept"]:
        return [kept for name in self._disk.names(self._states) if (kept := _Kept.of(name))]

    # --- writing --------------------------------------------------------------------------

    def _write_arrays(self, path: Path, arrays: Weights, layout: Layout) -> str:
        """Write a safetensors file and return its digest."""
        digest = file_digest(layout, self.algorithm)
        file = self._disk.open(path, write=True)
        try:
            file.truncate(0)
            file.write_at(0, memoryview(layout.header))
            place = len(layout.header)
            for piece in pieces(arrays, layout):
                file.write_at(place, memoryview(piece))
                digest.update(piece)
                place += len(piece)
            if self._durable:
                file.sync()
        finally:
            file.close()
        return tagged(digest)

    def _write_whole(self, path: Path, text: str) -> None:
        write_whole(self._disk, path, text.encode(), durable=self._durable)

    def _sync(self, *folders: Path) -> None:
        for folder in folders if self._durable else ():
            self._disk.sync_folder(folder)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of arrays that an agent keeps; a higher number is newer.

    Attributes:
        task_id: The task they came with, empty once they are current.
        is_accepted: Whether its update was accepted.
    """

    number: int
    task_id: str = ""
    is_accepted: bool = False

    @property
    def is_current(self) -> bool:
        return not self.task_id

    @property
    def name(self) -> str:
        accepted = ".accepted" if self.is_accepted else ""
        return f"{self.number:08d}.{self.task_id or 'current'}{accepted}{_SUFFIX}"

    @classmethod
    def of(cls, name: str) -> "_Kept | None":
        """Return what a file's name says, None if it is none of ours."""
        found = re.fullmatch(r"(\d+)\.(\w+?)(\.accepted)?\.safetensors", name)
        if found is None:
            return None
        task_id = "" if found[2] == "current" else found[2]
        return cls(int(found[1]), task_id, bool(found[3]))


def _number(kept: _Kept) -> int:
    return kept.number
