"""Finished updates, from the disk to the aggregator, over any number of connections.

What was written to the outbox is offered on every connection until it is judged, also by a
later process. What the site keeps with an update becomes current once that was counted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Iterable

from fl_main.digests import DigestAlgorithm
from fl_main.errors import FLError, RemoteProtocolError, StateFolderError, StateFolderFullError
from fl_main.messages import Credit, Offer, Send, Verdict
from fl_main.ports import LinkClosedError, Ports
from fl_main.weights import Layout

from .state_folder import OutboxEntry, StateFolder
from .transfers import Sender

logger = logging.getLogger("fl_main.agent")

DISK_RETRY_S = 5.0

SendFramed = Callable[[memoryview], Awaitable[None]]


class Outbox:
    """The finished updates of an agent.

    Args:
        folder: Where they lie.
        ports: Threads.
        on_trouble: Told what hinders the disk, while that lasts.
    """

    def __init__(self, folder: StateFolder, ports: Ports, on_trouble: Callable[[str], None]) -> None:
        self._folder = folder
        self._ports = ports
        self._on_trouble = on_trouble
        self._entries = {entry.task_id: entry for entry in folder.entries()}
        self._verdicts: dict[str, asyncio.Future[Verdict]] = {}
        self._senders: dict[str, tuple[Sender, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._counted: dict[str, None] = {}  # tasks whose kept arrays are to be made current

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    @property
    def task_ids(self) -> list[str]:
        """The tasks whose answers are here."""
        return list(self._entries)

    # --- writing --------------------------------------------------------------------------

    async def store(self, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        """Write a finished update; while there is no room, wait for some.

        Raises:
            WeightsError: If its arrays cannot be sent.
            StateFolderError: If it cannot be written, and waiting does not help.
        """
        while True:
            try:
                return await self._ports.run_in_thread(write)
            except StateFolderFullError as error:
                await self._wait_for_the_disk(error)

    async def _wait_for_the_disk(self, error: FLError) -> None:
        self._on_trouble(str(error))
        await asyncio.sleep(DISK_RETRY_S)

    # --- sending --------------------------------------------------------------------------

    def put(self, entry: OutboxEntry) -> "asyncio.Future[Verdict]":
        """Take an update that is written; return what will hold the aggregator's verdict."""
        self._entries[entry.task_id] = entry
        return self._verdicts.setdefault(entry.task_id, asyncio.get_running_loop().create_future())

    async def follow(self, algorithm: DigestAlgorithm) -> None:
        """Name what is here, and what comes, by the digests that the aggregator wants.

        What lies here from earlier may have others, as the aggregator's database was another one.
        """
        self._folder.algorithm = algorithm
        for task_id, entry in list(self._entries.items()):
            self._entries[task_id] = await self._in_algorithm(entry)

    async def _in_algorithm(self, entry: OutboxEntry) -> OutboxEntry:
        while True:
            try:
                return await self._ports.run_in_thread(self._folder.in_algorithm, entry)
            except StateFolderError as error:
                await self._wait_for_the_disk(error)

    def offers(self, known: Container[str]) -> list[Offer]:
        """Return an offer of every update that was not judged yet.

        Args:
            known: Digests of layouts that the aggregator knows, too.
        """
        return [entry.offer(known) for entry in self._entries.values()]

    def send(self, send: Send, send_framed: SendFramed, packing: str | None = None) -> None:
        """Begin, or go on, to send a payload as the aggregator asked.

        Args:
            send: What it asked for.
            send_framed: Sends a frame that has room before it.
            packing: How chunks are packed where that pays, if that was agreed.

        Raises:
            RemoteProtocolError: If it was not offered.
        """
        entry = self._entries.get(send.task_id)
        payload = next((p for p in entry.payloads if p.channel == send.channel), None) if entry else None
        if payload is None:
            raise RemoteProtocolError(f"an update of task {send.task_id} was not offered")
        transfer = f"{send.task_id}/{send.channel}"
        if older := self._senders.pop(transfer, None):
            older[1].cancel()
        sender = Sender(
            transfer,
            lambda: self._folder.open_payload(send.task_id, send.channel),
            Layout.from_wire(payload.rows),
            send_framed,
            self._ports.run_in_thread if packing else None,
        )
        sender.allow(send.credit)
        self._senders[transfer] = (sender, asyncio.create_task(_sent(sender, send.offset)))

    def send_unasked(self, entry: OutboxEntry, send_framed: SendFramed, packing: str | None) -> None:
        """Send the only payload of an update, unless something was said of it already."""
        [payload] = entry.payloads
        if entry.task_id in self and f"{entry.task_id}/{payload.channel}" not in self._senders:
            whole = Send(task_id=entry.task_id, channel=payload.channel, offset=0, credit=payload.size)
            self.send(whole, send_framed, packing)

    def allow(self, credit: Credit) -> None:
        """Let a transfer go on."""
        if pair := self._senders.get(credit.transfer):
            pair[0].allow(credit.credit)

    def stop_sending(self, task_id: str = "") -> None:
        """End the transfers of a task, or all: the connection is over."""
        for transfer in [name for name in self._senders if name.startswith(task_id)]:
            self._senders.pop(transfer)[1].cancel()

    # --- verdicts -------------------------------------------------------------------------

    def judged(self, verdict: Verdict) -> None:
        """Take what became of an update, and forget it."""
        self.stop_sending(verdict.task_id)
        self._entries.pop(verdict.task_id, None)
        self._changed.set()
        self._folder.drop(verdict.task_id, keep_state=verdict.verdict == "accepted")
        if waiter := self._verdicts.pop(verdict.task_id, None):
            if not waiter.done():
                waiter.set_result(verdict)
        else:
            logger.info(
                "update from an earlier time was %s task=%s %s",
                verdict.verdict,
                verdict.task_id,
                verdict.reason,
            )

    async def all_judged(self) -> None:
        """Wait until nothing is left that the aggregator has not answered."""
        while self._entries:
            self._changed.clear()
            await self._changed.wait()

    def fail(self, error: FLError) -> None:
        """Tell everybody who waits for a verdict that there will be none."""
        for verdict in self._verdicts.values():
            if not verdict.done():
                verdict.set_exception(error)
                verdict.exception()  # seen; whoever waits gets it all the same

    def promote(self, task_ids: Iterable[str] = ()) -> StateFolderError | None:
        """Make what was kept with counted updates current; return what hinders it."""
        self._counted.update(dict.fromkeys(task_ids))
        try:
            for task_id in list(self._counted):
                self._folder.promote_state(task_id)
                del self._counted[task_id]
        except StateFolderError as error:
            return error
        return None

    async def settled(self, run_id: str, rollbacks: int) -> None:
        """Wait until what was kept with counted updates is current, unless they were undone since.

        Args:
            run_id: Of the run.
            rollbacks: How often it was rolled back to an earlier round.
        """
        while error := self.promote() or self.forget_undone(run_id, rollbacks):
            await self._wait_for_the_disk(error)

    def forget_undone(self, run_id: str, rollbacks: int) -> StateFolderError | None:
        """Forget what was kept with updates that were undone; return what hinders it."""
        try:
            self._folder.forget_undone(run_id, rollbacks)
        except StateFolderError as error:
            return error
        return None


async def _sent(sender: Sender, offset: int) -> None:
    try:
        await sender.run(offset)
    except LinkClosedError:
        pass  # it goes on after the next Send
    except OSError as error:
        logger.error("cannot read the outbox: %s; see whether that disk works", error)
