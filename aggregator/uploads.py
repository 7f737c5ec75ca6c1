"""Updates on their way into the store: checked, digested and written off the event loop.

A sender gets credit for a few megabytes at a time, out of one budget for the whole daemon, so
memory does not grow with the number of agents. What was written stays: a transfer that was cut
goes on at the byte where it stopped, also after the daemon was started again.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from fl_main.errors import RemoteProtocolError, StoreError
from fl_main.events import Event, Offered, UpdateReceived, UpdateSpoiled
from fl_main.lossless import Piece, unpacked
from fl_main.messages import ALIGNMENT, Chunk, Credit, Hold, Message, Send
from fl_main.ports import Ports
from fl_main.session import Incoming
from fl_main.store import StagingFile, Store, StoredPayload
from fl_main.weights import FiniteCheck
from fl_main.why.findings import Transfer

T = TypeVar("T")

WINDOW_BYTES = 4 << 20  # what one sender may have under way
EARLY_PART = 4  # one such part of the budget is granted with tasks: it is held while agents train, for hours
SMALL_BYTES = 1 << 20
MAX_RESTARTS = 2  # for a digest that does not match: the line or the sender is broken
DISK_RETRY_S = 5.0
REMEMBERED = 64  # grants that came back, to say how long others have to wait
PIECE_BYTES = 64 << 10  # chunks that are smaller are put together: each takes some hundred bytes more


class Check(Protocol):
    """Looks at a payload piece by piece."""

    def first_wrong(self, offset: int, data: Piece) -> str | None:
        """Return what is wrong with the piece that lies at an offset, or None."""


class Budget:
    """Bytes of updates that may be in memory at once.

    Runs that wait have their turn one after the other, the agents of a run in the order in which they
    came: a run of a thousand agents does not hold up a run of two.

    Args:
        total: So many.
        monotonic: The clock.
    """

    def __init__(self, total: int, monotonic: Callable[[], float]) -> None:
        self.total = total
        self._monotonic = monotonic
        self._left = total
        self._early = 0
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()  # of each run; the next one first
        self._freed: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)

    async def take(
        self, amount: int, run: str = "", say: Callable[[str], None] = lambda outlook: None
    ) -> None:
        """Wait until so many bytes are free, and take them.

        Args:
            amount: Bytes.
            run: Whose turn it is.
            say: Is told what is to be expected, if it has to wait.
        """
        if not self._lines and amount <= self._left:
            self._left -= amount
            return
        turn = _Turn(amount, asyncio.get_running_loop().create_future())
        self._lines.setdefault(run, deque()).append(turn)
        say(self._outlook(run))
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():
                self.give_back(amount)
            else:
                self._grant()  # there may be room for who stands behind it
            raise

    def take_early(self, amount: int) -> bool:
        """Take bytes for an update that is yet to be made; false if there are none to spare."""
        if self._lines or (self._early + amount) * EARLY_PART > self.total or amount > self._left:
            return False
        self._early += amount
        self._left -= amount
        return True

    def give_early_back(self, amount: int) -> None:
        """Return what `take_early` took."""
        if amount:
            self._early -= amount
            self.give_back(amount)

    def give_back(self, amount: int) -> None:
        """Return bytes, and wake whoever can go on now."""
        self._left += amount
        self._freed.append((self._monotonic(), amount))
        self._grant()

    def _grant(self) -> None:
        """Wake those whose turn it is, as far as there is room, and forget who gave up."""
        while self._lines:
            run, line = next(iter(self._lines.items()))
            while line and line[0].granted.cancelled():
                line.popleft()
            if line and line[0].amount > self._left:
                return
            if line:
                turn = line.popleft()
                self._left -= turn.amount
                turn.granted.set_result(None)
                self._lines.move_to_end(run)
            if not line:
                del self._lines[run]

    def _outlook(self, run: str) -> str:
        """Say what the last one in a run's line has to expect."""
        place = len(self._lines[run])
        before = [turn for line in self._lines.values() for turn in itertools.islice(line, place)][:-1]
        ahead = sum(turn.amount for turn in before) + self._lines[run][-1].amount - self._left
        text = f"{len(before)} are before it" if before else "it is the next"
        if len(self._freed) < 2 or (passed_s := self._monotonic() - self._freed[0][0]) <= 0.0:
            return text
        per_s = sum(amount for _, amount in self._freed) / passed_s
        return f"{text}, about {max(1.0, ahead / per_s):.0f} s"


@dataclass(slots=True)
class _Turn:
    """Somebody who waits for bytes."""

    amount: int
    granted: asyncio.Future[None]


class Upload:
    """All payloads of one offered update, one after the other.

    Args:
        offer: What the agent offers.
        store: Where the bytes are staged.
        ports: Threads.
        budget: The daemon's receive budget.
        run: For whose agents it is.
        post: Sends a message to the agent.
        tell: Takes the event that ends the upload.
        set_trouble: Is told what hinders it, and an empty text once nothing does.
        check_of: Returns what looks at a payload's pieces, in order.
        early: Bytes that the budget granted with the task, for a payload that comes unasked.
    """

    def __init__(
        self,
        offer: Offered,
        store: Store,
        ports: Ports,
        budget: Budget,
        run: str,
        post: Callable[[Message], None],
        tell: Callable[[Event], None],
        set_trouble: Callable[[str, str], None] = lambda what, reason: None,
        check_of: Callable[[StoredPayload], Check] = lambda payload: FiniteCheck(payload.layout),
        early: int = 0,
    ) -> None:
        self.offer = offer
        self._store = store
        self._ports = ports
        self._budget = budget
        self._run = run
        self._post = post
        self._tell = tell
        self._set_trouble = set_trouble
        self._check_of = check_of
        self._early = early
        self._unasked = self._incoming = self._first_incoming() if early else None
        self._pieces: deque[Piece | Chunk] = deque()  # a chunk that is packed stays so until it is written
        self._arrived = asyncio.Event()
        self._moved_at = ports.monotonic()
        self._held = ""
        self._saved = 0  # bytes that packing saved

    def _first_incoming(self) -> Incoming:
        [payload] = self.offer.payloads.values()
        return Incoming(f"{self.offer.task_id}/{payload.channel}", payload.size, 0, payload.size)

    def give_up(self) -> None:
        """Let go what was granted and came: the update is not wanted."""
        self._incoming = self._unasked = None
        self._pieces.clear()
        self._budget.give_early_back(self._early)
        self._early = 0

    @property
    def transfer(self) -> Transfer:
        """How far the current payload is, and what holds it up."""
        silent_s = self._ports.monotonic() - self._moved_at
        if (incoming := self._incoming) is None:
            held = self._held or "it waits for its turn (limits.receive_bytes)"
            return Transfer("in", 0, 0, silent_s, held)
        return Transfer("in", incoming.place, incoming.size, silent_s)

    @property
    def is_due(self) -> bool:
        """Whether the agent has bytes to send and credit to send them."""
        incoming = self._incoming
        return incoming is not None and incoming.place < min(incoming.size, incoming.credit)

    @property
    def credit(self) -> int:
        """How many bytes the agent may send, and has not sent."""
        return self._incoming.credit - self._incoming.place if self._incoming else 0

    def take(self, chunk: Chunk) -> bool:
        """Take a chunk if it belongs to this upload.

        Raises:
            RemoteProtocolError: If it belongs here but not now.
        """
        if not chunk.transfer.startswith(f"{self.offer.task_id}/"):
            return False
        if self._incoming is None:  # on its way when we had to stop; it will be asked for again
            return True
        if chunk.transfer != self._incoming.transfer:
            raise RemoteProtocolError(f"{chunk.transfer} came where {self._incoming.transfer} was due")
        self._incoming.take(chunk)
        self._moved_at = self._ports.monotonic()
        self._saved += chunk.plain_size - len(chunk.data)
        if chunk.packed:
            self._pieces.append(chunk)  # it takes less memory than its plain bytes, which were granted
        else:
            self._put(chunk.data)
        self._arrived.set()
        return True

    def _put(self, data: bytes | memoryview) -> None:
        last = self._pieces[-1] if self._pieces else None
        if len(data) > PIECE_BYTES:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) + len(data) <= PIECE_BYTES:
            last += data
        else:
            self._pieces.append(bytearray(data))

    async def run(self) -> None:
        """Receive everything and tell how it ended; cancel it to keep what is there for later."""
        stored: dict[str, StoredPayload] = {}
        for channel, payload in self.offer.payloads.items():
            name = f"{self.offer.task_id}.{channel}"
            fault = await self._receive(name, payload)
            if fault:
                self._tell(UpdateSpoiled(self.offer, fault))
                return
            stored[channel] = replace(payload, staged=name)
        self._tell(UpdateReceived(replace(self.offer, payloads=stored, saved_bytes=self._saved)))

    async def _receive(self, name: str, payload: StoredPayload) -> str:
        """Stage one payload; return what is wrong with it, or an empty text."""
        algorithm = self._store.algorithm
        if not payload.digest.startswith(f"{algorithm}:"):
            return f"its digest is {payload.digest}, and model files are named by {algorithm} digests here"
        window = min(max(payload.size, 1), WINDOW_BYTES, self._budget.total)
        if not self._early:
            await self._budget.take(window, self._run, self._say_wait)
        try:
            while True:
                try:
                    return await self._staged(name, payload, window)
                except StoreError as error:  # a full disk above all
                    self._incoming = None  # what is still on its way will be asked for again
                    self._pieces.clear()
                    self._held = str(error)
                    self._set_trouble(name, self._held)
                    self._post(Hold(task_id=self.offer.task_id, reason=str(error)))
                    await asyncio.sleep(DISK_RETRY_S)
        finally:
            self._set_trouble(name, "")
            if self._early:
                self.give_up()
            else:
                self._incoming = None
                self._pieces.clear()
                self._budget.give_back(window)

    def _say_wait(self, outlook: str) -> None:
        """Tell the agent, and people who ask, that others are before it."""
        self._held = f"it waits for its turn (limits.receive_bytes): {outlook}"
        self._post(Hold(task_id=self.offer.task_id, reason=self._held))

    async def _staged(self, name: str, payload: StoredPayload, window: int) -> str:
        inbox = _Inbox(self._store, name, payload, self._check_of(payload), resume=self._unasked is None)
        if self._unasked is None and self._store.is_staged(name):  # else the first write opens it: a hop less
            await _unbroken(self._ports.run_in_thread(inbox.open))
        try:
            for _ in range(1 + MAX_RESTARTS):
                if bad := await self._write_all(inbox, payload, window):
                    await _unbroken(self._ports.run_in_thread(inbox.discard))
                    return bad
                if inbox.digest == payload.digest:
                    return ""
                await _unbroken(self._ports.run_in_thread(inbox.restart))
        finally:
            inbox.close()
        await _unbroken(self._ports.run_in_thread(inbox.discard))
        return f"its bytes do not match its digest, after {MAX_RESTARTS + 1} tries"

    async def _write_all(self, inbox: "_Inbox", payload: StoredPayload, window: int) -> str | None:
        """Write what comes until the payload is complete; return what is wrong with it."""
        incoming, self._unasked = self._unasked or self._asked(inbox.place, payload, window), None
        while inbox.digest is None:
            await self._enough(incoming)
            pieces, self._pieces = self._pieces, deque()
            if bad := await _unbroken(self._ports.run_in_thread(inbox.write, pieces)):
                return bad
            if inbox.place + window // 2 >= incoming.credit and inbox.digest is None:
                incoming.credit = inbox.place + window
                self._post(Credit(transfer=incoming.transfer, credit=incoming.credit))
        return None

    def _asked(self, start: int, payload: StoredPayload, window: int) -> Incoming:
        """Ask for a payload from a byte on."""
        task_id, channel, credit = self.offer.task_id, payload.channel, start + window
        self._incoming = incoming = Incoming(f"{task_id}/{channel}", payload.size, start, credit)
        self._post(Send(task_id=task_id, channel=channel, offset=start, credit=credit))
        return incoming

    async def _enough(self, incoming: Incoming) -> None:
        """Wait for chunks to write; of a small payload for all, so that one thread hop does."""
        while not incoming.is_complete and (incoming.size <= SMALL_BYTES or not self._pieces):
            self._arrived.clear()
            await self._arrived.wait()


class _Inbox:
    """The staging file of one payload; its methods run in threads, one at a time.

    Attributes:
        place: Bytes that are safely there.
        digest: Of the whole file, once it is complete.
    """

    def __init__(
        self, store: Store, name: str, payload: StoredPayload, check: "Check", *, resume: bool
    ) -> None:
        self._resume = resume
        self.place = 0
        self.digest: str | None = None
        self._store = store
        self._name = name
        self._payload = payload
        self._check = check
        self._staging: StagingFile | None = None

    def open(self) -> StagingFile:
        """Open the file, and go on where it stopped if that is wanted."""
        staging = self._staging = self._store.stage(self._name, self._payload.layout, resume=self._resume)
        if staging.size > self._payload.size or (
            staging.size % ALIGNMENT and staging.size != self._payload.size
        ):
            staging.restart()
        self.place = staging.size
        return staging

    def write(self, pieces: Iterable[Piece | Chunk]) -> str | None:
        """Append what came, and finish a complete file; return what is wrong with it.

        Raises:
            RemoteProtocolError: If a packed chunk cannot be unpacked.
        """
        staging = self._staging or self.open()
        for came in pieces:
            piece = unpacked(came) if isinstance(came, Chunk) else came
            if bad := self._check.first_wrong(staging.size, piece):
                return bad
            staging.write(memoryview(piece))
        self.place = staging.size
        if self.place == self._payload.size:
            self.digest = staging.finish()
        return None

    def restart(self) -> None:
        """Throw away what is there and begin anew."""
        if self._staging is not None:
            self._staging.restart()
        self.place, self.digest = 0, None

    def discard(self) -> None:
        """Delete the file."""
        if self._staging is not None:
            self._staging.discard()

    def close(self) -> None:
        """Close the file; what is there stays for later."""
        if self._staging is not None:
            self._staging.close()


async def _unbroken(work: Awaitable[T]) -> T:
    """Wait for a thread's work to end even if we are cancelled: nobody else may touch its file."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: nobody waits for it any more
        raise
