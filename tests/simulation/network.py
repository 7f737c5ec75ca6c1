"""A simulated network: delays, cuts, silence, duplicates and frames that overtake each other."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from fl_main.errors import ConnectionFailedError
from fl_main.ports import HEADROOM, GuestLink, LinkClosedError

from .process import CURRENT, Process

FRAMES_AHEAD = 8  # that a sender may be ahead of what arrived: the buffers of both systems


@dataclass(slots=True)
class Weather:
    """What the network does to frames, as probabilities per frame.

    Attributes:
        delay_s: Mean delay.
        cut: That the connection breaks, and what is on its way with it.
        silence: That nothing goes through any more, and nobody is told.
        twice: That a frame comes twice.
        overtaken: That a frame comes after the next one.
        refused: That a new connection does not come about.
    """

    delay_s: float = 0.002
    cut: float = 0.0
    silence: float = 0.0
    twice: float = 0.0
    overtaken: float = 0.0
    refused: float = 0.0

    def clear_up(self) -> None:
        """End all faults; the delay stays."""
        self.cut = self.silence = self.twice = self.overtaken = self.refused = 0.0


class SimLink:
    """One end of a connection; see `fl_main.ports.Link`."""

    def __init__(self, network: "Network", process: Process, peer: str) -> None:
        self.bytes_received = 0
        self.peer = peer
        self.other: SimLink
        self.is_silent = False
        self._network = network
        self._process = process
        self._inbox: deque[bytes | LinkClosedError] = deque()
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._under_way = 0
        self._next_at = 0.0
        self._closed: LinkClosedError | None = None

    async def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._process.call(f"sending to {self.peer}")
            self._network.on_frame(self, frame)
        if self._closed:
            raise LinkClosedError(self._closed.code, str(self._closed))
        await asyncio.sleep(0)
        for frame in frames:  # nothing comes between them
            self._network.carry(self, frame)
        while self._under_way > FRAMES_AHEAD and not self._closed:
            self._drained.clear()
            await self._drained.wait()

    async def send_framed(self, framed: memoryview) -> None:
        await self.send(bytes(framed[HEADROOM:]))

    async def receive(self) -> bytes | str:
        self._process.call(f"receiving from {self.peer}")
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
            self._process.call(f"receiving from {self.peer}")
        found = self._inbox.popleft()
        if isinstance(found, LinkClosedError):
            self._inbox.append(found)
            self._closed = found
            raise LinkClosedError(found.code, str(found))
        return found

    def trust(self, credit: Callable[[], int]) -> None:
        pass

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._process.call(f"closing the connection to {self.peer}")
        if self._closed is None:
            self.end(LinkClosedError(code, reason))
            self._network.carry_close(self, LinkClosedError(code, reason))

    @property
    def is_over(self) -> bool:
        """Whether this end has nothing to do any more."""
        return self._closed is not None or self._process.is_dead

    def is_of(self, process: Process) -> bool:
        """Whether this end is a process's."""
        return self._process is process

    def end(self, error: LinkClosedError) -> None:
        """Let this end know that the connection is over."""
        self._closed = self._closed or error
        self._inbox.append(error)
        self._arrived.set()
        self._drained.set()

    def deliver(self, frame: bytes | LinkClosedError) -> None:
        """Let something arrive."""
        if self._closed or self._process.is_dead:
            return
        if isinstance(frame, bytes):
            self.bytes_received += len(frame)
        self._inbox.append(frame)
        self._arrived.set()

    def leave(self, frame: bytes) -> None:
        """Count a frame as under way."""
        self._under_way += len(frame) > 0

    def landed(self) -> None:
        """Count a frame as arrived, or lost."""
        self._under_way -= 1
        self._drained.set()

    def slot(self, delay_s: float, now: float) -> float:
        """Return when the next frame arrives: never before the one before it."""
        self._next_at = max(self._next_at + 1e-6, now + delay_s)
        return self._next_at


class Network:
    """All connections of a simulation.

    Args:
        random: Where its moods come from.
        weather: What it does to frames.
        say: Tells the story.
        on_frame: Sees every frame that a live process sends.

    Attributes:
        links: Both ends of every connection that was ever made.
    """

    def __init__(
        self,
        random: Random,
        weather: Weather,
        say: Callable[[str, str], None],
        on_frame: Callable[[SimLink, bytes], None],
    ) -> None:
        self.weather = weather
        self.on_frame = on_frame
        self.links: list[tuple[SimLink, SimLink]] = []
        self._random = random
        self._say = say
        self._listener: tuple[Process, Callable[[GuestLink], Awaitable[None]]] | None = None

    # --- making connections ---------------------------------------------------------------

    def listen(self, process: Process, serve: Callable[[GuestLink], Awaitable[None]]) -> None:
        """Let a process serve new connections."""
        self._listener = (process, serve)

    def stop_listening(self, process: Process) -> None:
        """Take no more connections for a process."""
        if self._listener and self._listener[0] is process:
            self._listener = None

    async def dial(self, process: Process) -> SimLink:
        """Open a connection from a process to whoever listens."""
        process.call("dialling")
        await asyncio.sleep(self._delay())
        if self._random.random() < self.weather.refused:
            await asyncio.sleep(10.0)
            raise ConnectionFailedError("the aggregator did not answer in time")
        if self._listener is None or self._listener[0].is_dead:
            raise ConnectionFailedError("nothing listens there")
        server, serve = self._listener
        mine, theirs = SimLink(self, process, server.name), SimLink(self, server, process.name)
        mine.other, theirs.other = theirs, mine
        self.links = [pair for pair in self.links if not (pair[0].is_over and pair[1].is_over)]
        self.links.append((mine, theirs))
        server.run(_served(serve, theirs))
        return mine

    def cut(self, end: SimLink, *, told: bool = True) -> None:
        """Break a connection; what is on its way is lost, and each end is told when it is told."""
        for link in (end, end.other):
            link.is_silent = True
            if told:
                error = LinkClosedError(1006, "connection lost")
                self._later(self._random.expovariate(10.0), link.end, error)

    def end_all(self, process: Process) -> None:
        """Close the connections of a process that ends in good order."""
        for pair in self.links:
            for link in pair:
                if link.is_of(process) and not link.is_over:
                    link.end(LinkClosedError(1001, "the server stops"))
                    self.carry_close(link, LinkClosedError(1001, "the server stops"))

    def hang_up(self, process: Process, *, told: bool) -> None:
        """The system closes the connections of a dead process, or nobody does."""
        for pair in self.links:
            for link in pair:
                if link.is_of(process):
                    link.is_silent = True
                    link.other.is_silent = True
                    if told:
                        error = LinkClosedError(1006, "connection reset")
                        self._later(self._delay(), link.other.end, error)

    # --- carrying frames ------------------------------------------------------------------

    def carry(self, link: SimLink, frame: bytes) -> None:
        """Take a frame to the other end, as the weather allows."""
        mood, weather = self._random.random(), self.weather
        if mood < weather.cut:
            self._say("network", f"cuts {_pair(link)} in the middle of a frame of {len(frame)} bytes")
            self.cut(link)
        elif mood < weather.cut + weather.silence:
            self._say("network", f"falls silent between {_pair(link)}")
            self.cut(link, told=False)
        if link.is_silent:
            return
        link.leave(frame)
        delay = self._delay()
        if self._random.random() < weather.overtaken:
            self._say("network", f"lets a frame be overtaken between {_pair(link)}")
            self._later(delay + 0.05, self._arrive, link, frame)
            return
        arrives = link.slot(delay, self._now())
        self._at(arrives, self._arrive, link, frame)
        if self._random.random() < weather.twice:
            self._say("network", f"carries a frame twice between {_pair(link)}")
            link.leave(frame)
            self._at(arrives + self._delay(), self._arrive, link, frame)

    def carry_close(self, link: SimLink, error: LinkClosedError) -> None:
        """Take a close to the other end, after the frames before it."""
        if not link.is_silent:
            self._at(link.slot(self._delay(), self._now()), link.other.deliver, error)

    def _arrive(self, link: SimLink, frame: bytes) -> None:
        link.landed()
        if not link.is_silent:
            link.other.deliver(frame)

    def _delay(self) -> float:
        return self._random.expovariate(1 / self.weather.delay_s)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _later(self, delay_s: float, act: Callable[..., None], *args: object) -> None:
        self._at(self._now() + delay_s, act, *args)

    def _at(self, when: float, act: Callable[..., None], *args: object) -> None:
        asyncio.get_running_loop().call_at(when, _nobody, act, args)


class SimListener:
    """Where simulated links come in; see `fl_main.ports.Listener`."""

    url = "ws://simulated"

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    async def start(self, serve: Callable[[GuestLink], Awaitable[None]], trouble: Callable[[], str]) -> None:
        self._process.call("listening")
        self._network.listen(self._process, serve)

    def stop_accepting(self) -> None:
        self._network.stop_listening(self._process)

    async def close(self) -> None:
        self._network.stop_listening(self._process)
        self._network.end_all(self._process)
        await asyncio.sleep(0.1)


def _nobody(act: Callable[..., None], args: tuple[object, ...]) -> None:
    """Do what the network does: it belongs to no process."""
    token = CURRENT.set(None)
    try:
        act(*args)
    finally:
        CURRENT.reset(token)


async def _served(serve: Callable[[GuestLink], Awaitable[None]], link: SimLink) -> None:
    await serve(link)


def _pair(link: SimLink) -> str:
    return f"{link.other.peer} and {link.peer}"
