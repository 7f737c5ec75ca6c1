"""Models on their way in, over any number of connections, and those that are still wanted."""

import asyncio
from collections.abc import Awaitable, Callable

from fl_main.errors import RemoteProtocolError
from fl_main.lossless import unpacked
from fl_main.messages import Chunk, Fetch, Payload, Sending
from fl_main.ports import RunInThread
from fl_main.slabs import is_unused
from fl_main.weights import Layout

from .transfers import Download, Fetched


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
        self._let_go: list[bytearray] = []  # memory of models that the program may still look at

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
                room = self._room(payload.size)
                download = self._downloads[payload.digest] = Download(payload, known, room)
            if payload.digest not in self._asked:
                self._asked.add(payload.digest)
                await self._say(download.request())
            fetched = await asyncio.shield(download.done)
            self._held[payload.digest] = fetched.model, await self._decoded(fetched)
        return self._held[payload.digest]

    def hold(self, digest: str, layout: Layout, data: bytearray) -> None:
        """Take a model that need not be fetched."""
        self._held[digest] = layout, data

    def expect(self, payload: Payload, known: Layout | None) -> None:
        """Be ready for a payload that follows unasked; `fetch` then waits for it."""
        self._downloads.setdefault(payload.digest, Download(payload, known))
        self._asked.add(payload.digest)

    async def _decoded(self, fetched: Fetched) -> bytearray:
        if fetched.codec is None:
            return fetched.data
        return await self._run_in_thread(fetched.decoded, self._room(fetched.model.nbytes))

    def _room(self, size: int) -> bytearray | None:
        """Return memory of that size that nobody looks at any more, if there is some.

        A program has the last model while the next one comes, so it is that of the one before. Fresh
        pages would cost several times what is done with them here.
        """
        for place in range(len(self._let_go)):
            if len(self._let_go[place]) == size and is_unused(self._let_go, place):
                return self._let_go.pop(place)
        return None

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
        """Let models go that no task needs any more, by their digests; memory for as many others stays."""
        for digest in [digest for digest in list(self._held) if digest not in current]:
            self._let_go.append(self._held.pop(digest)[1])
        del self._let_go[: -2 * len(current) or None]
        for digest in [digest for digest in self._downloads if digest not in current | self._asked]:
            del self._downloads[digest]
