"""What an agent keeps on disk: who it is, updates that are not answered yet, its own arrays.

agent.json                       the agent's id
lock                             held while a process uses the folder
outbox/TASK.json                 facts of a finished update; written last, so it is whole
outbox/TASK.CHANNEL.safetensors  its arrays
state/TASK.safetensors           arrays to keep, if TASK's update is counted
state/current.safetensors        those of the last update that was
"""

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from fl_main.errors import StateFolderError
from fl_main.weights import Array, Layout, Rows, Weights, file_digest, pieces, tagged, views


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

    Raises:
        StateFolderError: If the folder is in use or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not bound to a thread: the agent that replaces this one frees it from its own.
        self._lock = FileLock(path / "lock", thread_local=False)
        try:
            for folder in (path, path / "outbox", path / "state"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self.agent_id = self._identity()
            self._sweep()
        except Timeout:
            raise StateFolderError(
                f"{path} is in use by another process; give this agent another name or state folder"
            ) from None
        except OSError as error:
            self._lock.release()
            raise StateFolderError(
                f"{path}: {error.strerror}; choose a state folder that can be written"
            ) from error

    def _identity(self) -> str:
        file = self.path / "agent.json"
        try:
            return str(json.loads(file.read_text("utf-8"))["agent_id"])
        except FileNotFoundError:
            agent_id = uuid.uuid4().hex
            _write_whole(file, json.dumps({"agent_id": agent_id}))
            return agent_id
        except (ValueError, KeyError, TypeError) as error:
            self._lock.release()
            raise StateFolderError(
                f"{file} is damaged; delete it, and this site joins as a new agent"
            ) from error

    def _sweep(self) -> None:
        """Delete arrays whose facts were never written: the process ended in between."""
        for file in (self.path / "outbox").glob("*.safetensors"):
            if not (file.parent / f"{file.name.partition('.')[0]}.json").exists():
                file.unlink()

    def close(self) -> None:
        """Let another process use the folder; may be called twice."""
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
            StateFolderError: If there is no room.
        """
        try:
            payloads = tuple(self._put_arrays(task_id, channel, *pair) for channel, pair in arrays.items())
            if state is not None:
                _write_arrays(self._state_file(task_id), state, Layout.of(state))
            entry = OutboxEntry(task_id, num_examples, num_steps, dict(metrics), payloads, seconds)
            _write_whole(self._facts_file(task_id), json.dumps(asdict(entry)))
        except OSError as error:
            raise StateFolderError(
                f"{self.path}: {error.strerror}; the update is lost unless there is room for it"
            ) from error
        return entry

    def _put_arrays(self, task_id: str, channel: str, arrays: Weights, layout: Layout) -> OutboxPayload:
        digest = _write_arrays(self.payload_file(task_id, channel), arrays, layout)
        return OutboxPayload(channel, digest, layout.nbytes, layout.digest, layout.to_wire())

    def entries(self) -> list[OutboxEntry]:
        """Return all finished updates that were not answered yet."""
        found = []
        for file in sorted((self.path / "outbox").glob("*.json")):
            try:
                fields = json.loads(file.read_text("utf-8"))
                payloads = tuple(OutboxPayload(**payload) for payload in fields.pop("payloads"))
                found.append(OutboxEntry(**fields, payloads=payloads))
            except (ValueError, KeyError, TypeError):
                file.unlink()  # not written by us; there is nothing to send in it
        return found

    def payload_file(self, task_id: str, channel: str) -> Path:
        """Return the file of a finished update's arrays."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", channel)
        return self.path / "outbox" / f"{task_id}.{safe}.safetensors"

    def drop(self, task_id: str, *, keep_state: bool) -> None:
        """Forget an answered update; its kept arrays stay while it may still be counted."""
        self._facts_file(task_id).unlink(missing_ok=True)
        for file in (self.path / "outbox").glob(f"{task_id}.*.safetensors"):
            file.unlink(missing_ok=True)
        if not keep_state:
            self._state_file(task_id).unlink(missing_ok=True)

    def _facts_file(self, task_id: str) -> Path:
        return self.path / "outbox" / f"{task_id}.json"

    # --- state ----------------------------------------------------------------------------

    def state(self) -> dict[str, Array]:
        """Return the arrays kept with the last update that was counted."""
        file = self.path / "state" / "current.safetensors"
        if not file.exists():
            return {}
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        layout = Layout.from_header(data[8 : 8 + length])
        return views(layout, memoryview(data)[8 + length :])

    def pending_state(self) -> list[str]:
        """Return the tasks whose kept arrays are not current yet."""
        files = (self.path / "state").glob("*.safetensors")
        return sorted(file.stem for file in files if file.stem != "current")

    def promote_state(self, task_id: str) -> None:
        """Make the arrays kept with a task current: its update was counted."""
        file = self._state_file(task_id)
        if not file.exists():
            return
        made_ns = file.stat().st_mtime_ns
        file.replace(file.with_name("current.safetensors"))
        for older in map(self._state_file, self.pending_state()):  # their updates will never be counted
            if older.stat().st_mtime_ns < made_ns:
                older.unlink()

    def _state_file(self, task_id: str) -> Path:
        return self.path / "state" / f"{task_id}.safetensors"


def _write_arrays(path: Path, arrays: Weights, layout: Layout) -> str:
    """Write a safetensors file and return its digest."""
    digest = file_digest(layout)
    with open(path, "wb", buffering=0) as file:
        file.write(layout.header)
        for piece in pieces(arrays, layout):
            file.write(piece)
            digest.update(piece)
    return tagged(digest)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
