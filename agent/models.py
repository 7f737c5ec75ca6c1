"""Models on their way in, over any number of connections, and those that are still wanted."""

import asyncio
from collections.abc import Awaitable, Callable

from fl_main.errors import RemoteProtocolError
from fl_main.lossless import unpacked
from fl_main.messages import Chunk, Fetch, Payload, Sending
from fl_main.ports import RunInThread
from fl_main.weights import Layout

from .transfers import Download


class Models:
    """What an agent fetched, and is fetching.

    Args:
        say: Sends a request if there is a connection.
        run_in_thread: Where packed chunks are unpacked, and models decoded.
    """

    def __init__(self, say: Callable[[Fetch], Awaitable[None]], run_in_thread: RunInThread) -> None:
        self._say = say
        self._run_in_thread = run_in_thread
        self._held: dict[str, tuple[Layout, bytearray]] = {}
        self._downloads: dict[str, Download] = {}
        self._asked: set[str] = set()  # digests that were asked for on this connection

    async def fetch(self, payload: Payload, known: Layout | None) -> tuple[Layout, bytearray]:
        """Return the layout and bytes of a payload, decoded; from memory if they are there.

        Args:
            payload: As announced.
            known: The layout of the run's model, so that it need not be described.

        Raises:
            RemoteProtocolError: If it cannot be decoded.
        """
        if payload.digest not in self._held:
            download = self._downloads.get(payload.digest)
            if download is None:
                download = self._downloads[payload.digest] = Download(payload, known)
            if payload.digest not in self._asked:
                self._asked.add(payload.digest)
                await self._say(download.request())
            fetched = await asyncio.shield(download.done)
            data = await self._run_in_thread(fetched.decoded) if fetched.codec else fetched.data
            self._held[payload.digest] = fetched.model, data
        return self._held[payload.digest]

    def expect(self, payload: Payload, known: Layout | None) -> None:
        """Be ready for a payload that follows unasked; `fetch` then waits for it."""
        self._downloads.setdefault(payload.digest, Download(payload, known))
        self._asked.add(payload.digest)

    async def begin(self, sending: Sending) -> None:
        """Take the announcement of the chunks that follow.

        Raises:
            RemoteProtocolError: If it is not what was asked for.
        """
        self._download(sending.transfer).begin(sending)
        await self._advance(sending.transfer)

    async def take(self, chunk: Chunk) -> None:
        """Take a chunk.

        Raises:
            RemoteProtocolError: If it is not the next one of what was asked for, or cannot be unpacked.
        """
        download = self._download(chunk.transfer)
        download.expect(chunk)
        download.add(await self._run_in_thread(unpacked, chunk) if chunk.packed else chunk.data)
        await self._advance(chunk.transfer)

    def _download(self, transfer: str) -> Download:
        try:
            return self._downloads[transfer]
        except KeyError:
            raise RemoteProtocolError(f"{transfer[:80]!r} was not asked for") from None

    async def _advance(self, transfer: str) -> None:
        download = self._downloads[transfer]
        if download.finish():
            del self._downloads[transfer]
            self._asked.discard(transfer)
        elif download.must_ask_again:
            await self._say(download.request())

    def pause(self) -> None:
        """The connection is over: what is here stays, and the rest is asked for on the next one."""
        self._asked.clear()

    def forget_all_but(self, current: set[str]) -> None:
        """Free the memory of models that no task needs any more, by their digests."""
        for digest in [digest for digest in self._held if digest not in current]:
            del self._held[digest]
        for digest in [digest for digest in self._downloads if digest not in current | self._asked]:
            del self._downloads[digest]
