"""What the shells are handed instead of reaching for it: clocks, threads, links, files, chance.

The real ones are made in the composition roots; a simulator hands in its own, so that the
real agent and aggregator run in virtual time.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fl_main.errors import FLError

if TYPE_CHECKING:  # who reads model files needs a disk, and no message
    from fl_main.messages import Chunk

HEADROOM = 16  # bytes before a large frame, for what the network needs there

T = TypeVar("T")


class LinkClosedError(FLError):
    """The other end, or the network, ended a link.

    Attributes:
        code: The WebSocket close code, 1006 if there was none.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"connection closed ({code})")
        self.code = code


class Link(Protocol):
    """One connection that carries whole frames in order."""

    @property
    def bytes_received(self) -> int:
        """All bytes that came so far, also of frames that are not complete."""

    @property
    def peer(self) -> str:
        """The other end's address, for logs."""

    async def send(self, *frames: bytes) -> None:
        """Send frames in order; waits while the other end is slow.

        Raises:
            LinkClosedError: If the link is closed.
        """

    async def send_framed(self, framed: memoryview) -> None:
        """Send a large frame without copying it; waits until its memory can be used for something else.

        Args:
            framed: `HEADROOM` bytes for the link, and the frame. What is in there afterwards is its
                matter: whoever dialled cannot send it twice.

        Raises:
            LinkClosedError: If the link is closed.
        """

    async def receive(self) -> "bytes | str | Chunk":
        """Return the next frame (text is for the caller to refuse), or a Chunk that was read in place.

        Raises:
            LinkClosedError: If the link is closed.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, now or at once if the other end does not answer; may be called twice."""


class GuestLink(Link, Protocol):
    """A link that came in: a stranger's until the other end has said who it is."""

    def trust(self, credit: Callable[[], int]) -> None:
        """Let it have the room in memory that agents have.

        Args:
            credit: Returns how many bytes it was told that it may send, and has not sent.
        """


class Listener(Protocol):
    """Where links come in."""

    @property
    def url(self) -> str:
        """Where others reach it."""

    async def start(self, serve: Callable[[GuestLink], Awaitable[None]], trouble: Callable[[], str]) -> None:
        """Accept links.

        Args:
            serve: Serves one link until it ends.
            trouble: Why the daemon is not ready, or an empty text.
        """

    def stop_accepting(self) -> None:
        """Take no new links; those that are there stay."""

    async def close(self) -> None:
        """End all links, and end; may be called twice."""


class DiskFile(Protocol):
    """An open file; used by one thread at a time. Every method may raise `OSError`."""

    def size(self) -> int:
        """Return its length in bytes."""

    def read_at(self, place: int, view: memoryview) -> int:
        """Fill a view from a byte on as far as possible; return how far, 0 at the end."""

    def write_at(self, place: int, view: memoryview) -> None:
        """Write a whole view from a byte on."""

    def truncate(self, size: int) -> None:
        """Cut it to so many bytes."""

    def sync(self) -> None:
        """Wait until the disk has it, not only its cache."""

    def close(self) -> None:
        """Close it; may be called twice."""


class Lock(Protocol):
    """A lock that its process loses when it ends, however it ends."""

    def release(self) -> None:
        """Let another process have it; may be called twice."""


class Disk(Protocol):
    """Files and folders. Every method may raise `OSError`."""

    def open(self, path: Path, *, write: bool = False) -> DiskFile:
        """Open a file to read; with `write` to change it too, made if it is not there."""

    def move(self, source: Path, target: Path) -> None:
        """Put a file in a place, instead of what is there; whole or not at all."""

    def remove(self, path: Path) -> None:
        """Delete a file; it may be gone already."""

    def has(self, path: Path) -> bool:
        """Whether there is such a file."""

    def names(self, folder: Path) -> list[str]:
        """Return what is in a folder, sorted; nothing if it is not there."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; it may be there already."""

    def sync_folder(self, folder: Path) -> None:
        """Wait until the disk knows what was made, moved and deleted in a folder."""

    def lock(self, path: Path) -> Lock:
        """Take a lock that lasts as long as this process.

        Raises:
            BlockingIOError: If another one has it.
        """


class RunInThread(Protocol):
    """Runs a blocking function without holding up the event loop."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Return the function's result."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything from outside that a shell needs.

    Attributes:
        wall_time: Unix seconds, UTC: a label, never used to measure.
        monotonic: Seconds that never go back.
        run_in_thread: For file and digest work, many at once.
        run_in_writer: For the database, one at a time and in order.
        new_id: A fresh identifier that nobody can guess.
        chance: A random number from 0 to 1, so that many agents do not all come at once.
    """

    wall_time: Callable[[], float]
    monotonic: Callable[[], float]
    run_in_thread: RunInThread
    run_in_writer: RunInThread
    new_id: Callable[[], str]
    chance: Callable[[], float]
