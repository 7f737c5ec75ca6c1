"""One connected agent: its session, its uploads and downloads, its signs of life."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from fl_main.errors import FLError, RemoteProtocolError, StoreError, WeightsError
from fl_main.events import AgentLeft, Offered, TaskDeclined, UpdateOffered
from fl_main.messages import (
    Assign,
    Chunk,
    Decline,
    Fetch,
    Join,
    Leave,
    Message,
    Nothing,
    Offer,
    Payload,
    Ping,
    Poll,
    Pong,
    Refuse,
    Sending,
    Verdict,
)
from fl_main.ports import Link, LinkClosedError, Ports
from fl_main.session import Liveness, Session, State
from fl_main.settings import LimitSettings
from fl_main.store import ModelRecord, Store, StoredPayload, TaskRecord, UpdateRecord
from fl_main.weights import Layout
from fl_main.why.agents import find_agent
from fl_main.why.findings import Transfer

from .ahead import Ahead
from .downloads import Frames
from .host import RunHost
from .journal import RETRY_S
from .uploads import Budget, Upload

logger = logging.getLogger("fl_main.aggregator")

MAX_QUEUED = 1000  # control messages to an agent that does not read them
MAX_HELPERS = 8  # requests of one agent at once
CLOSE_PATIENCE_S = 2.0  # for messages that are still queued
FETCHING = "sending a model"  # the request that people see as a transfer
MAX_REMEMBERED = 8  # ended uploads whose last chunks may still be on their way
MAX_STRANGE_OFFERS = 100  # of tasks never given, or answered with another update: each is a row
PONG = Pong()


class Shared:
    """What all sessions of a daemon share."""

    def __init__(self, store: Store, ports: Ports, limits: LimitSettings, retention: str) -> None:
        self.retention = retention  # in words, for the agents
        self.store = store
        self.ports = ports
        self.limits = limits
        self.frames = Frames(store, ports)
        self.budget = Budget(limits.receive_bytes, ports.monotonic)


class AgentSession:
    """Serves one joined agent until its connection ends; the run's seat for it.

    Attributes:
        join: What the agent said of itself.
        closing: Why we ended it, if we did.
    """

    def __init__(self, link: Link, session: Session, join: Join, host: RunHost, shared: Shared) -> None:
        self.join = join
        self.host = host
        self.closing: tuple[int, str] | None = None
        self._link = link
        self._session = session
        self._shared = shared
        self._ports = shared.ports
        self._outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
        self._uploads: dict[str, tuple[Upload, asyncio.Task[None]]] = {}
        self._early: dict[str, Upload] = {}  # whose bytes come before it is decided whether they are wanted
        self._ahead = Ahead(
            takes_models=join.follows,
            known={model.payload.digest for model in host.machine.models.values()},
            layout=host.machine.layout,
            budget=shared.budget,
        )
        self._helpers: dict[asyncio.Task[None], None] = {}  # in order, to be ended in order
        self._over: deque[str] = deque(maxlen=MAX_REMEMBERED)
        self._last_given = ""  # task of this connection
        self._strange_offers = 0
        self._is_ending = False
        self._left_for_good = False
        self._bytes_sent = 0
        self._ended = asyncio.Event()

    @property
    def transfer(self) -> Transfer | None:
        """The bytes that are on their way to the agent or from it."""
        for upload, _ in self._uploads.values():
            return upload.transfer
        return Transfer("out") if any(task.get_name() == FETCHING for task in self._helpers) else None

    @property
    def credit(self) -> int:
        """How many bytes the agent may send, and has not sent."""
        early = sum(upload.credit for upload in self._early.values())
        return self._ahead.granted + early + sum(upload.credit for upload, _ in self._uploads.values())

    # --- Seat -----------------------------------------------------------------------------

    def post(self, message: Message) -> None:
        """Queue a message; an agent that reads none of a thousand is given up."""
        if self._outgoing.qsize() >= MAX_QUEUED:
            self._shut(1008, "it does not read what it is sent")
            return
        if isinstance(message, Assign):
            self._last_given = message.task_id
            message = self._ahead.said(message, self.host.machine.sent_layout)
        elif isinstance(message, Verdict) and (unwanted := self._early.pop(message.task_id, None)):
            unwanted.give_up()
            self._over.append(message.task_id)
        self._outgoing.put_nowait(message)

    def receive(self, offer: Offered) -> None:
        """Start taking an update's bytes, unless that is under way."""
        if self._is_ending or offer.task_id in self._uploads:
            return
        upload = self._early.pop(offer.task_id, None) or self._upload(offer)
        task = asyncio.create_task(self._guard(upload.run, "receiving an update"))
        self._uploads[offer.task_id] = (upload, task)
        task.add_done_callback(lambda _: self._forget(offer.task_id))

    def _upload(self, offer: Offered, early: int = 0) -> Upload:
        return Upload(
            offer,
            self._shared.store,
            self._ports,
            self._shared.budget,
            self.host.run.run_id,
            self.post,
            self.host.tell,
            self.host.journal.set_trouble,
            lambda payload: self.host.machine.check_of(offer.task_id, payload),
            early,
        )

    def _forget(self, task_id: str) -> None:
        upload, _ = self._uploads.pop(task_id)
        upload.give_up()  # what it was granted early, if it did not come so far as to begin
        self._over.append(task_id)

    def expel(self, code: str, reason: str) -> None:
        """Tell the agent that it cannot take part, and end the session."""
        self.post(Refuse(code=code, reason=reason))
        self._outgoing.put_nowait(None)

    # --- life -----------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve until the connection ends, one way or another."""
        helpers = [
            asyncio.create_task(self._guard(self._send_all, "sending")),
            asyncio.create_task(self._guard(self._watch, "watching")),
        ]
        reason = "connection lost"
        try:
            while True:
                self._take(self._session.receive(await self._link.receive()))
                await asyncio.sleep(0)  # the next one may be here already; others have something to say, too
                await self.host.journal.room()
        except RemoteProtocolError as error:
            reason = str(error)
            logger.warning("protocol error agent=%s run=%s: %s", self.join.name, self.host.run.name, error)
            await self._link.close(error.code, reason)
        except LinkClosedError as error:
            reason = self.closing[1] if self.closing else str(error)
        finally:
            await self._clean_up(helpers)
            self.host.tell(AgentLeft(self.join.agent_id, reason, self._left_for_good))
            self._ended.set()

    async def close(self, code: int, reason: str, refuse: Refuse | None = None) -> None:
        """End the session and wait until nothing of it touches the store any more."""
        if refuse is not None:
            self.post(refuse)
            await asyncio.sleep(0)
        self._shut(code, reason)
        try:
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._ended.wait()
        except TimeoutError:  # it does not read: what is queued for it cannot be sent
            await self._link.close(code, reason)
            await self._ended.wait()

    def _shut(self, code: int, reason: str) -> None:
        if self.closing is None:
            self.closing = (code, reason)
            self._outgoing.put_nowait(None)

    async def _clean_up(self, helpers: list[asyncio.Task[None]]) -> None:
        self._is_ending = True  # what is begun from here on nobody would end
        tasks = [*helpers, *self._helpers, *(task for _, task in self._uploads.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ahead.give_back()
        for upload in self._early.values():
            upload.give_up()
        self._early.clear()

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Run a part of the session; if it fails, the session ends, nothing else."""
        try:
            await work()
        except LinkClosedError:
            pass  # the receiving loop notices, too
        except RemoteProtocolError as error:
            await self._link.close(error.code, str(error))
        except FLError as error:
            logger.warning("%s failed agent=%s run=%s: %s", what, self.join.name, self.host.run.name, error)
            await self._link.close(1011, str(error))
        except Exception:
            logger.exception("%s failed agent=%s run=%s", what, self.join.name, self.host.run.name)
            await self._link.close(1011, "an error of the aggregator; its log has the details")

    async def _send_all(self) -> None:
        is_last = False
        while not is_last:
            messages = [await self._outgoing.get()]
            while not self._outgoing.empty():
                messages.append(self._outgoing.get_nowait())
            is_last = None in messages
            if frames := self._frames(messages):
                await self._link.send(*frames)
                self._send_what_follows(messages)
        code, reason = self.closing or (1008, "refused")
        await self._link.close(code, reason)

    def _frames(self, messages: list[Message | None]) -> list[bytes]:
        """Return what is to be sent of these messages, as far as they may still be said."""
        frames = []
        for message in messages:
            if message is None:
                break
            if self._session.state is not State.CLOSED:  # else it left, or was refused
                frames.append(self._session.send(message))
        return frames

    def _send_what_follows(self, messages: list[Message | None]) -> None:
        """Send the models of tasks that were said, where they follow unasked."""
        for assign in messages:
            for payload in assign.payloads if isinstance(assign, Assign) else ():
                if payload.follows:
                    self._start(lambda payload=payload: self._send_following(payload), FETCHING)  # type: ignore[misc]

    async def _watch(self) -> None:
        limits = self._shared.limits
        liveness = Liveness(limits.ping_interval_s, limits.ping_timeout_s, limits.min_bytes_per_s)
        while True:
            if self.closing is not None and self._outgoing.qsize() > MAX_QUEUED:  # nor does it read why
                await self._link.close(*self.closing)
                return
            moved = self._link.bytes_received + self._bytes_sent
            is_due = any(upload.is_due for upload, _ in self._uploads.values())
            state = liveness.look(
                moved,
                self._ports.monotonic(),
                said=self._session.messages_sent,
                wall_time=self._ports.wall_time(),
                is_due=is_due,
            )
            if state == "ask":
                self.post(Ping())
            elif state != "alive":
                slow = f"an update came at less than {limits.min_bytes_per_s} bytes per second"
                self.closing = (1001, slow if state == "slow" else f"no byte for {limits.ping_timeout_s:g} s")
                await self._link.close(*self.closing)
                return
            await asyncio.sleep(min(limits.ping_interval_s, limits.ping_timeout_s) / 2)

    async def send_framed(self, framed: memoryview) -> None:
        """Send a frame of a transfer, and count it as a sign of life once it went."""
        await self._link.send_framed(framed)
        self._bytes_sent += len(framed)

    # --- messages -------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        if isinstance(message, Chunk):
            self._chunk(message)
        elif isinstance(message, Offer):
            self._offer(message)
        elif isinstance(message, Fetch):
            self._start(lambda: self._send_asked(message), FETCHING)
        elif isinstance(message, Poll):
            self._start(self._answer_poll, "answering a poll")
        elif isinstance(message, Decline):
            self.host.tell(TaskDeclined(message.task_id, self.join.agent_id, message.code, message.reason))
        elif isinstance(message, Ping):
            self.post(PONG)
        elif isinstance(message, Leave):
            self._left_for_good = True
            self._shut(1000, message.reason or "the agent left")

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        if len(self._helpers) >= MAX_HELPERS:
            raise RemoteProtocolError(f"more than {MAX_HELPERS} requests at once", 1008)
        task = asyncio.create_task(self._guard(work, what), name=what)
        self._helpers[task] = None
        task.add_done_callback(lambda _: self._helpers.pop(task))

    async def _answer_poll(self) -> None:
        """Say that there is nothing to do, once all is said that was decided before."""
        is_stored = await self.host.journal.flush_or_trouble()
        if is_stored and not self._knows_its_task:  # it was decided while we waited
            is_stored = await self.host.journal.flush_or_trouble()
        finding = find_agent(self.host.view(), self.join.agent_id)
        trouble = f"nothing can be stored at the moment: {self.host.journal.trouble}"
        reason = finding.what.removeprefix("idle: ") if is_stored else trouble
        self.post(Nothing(reason=reason))

    @property
    def _knows_its_task(self) -> bool:
        task_id = self.host.machine.members[self.join.agent_id].task_id
        return task_id in (None, self._last_given, *self.join.held)

    async def _send_asked(self, fetch: Fetch) -> None:
        model = self._fetchable(fetch.digest)
        needs_rows = fetch.layout != model.payload.layout.digest
        await self._send_model(model, fetch.offset, needs_rows=needs_rows)

    async def _send_following(self, announced: Payload) -> None:
        """Send a model that was announced as one that follows."""
        model = self._fetchable(announced.digest)
        needs_rows = self._ahead.needs_rows(self.host.described(model), announced.channel)
        await self._send_model(model, 0, needs_rows=needs_rows)

    def _fetchable(self, digest: str) -> ModelRecord:
        model = self.host.fetchable(digest)
        if model is None:
            raise RemoteProtocolError(f"{digest} is not offered to this agent", 1008)
        return model

    async def _send_model(self, model: ModelRecord, offset: int, *, needs_rows: bool) -> None:
        payload = model.payload
        await self._readable(payload, offset)
        rows = self.host.described(model).to_wire() if needs_rows else None
        announcement = Sending(transfer=payload.digest, offset=offset, size=payload.size, rows=rows)
        await self._link.send(self._session.send(announcement))  # not queued: the chunks follow it
        await self._shared.frames.send(self, payload, offset, self._session.packing)

    async def _readable(self, payload: StoredPayload, offset: int) -> None:
        """Wait while a model cannot be read: its round's deadline goes on, and people are told."""
        what = f"model {payload.digest} for {self.join.agent_id}"  # others may wait for it, too
        try:
            while True:
                try:
                    return await self._shared.frames.require(payload, offset, self._session.packing)
                except StoreError as error:
                    self.host.journal.set_trouble(what, str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            self.host.journal.set_trouble(what, "")

    def _chunk(self, chunk: Chunk) -> None:
        uploads = [*self._early.values(), *(upload for upload, _ in self._uploads.values())]
        if any(upload.take(chunk) for upload in uploads):
            return
        if chunk.transfer.partition("/")[0] not in self._over:  # else on its way when we refused it
            raise RemoteProtocolError(f"a chunk of {chunk.transfer[:80]!r}, which nobody asked for")

    def _offer(self, offer: Offer) -> None:
        facts = Offered(
            offer.task_id,
            self.join.agent_id,
            offer.num_examples,
            offer.num_steps,
            offer.metrics,
            {payload.channel: self._described(payload) for payload in offer.payloads},
            offer.seconds,
        )
        if any(payload.follows for payload in offer.payloads):
            self._expect(facts, self._ahead.claimed(offer))
        if task := self.host.machine.tasks.get(offer.task_id):
            self._require_sense(facts, task, self.host.machine.updates.get(offer.task_id))
            self.host.tell(UpdateOffered(facts))
        else:
            self._start(lambda: self._offer_of_old(facts), "taking an old offer")

    def _expect(self, offer: Offered, granted: int) -> None:
        """Take what follows an offer, as far as it was granted; what was not is let go as it comes."""
        if granted and offer.task_id not in self._uploads:
            self._early[offer.task_id] = self._upload(offer, granted)
        else:
            self._shared.budget.give_early_back(granted)
            self._over.append(offer.task_id)

    async def _offer_of_old(self, facts: Offered) -> None:
        """Look up a task that the round machine has forgotten."""
        await self.host.journal.flush()  # what was decided last must be there
        earlier = await self._ports.run_in_writer(self._shared.store.find_task, facts.task_id)
        self._require_sense(facts, *(earlier or (None, None)))
        self.host.tell(UpdateOffered(facts, earlier))

    def _require_sense(self, offer: Offered, task: TaskRecord | None, answer: UpdateRecord | None) -> None:
        """Let an agent offer what can only be rejected a number of times, not for ever."""
        own = (self.join.agent_id, self.host.run.run_id)
        is_own = task is not None and (task.agent_id, task.run_id) == own
        is_another = answer is not None and dict(answer.digests) != offer.digests
        self._strange_offers += not is_own or is_another
        if self._strange_offers > MAX_STRANGE_OFFERS:
            what = "tasks that it was never given, or answered with another update"
            raise RemoteProtocolError(f"more than {MAX_STRANGE_OFFERS} offers of {what}", 1008)

    def _described(self, payload: Payload) -> StoredPayload:
        """Return an offered payload with its layout, checked before any memory is taken."""
        try:
            layout = self._layout(payload)
        except WeightsError as error:
            raise RemoteProtocolError(f"offer: {error}") from error
        if layout.digest != payload.layout or layout.nbytes != payload.size:
            raise RemoteProtocolError("offer: layout, digest and size do not fit together")
        if payload.size > self._shared.limits.model_bytes:
            raise RemoteProtocolError(
                f"offer: {payload.size} bytes; this aggregator takes {self._shared.limits.model_bytes}", 1009
            )
        return StoredPayload(payload.channel, payload.digest, payload.size, layout)

    def _layout(self, payload: Payload) -> Layout:
        if payload.rows is not None:
            return Layout.from_wire(payload.rows)
        for known in (self.host.machine.layout, self.host.machine.sent_layout):
            if known is not None and known.digest == payload.layout:
                return known
        raise WeightsError("the layout is neither described nor the run's own")
