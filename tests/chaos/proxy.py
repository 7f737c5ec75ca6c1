"""Lines between sites and the daemon that break in every way lines break.

All of them live on one event loop in a thread; the methods may be called from any other.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

PIECE_BYTES = 16 << 10


class Network:
    """The thread that carries all lines."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function there, soon."""
        self.loop.call_soon_threadsafe(function, *args)

    def result(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there to its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10.0)

    async def listen(self, connected: Callable[..., Coroutine[Any, Any, None]]) -> asyncio.Server:
        """Accept connections on a free port until the network ends."""
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._servers.append(server)
        return server

    def close(self) -> None:
        """Cut everything and end the thread."""
        self.result(self._settled())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10.0)
        self.loop.close()

    async def _settled(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for the system to take back the sockets of what was aborted
        await asyncio.sleep(0)


class _Pair:
    """One connection of a site and its other half to the daemon."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.is_silent = False
        self._writers = writers

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class CutError(Exception):
    """The line was cut on purpose."""


class Line:
    """One site's way to the daemon.

    Args:
        network: That carries it.
        port: Where the daemon listens.
        bytes_per_s: What passes at most, each way; None for no limit.

    Attributes:
        port: Where the site dials.
        bytes_per_s: As given; may be changed at any time.
        delay_s: That every piece takes longer.
        is_closed: Whether new connections are turned away.
        down: Bytes that went to the site; `up`: that came from it.
        down_at: When the last of them passed (monotonic seconds); `up_at`.
    """

    def __init__(self, network: Network, port: int, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self.delay_s = 0.0
        self.is_closed = False
        self.down = self.up = 0
        self.down_at = self.up_at = 0.0
        self._network = network
        self._daemon_port = port
        self._pairs: set[_Pair] = set()
        self._cut_after: int | None = None
        self._flows = asyncio.Event()
        self._server: asyncio.Server = network.result(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _listen(self) -> asyncio.Server:
        self._flows.set()
        return await self._network.listen(self._connected)

    # --- what can happen to it ----------------------------------------------------------------

    def cut(self) -> None:
        """Cut every connection now."""
        self._network.call(self._cut_all)

    def cut_after(self, count: int) -> None:
        """Cut the connection on which the byte of that number from now on passes."""
        self._cut_after = count

    def stall(self, is_stalled: bool) -> None:
        """Let nothing pass, or go on; nothing is lost."""
        self._network.call(self._flows.clear if is_stalled else self._flows.set)

    def silence(self) -> None:
        """Lose both halves of every connection without a word: neither end is told, ever."""
        self._network.call(self._silence_all)

    def close(self) -> None:
        """End it."""
        self.is_closed = True
        self._network.call(self._server.close)
        self.cut()

    def _cut_all(self) -> None:
        for pair in list(self._pairs):
            pair.cut()

    def _silence_all(self) -> None:
        for pair in self._pairs:
            pair.is_silent = True

    # --- carrying -----------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled: the network ends
            if self.is_closed:
                return writer.transport.abort()
            try:
                daemon_reader, daemon_writer = await asyncio.open_connection("127.0.0.1", self._daemon_port)
            except OSError:
                return writer.transport.abort()
            pair = _Pair(writer, daemon_writer)
            self._pairs.add(pair)
            try:
                await self._carry(pair, (reader, daemon_writer), (daemon_reader, writer))
            finally:
                self._pairs.discard(pair)
                pair.cut()

    async def _carry(self, pair: _Pair, up: "_Way", down: "_Way") -> None:
        """Carry both ways until one end is done; of a silent pair, until both are."""
        ways = {
            asyncio.create_task(self._pump(pair, *up, "up")),
            asyncio.create_task(self._pump(pair, *down, "down")),
        }
        try:
            done, open_ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if open_ways and pair.is_silent:
                more, _ = await asyncio.wait(open_ways)
                done |= more
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        with contextlib.suppress(OSError, CutError):
            while data := await reader.read(PIECE_BYTES):
                await self._flows.wait()
                if self.delay_s or self.bytes_per_s:
                    await asyncio.sleep(self.delay_s + len(data) / (self.bytes_per_s or 1e12))
                if pair.is_silent:
                    continue
                self._count(way, len(data))
                writer.write(self._left_of(data))
                await writer.drain()
                if self._cut_after == 0:
                    self._cut_after = None
                    raise CutError

    def _left_of(self, data: bytes) -> bytes:
        """Return what still passes if the line is to be cut at a byte."""
        if self._cut_after is None:
            return data
        passed = data[: self._cut_after]
        self._cut_after -= len(passed)
        return passed

    def _count(self, way: str, count: int) -> None:
        now = time.monotonic()
        if way == "down":
            self.down, self.down_at = self.down + count, now
        else:
            self.up, self.up_at = self.up + count, now


_Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]
