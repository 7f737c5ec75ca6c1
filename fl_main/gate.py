"""Who is at the port: every connection from its first packet on, and what all of them cost together."""

from collections.abc import Callable
from typing import Protocol

STRANGER_BYTES = 32 << 20  # that all strangers together may have in memory
SHARE_BYTES = 64 << 10  # that each connection may have beside what the budgets grant


class Caller(Protocol):
    """A connection, as the gate sees it."""

    @property
    def network(self) -> str:
        """Where it comes from: strangers of one network share its room."""

    def drop(self, reason: str) -> None:
        """Hang up soon; what has to be told can still be told."""


class Gate:
    """Bounds what connections cost, before and after they have said who they are.

    A connection is a stranger until it has joined, or has shown the operator's token; at the page,
    while no answer to it is under way. There is room for so many strangers. When another one comes,
    the oldest of the network that has the most of them has to go, never the newcomer: who means it
    is through in milliseconds, so that a flood of silent sockets keeps nobody out. Of the bytes that
    wait in memory, too, strangers have a room of their own; where it is full, whoever has the most
    there goes.

    Args:
        strangers: How many there may be.
        connections: How many there may be in all: as many as the system has descriptors for.
        agent_bytes: That joined connections together may have in memory beside their shares.
    """

    def __init__(self, strangers: int, connections: int, agent_bytes: int) -> None:
        self._max_strangers = strangers
        self._max_connections = connections
        self._agent_bytes = agent_bytes
        self._strangers = _Room()
        self._agents = _Room()
        self._networks: dict[str, dict[Caller, None]] = {}  # strangers, the oldest first
        self._credits: dict[Caller, Callable[[], int]] = {}

    @property
    def strangers(self) -> int:
        """How many strangers there are."""
        return len(self._strangers.held)

    @property
    def connections(self) -> int:
        """How many connections there are in all."""
        return len(self._strangers.held) + len(self._agents.held)

    def enter(self, caller: Caller) -> None:
        """Let a connection in, as a stranger."""
        self._strangers.put(caller, 0)
        self._networks.setdefault(caller.network, {})[caller] = None
        while self.strangers > self._max_strangers or (
            self.connections > self._max_connections and self.strangers
        ):
            self.make_room()

    def make_room(self) -> None:
        """Drop the oldest of the network that has the most strangers, if there are any."""
        if self._networks:
            crowd = max(self._networks.values(), key=lambda callers: len(callers))
            oldest = next(iter(crowd))
            self._drop(oldest, "too many connections have not said who they are; try again")

    def trust(self, caller: Caller, credit: Callable[[], int]) -> None:
        """Take a stranger for an agent or an operator from now on.

        Args:
            caller: Who has said who it is.
            credit: Returns how many bytes it was told that it may send, and has not sent.
        """
        if caller in self._strangers.held:
            held = self._forget_stranger(caller)
            self._credits[caller] = credit
            self._agents.put(caller, held)

    def is_stranger(self, caller: Caller) -> bool:
        """Whether a connection has not said who it is."""
        return caller in self._strangers.held

    def credit(self, caller: Caller) -> int:
        """Return how many bytes a connection may send; a stranger none."""
        credit = self._credits.get(caller)
        return credit() if credit else 0

    def leave(self, caller: Caller) -> None:
        """Forget a connection that ended."""
        if caller in self._strangers.held:
            self._forget_stranger(caller)
        elif caller in self._agents.held:
            self._agents.pop(caller)
            del self._credits[caller]

    def account(self, caller: Caller, held: int) -> None:
        """Note how many bytes wait in memory for a connection, read or written."""
        if caller in self._strangers.held:
            self._strangers.put(caller, held)
            while self._strangers.total > STRANGER_BYTES:
                self._drop_largest(self._strangers)
        elif caller in self._agents.held:
            self._agents.put(caller, held)
            while self._agents.total > self._agent_bytes + SHARE_BYTES * len(self._agents.held):
                self._drop_largest(self._agents)

    def close(self, reason: str) -> None:
        """Drop everybody."""
        for caller in [*self._strangers.held, *self._agents.held]:
            self._drop(caller, reason)

    def _drop_largest(self, room: "_Room") -> None:
        """Drop whoever has the most in memory that nobody granted it."""
        largest = max(room.held, key=lambda caller: room.held[caller] - self.credit(caller))
        self._drop(
            largest,
            f"{room.held[largest]} bytes of it wait to be read, more than there is room for; try again",
        )

    def _drop(self, caller: Caller, reason: str) -> None:
        self.leave(caller)
        caller.drop(reason)

    def _forget_stranger(self, caller: Caller) -> int:
        network = self._networks[caller.network]
        del network[caller]
        if not network:
            del self._networks[caller.network]
        return self._strangers.pop(caller)


class _Room:
    """Connections, the oldest first, and the bytes that each has in memory.

    Attributes:
        total: Of all of them.
    """

    def __init__(self) -> None:
        self.held: dict[Caller, int] = {}
        self.total = 0

    def put(self, caller: Caller, held: int) -> None:
        self.total += held - self.held.get(caller, 0)
        self.held[caller] = held

    def pop(self, caller: Caller) -> int:
        held = self.held.pop(caller)
        self.total -= held
        return held
