"""What an agent keeps on disk: who it is, updates that are not answered yet, its own arrays.

agent.json                            the agent's id, how often it was started, and whose default folder it is
lock                                  held while a process uses the folder
outbox/TASK.json                      facts of a finished update; written last, so it is whole
outbox/TASK.CHANNEL.safetensors       its arrays
state/                                arrays of the program's own, kept with an update; see `shelf`
feedback/                             what a lossy codec left out of the updates, kept in the same way
"""

import errno
import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from fl_main.codec import encode
from fl_main.digests import DigestAlgorithm, algorithm_of, file_digest, tagged
from fl_main.disk import REAL_DISK, read_whole, write_whole
from fl_main.errors import LocalProtocolError, StateFolderError, StateFolderFullError, WeightsError
from fl_main.messages import Offer, Payload
from fl_main.ports import Disk, DiskFile
from fl_main.printable import first_fault
from fl_main.weights import Array, Layout, Rows, Weights, pieces

from .outgoing import Outgoing
from .shelf import SUFFIX, Residuals, Shelf, write_arrays

logger = logging.getLogger("fl_main.agent")

_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # a disk that is full or fails may be mended
_READ_BYTES = 1 << 20
AGENT_FILE, OWNER = "agent.json", "default_of"
_MAX_FOLDER_NAME = 200  # characters; a file system takes 255, and a run's and an agent's name may be 300


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

    def offer(self, known: Container[str], *, follows: bool = False) -> Offer:
        """Return the message that offers it.

        Args:
            known: Digests of layouts that the aggregator knows, too.
            follows: Whether its bytes follow at once.
        """
        payloads = [
            Payload(
                channel=payload.channel,
                layout=payload.layout,
                digest=payload.digest,
                size=payload.size,
                rows=None if payload.layout in known else payload.rows,
                follows=follows,
            )
            for payload in self.payloads
        ]
        return Offer(
            task_id=self.task_id,
            payloads=payloads,
            num_examples=self.num_examples,
            num_steps=self.num_steps,
            metrics=dict(self.metrics),
            seconds=self.seconds,
        )

    def require_offer(self) -> None:
        """Check that it can be offered: what is in the outbox once would fail on every connection.

        Raises:
            WeightsError: If one of its facts does not fit into a message.
        """
        try:
            encode(self.offer({payload.layout for payload in self.payloads}))
        except ValidationError as error:
            raise WeightsError(f"the update cannot be sent: {first_fault(error)}") from None
        except LocalProtocolError as error:
            raise WeightsError(f"the update cannot be sent: {error}") from error


@dataclass(frozen=True, slots=True)
class _Written:
    """A safetensors file as a source."""

    layout: Layout
    file: DiskFile

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill buffer with the data from byte `offset` on."""
        if self.file.read_at(len(self.layout.header) + offset, buffer) < len(buffer):
            raise OSError(errno.EIO, "the file became shorter")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def default_folder(run: str, name: str, disk: Disk = REAL_DISK) -> Path:
    """Return where the state of an agent lies if nothing else is said.

    In its name every other character than `A-Za-z0-9._-` is replaced, and what is too long is cut: where
    it is already that of an agent whose run and name differ only in those, a digest is added.
    """
    base = os.environ.get("FL_STATE_HOME") or os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{run}@{name}")[:_MAX_FOLDER_NAME]
    plain = Path(base).expanduser() / "fl_main" / "agents" / plain_name
    digest = hashlib.sha256(json.dumps([run, name]).encode()).hexdigest()[:8]
    apart = plain.with_name(f"{plain.name}-{digest}")
    is_apart = _owner(apart, disk) or _owner(plain, disk) not in (None, [run, name])
    return apart if is_apart else plain


def _owner(folder: Path, disk: Disk) -> object:
    """Return the run and name of the agent whose default folder it is; None if that is not known."""
    try:
        return json.loads(read_whole(disk, folder / AGENT_FILE)).get(OWNER)
    except (OSError, ValueError, AttributeError):  # whoever uses it finds out why
        return None


class StateFolder:
    """An agent's state on disk; one process at a time.

    Args:
        path: The folder; made if it is not there.
        disk: Where it lies.
        new_id: Makes the identity of a new folder.
        durable: Whether what is written must outlive a loss of power.
        default_of: The run and name of the agent, if it is its default folder.

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
        default_of: tuple[str, str] | None = None,
    ) -> None:
        self.path = path
        self.algorithm = DigestAlgorithm.BLAKE3
        self._disk = disk
        self._durable = durable
        self._outbox = path / "outbox"
        self._states = Shelf(path / "state", disk, durable=durable)
        self._residuals = Residuals(path / "feedback", disk, durable=durable)
        self._to_drop: dict[str, bool] = {}  # answered updates, and whether to keep their state
        with self._translated("choose a state folder that can be written"):
            for folder in (path, self._outbox, *(shelf.folder for shelf in self._shelves)):
                disk.make_folder(folder)
            try:
                self._lock = disk.lock(path / "lock")
            except BlockingIOError:
                raise StateFolderError(
                    f"{path} is in use by another process; give this agent another name or state folder"
                ) from None
        try:
            with self._translated("choose a state folder that can be written"):
                self._begin(new_id, default_of)
                self._rollbacks = self._known_rollbacks()
                self._sweep()
        except BaseException:
            self._lock.release()
            raise

    @property
    def _shelves(self) -> tuple[Shelf, Shelf]:
        return self._states, self._residuals

    @contextmanager
    def _translated(self, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StateFolderFullError if error.errno in _MAY_PASS else StateFolderError
            raise kind(f"{self.path}: {error.strerror or error}; {remedy}") from error

    def _begin(self, new_id: Callable[[], str], default_of: tuple[str, str] | None) -> None:
        """Find out who the agent is, and count this start: a clock may go back, a count does not."""
        file = self.path / AGENT_FILE
        try:
            known = (
                json.loads(read_whole(self._disk, file)) if self._disk.has(file) else {"agent_id": new_id()}
            )
            self.agent_id, self.start_number = str(known["agent_id"]), int(known.get("starts", 0))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateFolderError(
                f"{file} is damaged; delete it, and this site joins as a new agent"
            ) from error
        facts = {"agent_id": self.agent_id, "starts": self.start_number + 1}
        if owner := default_of or known.get(OWNER):
            facts[OWNER] = owner
        try:
            write_whole(self._disk, file, json.dumps(facts).encode(), durable=True)
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
        for shelf in self._shelves:
            shelf.sweep(whole)

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
        arrays: Mapping[str, Outgoing],
        state: Weights | None,
        seconds: float,
    ) -> OutboxEntry:
        """Write a finished update, digests computed on the way; whole or not at all.

        Args:
            task_id: The task it answers.
            num_examples: Of its facts; and so the following.
            num_steps: Steps, if known.
            metrics: Its metrics.
            arrays: What is sent, by channel.
            state: Arrays to keep once the update is counted.
            seconds: That the work took.

        Raises:
            StateFolderFullError: If there is no room at the moment; nothing of it was kept.
            StateFolderError: If it cannot be written for another reason.
            WeightsError: If it could never be sent.
        """
        self._to_drop.pop(task_id, None)
        try:
            with self._translated("free some space on that disk, or see why it fails"):
                payloads = tuple(self._put(task_id, channel, out) for channel, out in arrays.items())
                if state is not None:
                    layout = Layout.of(state)
                    self._states.put(task_id, pieces(state, layout), layout)
                self._sync_all()
                entry = OutboxEntry(task_id, num_examples, num_steps, dict(metrics), payloads, seconds)
                entry.require_offer()
                self._write_whole(self._facts_file(task_id), json.dumps(asdict(entry)))
        except (StateFolderError, WeightsError):
            self.drop(task_id, keep_state=False)
            raise
        return entry

    def _put(self, task_id: str, channel: str, out: Outgoing) -> OutboxPayload:
        layout, path = out.layout, self.payload_file(task_id, channel)
        digest = file_digest(layout, self.algorithm)
        write_arrays(self._disk, path, out.data, layout, digest, durable=self._durable)
        if (residual := out.residual) is not None:
            with closing(_Written(layout, self._disk.open(path))) as written:
                self._residuals.put(task_id, residual.data(written), residual.layout, residual.basis)
        return OutboxPayload(channel, tagged(digest), layout.nbytes, layout.digest, layout.to_wire())

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
            entry.require_offer()
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
        return self._outbox / f"{task_id}.{safe}{SUFFIX}"

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
        for shelf in self._shelves:
            shelf.settle(task_id, is_accepted=keep_state)
        self._disk.remove(self._facts_file(task_id))
        for name in self._disk.names(self._outbox):
            if name.startswith(f"{task_id}."):
                self._disk.remove(self._outbox / name)

    def _facts_file(self, task_id: str) -> Path:
        return self._outbox / f"{task_id}.json"

    # --- state ----------------------------------------------------------------------------

    def state(self) -> dict[str, Array]:
        """Return the arrays kept with the last update that was counted.

        Raises:
            StateFolderError: If they cannot be read.
        """
        with self._translated("see whether that disk works"):
            return self._states.current()

    def residual(self, run_id: str, uncounted: Container[str]) -> tuple[int, dict[str, Array]]:
        """Return the number and the arrays of what earlier updates of a run left out; at first 0 and none.

        Args:
            run_id: What other runs left is forgotten.
            uncounted: Tasks whose update was accepted and will be counted.

        Raises:
            StateFolderError: If they cannot be read.
        """
        with self._translated("see whether that disk works"):
            self._residuals.begin(run_id)
            return self._residuals.newest(uncounted)

    def forget_undone(self, run_id: str, rollbacks: int) -> None:
        """Forget what was kept before a run was rolled back to an earlier round, unless that was done.

        Args:
            run_id: Of the run.
            rollbacks: How often it was.

        Raises:
            StateFolderError: If that cannot be written; to be tried again.
        """
        if self._rollbacks.get(run_id, 0) == rollbacks:
            return
        with self._translated("free some space on that disk, or let this program write there"):
            for shelf in self._shelves:
                shelf.clear()
            known = {**self._rollbacks, run_id: rollbacks}
            write_whole(self._disk, self._rollbacks_file, json.dumps(known).encode(), durable=self._durable)
        self._rollbacks = known
        logger.info("the run was rolled back to an earlier round; nothing that was kept before is used")

    @property
    def _rollbacks_file(self) -> Path:
        return self.path / "rollbacks.json"

    def _known_rollbacks(self) -> dict[str, int]:
        """Return how often runs had been rolled back when this agent last worked for them."""
        if not self._disk.has(self._rollbacks_file):
            return {}
        try:
            return dict(json.loads(read_whole(self._disk, self._rollbacks_file)))
        except (ValueError, TypeError) as error:
            raise StateFolderError(
                f"{self._rollbacks_file} is damaged; delete the folder, and this site joins as a new agent"
            ) from error

    def pending_state(self) -> list[str]:
        """Return the tasks whose kept arrays wait for their accepted update to be counted."""
        accepted = {task_id for task_id, keep_state in self._to_drop.items() if keep_state}
        return sorted({task_id for shelf in self._shelves for task_id in shelf.pending(accepted)})

    def promote_state(self, task_id: str) -> None:
        """Make the arrays kept with a task current: its update was counted.

        Raises:
            StateFolderError: If that cannot be written; to be tried again.
        """
        with self._translated("free some space on that disk, or let this program write there"):
            for shelf in self._shelves:
                shelf.promote(task_id)

    # --- writing --------------------------------------------------------------------------

    def _write_whole(self, path: Path, text: str) -> None:
        write_whole(self._disk, path, text.encode(), durable=self._durable)

    def _sync_all(self) -> None:
        """Wait for the disk; that an update was accepted comes before that its facts were deleted for it."""
        for shelf in self._shelves:
            shelf.sync()
        if self._durable:
            self._disk.sync_folder(self._outbox)
