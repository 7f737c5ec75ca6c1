"""One session between an agent (or operator) and the aggregator, without I/O.

Both ends run the same class: frames in, messages out, and back. It knows which message may
come when; whoever breaks that is told by a `ProtocolError` that names whose fault it was.
"""

from enum import StrEnum

from fl_main.codec import decode_numbered, encode
from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import (
    ALIGNMENT,
    FROM_AGENT,
    FROM_AGGREGATOR,
    FROM_OPERATOR,
    Chunk,
    Join,
    Leave,
    Message,
    Operate,
    Ping,
    Pong,
    Refuse,
    Reply,
    Welcome,
)


class Side(StrEnum):
    """Who speaks."""

    CLIENT = "client"  # an agent or an operator: it dialled
    AGGREGATOR = "aggregator"


class State(StrEnum):
    """How far the session is."""

    NEW = "new"  # connected, nothing said
    JOINING = "joining"  # the agent said Join
    JOINED = "joined"
    OPERATING = "operating"  # the operator said Operate
    CLOSED = "closed"


_ALIVE: tuple[type[Message], ...] = (Ping, Pong)

# Who may say what in which state, and the state that follows where it changes.
ALLOWED: dict[tuple[State, Side], tuple[type[Message], ...]] = {
    (State.NEW, Side.CLIENT): (Join, Operate),
    (State.NEW, Side.AGGREGATOR): (Refuse,),
    (State.JOINING, Side.CLIENT): _ALIVE,
    (State.JOINING, Side.AGGREGATOR): (Welcome, Refuse, *_ALIVE),
    (State.JOINED, Side.CLIENT): tuple(kind for kind in FROM_AGENT if kind is not Join),
    (State.JOINED, Side.AGGREGATOR): tuple(kind for kind in FROM_AGGREGATOR if kind not in (Welcome, Reply)),
    (State.OPERATING, Side.CLIENT): tuple(kind for kind in FROM_OPERATOR if kind is not Operate),
    (State.OPERATING, Side.AGGREGATOR): (Reply, Refuse, *_ALIVE),
    (State.CLOSED, Side.CLIENT): (),
    (State.CLOSED, Side.AGGREGATOR): (),
}
NEXT: dict[type[Message], State] = {
    Join: State.JOINING,
    Operate: State.OPERATING,
    Welcome: State.JOINED,
    Refuse: State.CLOSED,
    Leave: State.CLOSED,
}


class Session:
    """The protocol as one side sees it.

    Attributes:
        state: How far the session is; `CLOSED` is for good.
        messages_sent: How many frames it made, those of transfers not counted.
        packing: How both ends agreed to pack chunks where that pays, if they did.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.peer = Side.AGGREGATOR if side is Side.CLIENT else Side.CLIENT
        self.state = State.NEW
        self.messages_sent = 0
        self.packing: str | None = None
        self._packings: list[str] = []  # that the agent can do
        self._heard = 0

    def send(self, message: Message) -> bytes:
        """Return the frame to send for a message.

        Raises:
            LocalProtocolError: If it may not be said now; nothing was changed.
        """
        if not isinstance(message, ALLOWED[self.state, self.side]):
            raise LocalProtocolError(f"{message.type!r} cannot be sent in a session that is {self.state}")
        frame = encode(message, self.messages_sent + 1)
        self.messages_sent += 1
        self._follow(message)
        return frame

    def receive(self, frame: bytes | str | Chunk) -> Message:
        """Return the message in a frame of the peer; a Chunk may come as such.

        Raises:
            RemoteProtocolError: If it is none, or may not be said now; the session is closed.
        """
        try:
            message, number = (frame, 0) if isinstance(frame, Chunk) else decode_numbered(frame)
            self._require_next(number)
            if not isinstance(message, ALLOWED[self.state, self.peer]):
                raise RemoteProtocolError(f"{message.type!r} in a session that is {self.state}", 1008)
            if isinstance(message, Chunk) and message.packed not in (None, self.packing):
                raise RemoteProtocolError(f"a chunk packed as {message.packed}, which was not agreed", 1008)
        except RemoteProtocolError:
            self.state = State.CLOSED
            raise
        self._follow(message)
        return message

    def _require_next(self, number: int) -> None:
        """Let nothing pass that came twice, or before what was said before it.

        Chunks are not numbered: they have their place. Nor need other implementations number.
        """
        if number and number != self._heard + 1:
            raise RemoteProtocolError(f"message {number} came where {self._heard + 1} was due")
        self._heard = number or self._heard

    def _follow(self, message: Message) -> None:
        self.state = NEXT.get(type(message), self.state)
        if isinstance(message, Join):
            self._packings = message.packings
        elif isinstance(message, Welcome) and message.packing in self._packings:
            self.packing = message.packing


class Incoming:
    """The receiving end of a transfer: every chunk must be the next one, and paid for.

    Attributes:
        transfer: Its name in the chunks.
        size: Bytes in all.
        place: Bytes taken so far.
        credit: How far the sender may go.
    """

    def __init__(self, transfer: str, size: int, offset: int, credit: int) -> None:
        self.transfer = transfer
        self.size = size
        self.place = offset
        self.credit = credit

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here."""
        return self.place == self.size

    def take(self, chunk: Chunk) -> None:
        """Check a chunk's place and size and count it.

        Raises:
            RemoteProtocolError: If it is out of order, too long, cut at an odd place or unpaid.
        """
        end = chunk.offset + chunk.plain_size
        if chunk.offset != self.place:
            raise RemoteProtocolError(f"{self.transfer}: byte {chunk.offset} came where {self.place} was due")
        if end > self.size or not chunk.plain_size:
            raise RemoteProtocolError(f"{self.transfer}: {end} of {self.size} bytes")
        if end > self.credit:
            raise RemoteProtocolError(f"{self.transfer}: byte {end} was sent with a credit of {self.credit}")
        if end % ALIGNMENT and end != self.size:
            raise RemoteProtocolError(f"{self.transfer}: a chunk ends at {end}, no multiple of {ALIGNMENT}")
        self.place = end


WAKE_PATIENCE_S = 5.0  # with a peer that was asked because we slept


class Liveness:
    """Whether a peer still lives, by the bytes it moves, not by the messages it completes.

    Both ends say something every `interval_s`, if only `Ping`, whatever they hear meanwhile. An
    answer may have to wait behind megabytes on a slow line; then it is those bytes that are seen.

    Args:
        interval_s: Silence of our own after which the peer is asked for a sign of life; whoever
            looks does it more often than that.
        timeout_s: Silence of the peer after which it is taken for gone.
        min_bytes_per_s: What a peer must move, over `timeout_s`, while something is due from it.
    """

    def __init__(self, interval_s: float, timeout_s: float, min_bytes_per_s: float = 0.0) -> None:
        self.interval_s = interval_s
        self.timeout_s = timeout_s
        self.min_bytes_per_s = min_bytes_per_s
        self._bytes = self._said = -1
        self._heard_at = self._said_at = 0.0
        self._looked_at: tuple[float, float] | None = None
        self._due: tuple[float, int] | None = None

    def look(
        self, bytes_moved: int, now: float, *, said: int = 0, wall_time: float = 0.0, is_due: bool = False
    ) -> str:
        """Return `alive`, `ask` (send a Ping now), `slow` or `gone`.

        Args:
            bytes_moved: All bytes moved so far: those that came, and those of transfers that went.
            now: Seconds on a clock that never goes back.
            said: Messages sent so far.
            wall_time: Unix seconds. They go on while a machine sleeps, other than `now` on most.
            is_due: Whether the peer has something to send and may send it.
        """
        if bytes_moved != self._bytes:
            self._bytes, self._heard_at = bytes_moved, now
        if said != self._said:
            self._said, self._said_at = said, now
        if has_slept := self._has_slept(now, wall_time):  # what we heard last may be long ago
            self._heard_at = now - self.timeout_s + min(WAKE_PATIENCE_S, self.timeout_s)
            self._due = None
        if now - self._heard_at >= self.timeout_s:
            return "gone"
        if self._is_slow(bytes_moved, now, is_due):
            return "slow"
        if has_slept or now - self._said_at >= self.interval_s:
            self._said_at = now
            return "ask"
        return "alive"

    def _has_slept(self, now: float, wall_time: float) -> bool:
        """Return whether more time has passed since the last look than whoever looks would let pass."""
        before, self._looked_at = self._looked_at or (now, wall_time), (now, wall_time)
        return max(now - before[0], wall_time - before[1]) > self.interval_s

    def _is_slow(self, bytes_moved: int, now: float, is_due: bool) -> bool:
        if not is_due:
            self._due = None
            return False
        begun, before = self._due = self._due or (now, bytes_moved)
        if now - begun < self.timeout_s:
            return False
        self._due = (now, bytes_moved)
        return bytes_moved - before < self.min_bytes_per_s * (now - begun)
