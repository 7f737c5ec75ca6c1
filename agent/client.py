"""The agent's side of the conversation: connects for ever, fetches, hands out work, sends.

It runs on the event loop of the agent's network thread, so a training program may block as
long as it likes. The programs' side of it is `fl_main.agent.blocking` and `.asynchronous`.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable

from fl_main.compression import Codec
from fl_main.compression.words import from_words
from fl_main.errors import ConnectionFailedError, FLError, RefusedError, RemoteProtocolError
from fl_main.lossless import INSTALL, PACKINGS
from fl_main.messages import (
    Assign,
    Cancel,
    Chunk,
    Counted,
    Credit,
    Decline,
    Hold,
    Leave,
    Message,
    Nothing,
    Payload,
    Ping,
    Poll,
    Pong,
    Refuse,
    RunEnded,
    Send,
    Sending,
    Verdict,
    Waiting,
    Welcome,
)
from fl_main.ports import Link, LinkClosedError, Ports
from fl_main.session import Session, Side
from fl_main.weights import Array, Layout, Weights, pack, views

from .exchange import AgentState, Ending, Policy, Profile, Work
from .inbox import Inbox
from .joining import Joining
from .models import Models
from .outbox import Outbox
from .own_model import OwnModel
from .policy import denial_of
from .state_folder import OutboxEntry, StateFolder
from .talk import Talk
from .visits import Retries, Trouble, Visits
from .welcome import OnlySomeArraysError, algorithm_of, on_the_way, refused

logger = logging.getLogger("fl_main.agent")

PING_INTERVAL_S = 20.0  # until the aggregator has told its own
LAST_VERDICTS_S = 10.0  # on updates that were offered when the run was over
LEAVE_S = 1.0  # to say goodbye
SHORTEST_PING_S = 0.01  # whatever the aggregator says: the watch must not go round without a rest
REAL_CONVERSATION_S = 1.0  # a shorter one may be a fault that repeats at once: it does not reset the wait


class Client:
    """One agent's conversation with its aggregator, over any number of connections.

    Args:
        profile: Who it is.
        folder: Its state on disk.
        ports: Clocks and threads.
        dial: Opens a link to the aggregator.
        policy: Allows (True or None) or denies (False, or the reason as text) an invitation
            or a task before anything is sent.
        on_change: Called when `state` or `line` changes.
        model: What its program gave as initial weights.

    Attributes:
        state: What it is doing.
        line: The same in one line for people.
        layout: Of the run's model, once known.
        run_id: Of the run that it joined, empty before.
        model: What its program gave as initial weights, and what of it stays here.
    """

    def __init__(
        self,
        profile: Profile,
        folder: StateFolder,
        ports: Ports,
        dial: Callable[[], Awaitable[Link]],
        policy: Policy | None = None,
        on_change: Callable[[], None] = lambda: None,
        model: OwnModel | None = None,
    ) -> None:
        self.state = AgentState.CONNECTING
        self.line = "connecting"
        self.layout: Layout | None = None
        self.run_id = ""
        self.model = model or OwnModel()
        self._codec: Codec | None = None  # of the run's updates
        self._profile = profile
        self._folder = folder
        self._ports = ports
        self._dial = dial
        self._policy = policy
        self._on_change = on_change
        self._has_joined = False
        self._joining = Joining(profile, folder, self.model, policy, ports.run_in_thread)
        self._visits = Visits(ports, profile.poll_s)
        self._talk = Talk(ports, self._done)
        self._inbox = Inbox()
        self._outbox = Outbox(folder, ports, self._say_trouble)
        self._models = Models(self._talk.say, ports.run_in_thread)
        self._failure: FLError | None = None

    # --- for the program ------------------------------------------------------------------

    async def next_work(self) -> Work | Ending:
        """Return the next task, or how the run ended.

        Raises:
            FLError: If the agent cannot go on.
        """
        if self._failure and not self._inbox.has_next:
            raise self._failure
        work = await self._inbox.next(lambda assign: self._outbox.settled(self.run_id, assign.rollbacks))
        if isinstance(work, Work):
            self._show(AgentState.WORKING, f"round {work.assign.round_id}: {work.assign.kind}")
        return work

    async def store(self, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        """Write a finished update to the outbox; see `Outbox.store`."""
        return await self._outbox.store(write)

    def hold(self, digest: str, arrays: Weights, layout: Layout) -> None:
        """Keep a model that this agent made, so that it is not fetched from where it was sent to."""
        self._models.hold(digest, layout, pack(arrays, layout))

    def _say_trouble(self, reason: str) -> None:
        if reason not in self.line:
            logger.error("%s; what is to be written stays in memory until then", reason)
        self._show(self.state, f"waiting for the disk: {reason}")

    async def hand_in(self, entry: OutboxEntry) -> Verdict:
        """Offer a finished update that is in the outbox; return what became of it."""
        verdict = self._outbox.put(entry)
        self._show(AgentState.SENDING, "sending an update")
        self._visits.wake()
        await self._offer(entry)
        if self._failure and not verdict.done():
            raise self._failure
        return await asyncio.shield(verdict)

    async def _offer(self, entry: OutboxEntry) -> None:
        """Offer an update, and send it behind that if there is room for it."""
        talk, credit = self._talk, self._inbox.credit(entry.task_id)
        session = talk.session
        follows = len(entry.payloads) == 1 and entry.payloads[0].size <= credit
        await talk.say(entry.offer(self._shared_layouts, follows=follows))
        if follows and session is not None and session is talk.session:
            self._outbox.send_unasked(entry, talk.send_framed, talk.packing)

    async def decline(self, task_id: str, code: str, reason: str) -> None:
        """Tell the aggregator that a task will not be answered."""
        self._inbox.take_back(task_id)
        self._inbox.answered(task_id)
        self._show(AgentState.WAITING, "waiting for a task")
        self._queue(Decline(task_id=task_id, code=code, reason=reason))  # type: ignore[arg-type]

    async def leave(self, reason: str) -> None:
        """Say goodbye if there is somebody to say it to, and end."""
        is_away = self._visits.is_pausing and self._failure is None
        self._failure = self._failure or RefusedError(reason, "closed")
        self._visits.wake()
        try:
            async with asyncio.timeout(LEAVE_S):
                if (link := self._talk.link) is not None:
                    await self._talk.say(Leave(reason=reason))
                    await link.close(1000, reason)
                elif is_away:
                    await self._come_to_leave(reason)
        except (TimeoutError, FLError):
            logger.debug("left without a goodbye")

    async def _come_to_leave(self, reason: str) -> None:
        """Say goodbye on a connection of its own, so that nobody waits for the next visit."""
        link, session = await self._dial(), Session(Side.CLIENT)
        try:
            await self._joining.join(link, session, self._held)
            await link.send(session.send(Leave(reason=reason)))
        finally:
            await link.close(1000, reason)

    # --- connecting -----------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the conversation going until the agent is refused, or cancelled."""
        try:
            await self._keep_talking()
        except Exception as error:  # noqa: BLE001 - the program must not wait for ever
            self._break(error)

    async def _keep_talking(self) -> None:
        retries, said = Retries(self._ports.chance), ""
        while self._failure is None:
            begun = self._ports.monotonic()
            trouble = await self._visit()
            if self._failure is not None:
                break
            if trouble is None or self._ports.monotonic() - begun > REAL_CONVERSATION_S:
                retries.begin_anew()
                said = ""
            if trouble is not None:
                said = await self._wait_out(trouble, retries, said)
            elif self.state is AgentState.ENDED:
                await self._visits.wait()  # for an update of a program that is still at work
            else:
                await self._visits.pause()

    async def _visit(self) -> Trouble | None:
        """Have one conversation; return what ended it, None if there was nothing left to say."""
        try:
            await self._meet()
        except ConnectionFailedError as error:
            if error.lasting and not self._has_joined:
                self._fail(error)
            return Trouble(str(error))
        except LinkClosedError as error:
            return Trouble(f"the connection was lost: {error}")
        except RemoteProtocolError as error:
            return Trouble(f"the aggregator broke the protocol: {error}")
        except RefusedError as error:
            if error.is_lasting:
                self._fail(error)
            return Trouble(str(error), error.retry_s)
        return None

    async def _meet(self) -> None:
        """Converse; where the run trains only some arrays, find out first what stays here."""
        try:
            await self._converse(await self._dial())
        except OnlySomeArraysError as word:
            self._show(AgentState.CONNECTING, "computing the digest of the arrays that stay here")
            await self._ports.run_in_thread(self.model.train_only, word.arrays)
            await self._converse(await self._dial())

    async def _wait_out(self, trouble: Trouble, retries: Retries, said: str) -> str:
        """Wait until it is time to try again; return what people were told."""
        if trouble.reason != said:
            logger.warning("%s; trying again until it works", trouble.reason)
        pause_s = retries.pause_s(trouble)
        when = "" if trouble.retry_s is None else f" in {math.ceil(pause_s)} s"
        self._show(AgentState.CONNECTING, f"{trouble.reason}; trying again{when}")
        await asyncio.sleep(pause_s)
        return trouble.reason

    def _break(self, error: BaseException) -> None:
        """Fail by an error that nobody foresaw."""
        if not isinstance(error, FLError):
            logger.error("the agent stopped by a bug of ours", exc_info=error)
            error = FLError(f"the agent stopped by a bug of ours: {type(error).__name__}: {error}")
        self._fail(error)

    def _fail(self, error: FLError) -> None:
        self._failure = error
        self._show(AgentState.ENDED, str(error))
        self._inbox.put_last(error)
        self._outbox.fail(error)

    async def _converse(self, link: Link) -> None:
        """Talk until the connection ends: by an error of some kind, or as an agent that polls hangs up."""
        session = Session(Side.CLIENT)
        watcher = asyncio.create_task(self._talk.watch(link, session, PING_INTERVAL_S))
        try:
            welcome = await self._joining.join(link, session, self._held)
            self._talk.begin(link, session)
            watcher.cancel()
            interval_s = max(welcome.ping_interval_s, SHORTEST_PING_S)
            watcher = asyncio.create_task(self._talk.watch(link, session, interval_s))
            await self._resume(welcome)
            self._ask_for_work()
            while not self._visits.is_over:
                await self._take(session.receive(await link.receive()))
                self._ask_for_work()
            self._talk.end()  # what is handed in from here on is for the next visit
            await link.close(1000, "polled")
        except RemoteProtocolError as error:
            await link.close(error.code, str(error))
            raise
        finally:
            self._talk.end()
            watcher.cancel()
            self._outbox.stop_sending()
            self._models.pause()
            self._inbox.pause()
            await link.close()

    @property
    def _held(self) -> set[str]:
        """The tasks that are here, or their answers."""
        return self._inbox.task_ids.union(self._outbox.task_ids)

    async def _resume(self, welcome: Welcome) -> None:
        """Take up on a new connection what the last one left."""
        is_news = not self._visits.is_over  # else it was away as it should be
        logger.log(
            logging.INFO if is_news else logging.DEBUG,
            "joined run=%s round=%d",
            welcome.run,
            welcome.round_id,
        )
        await self._outbox.follow(algorithm_of(welcome))
        if is_news and (travels := on_the_way(welcome)):
            logger.info("run=%s %s", welcome.run, travels)
        self._visits.begin()
        if not self._has_joined and welcome.packing not in (None, *PACKINGS):
            logger.info("models travel unpacked here; %s would save bytes: %s", welcome.packing, INSTALL)
        self._has_joined = True
        self.run_id = welcome.run_id
        self._codec = from_words(welcome.codec)
        self.model.train_all()
        if welcome.rows is not None:
            self.layout = Layout.from_wire(welcome.rows)
        self._outbox.promote(sorted(welcome.counted, key=welcome.counted.__getitem__))
        if self.state is AgentState.CONNECTING:
            busy = self._inbox.is_handed_out
            self._show(
                AgentState.WORKING if busy else AgentState.WAITING,
                "working on a task" if busy else "waiting for a task",
            )
        await self._talk.say_unsent()
        for offer in self._outbox.offers(self._shared_layouts):
            await self._talk.say(offer)

    @property
    def _shared_layouts(self) -> set[str]:
        """The digests of layouts that the aggregator knows as we do."""
        if self.layout is None:
            return set()
        return {self.layout.digest, (self._codec.layout(self.layout) if self._codec else self.layout).digest}

    def _queue(self, message: Message) -> None:
        """Send a message now, or on the next connection, which then comes at once."""
        self._talk.queue(message)
        self._visits.wake()

    def _done(self, error: BaseException | None) -> None:
        """Something that was under way has ended."""
        if error:
            self._break(error)
        self._ask_for_work()

    # --- polling --------------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        """Whether something is under way on this connection, or still to be said."""
        return self._talk.is_busy or bool(self._outbox.task_ids)

    def _ask_for_work(self) -> None:
        """Poll, if this is an agent that does and it has nothing else to do here."""
        if self._talk.link is not None and self._visits.may_ask and not self._is_busy:
            self._visits.asking = asyncio.create_task(self._poll())
            self._visits.asking.add_done_callback(self._talk.done)

    async def _poll(self) -> None:
        if self._failure is None:  # else it left meanwhile
            await self._talk.say(Poll())

    def _hang_up(self, nothing: Nothing) -> None:
        """Go until the next visit, unless something came up after the question."""
        self._visits.asking = None
        if self._is_busy or self._profile.poll_s is None:
            return  # it is asked again once that is done
        self._visits.end()
        if self.state is AgentState.ENDED:
            return
        every = f"{self._profile.poll_s:g} s"
        if self._inbox.task_ids:
            self._show(AgentState.WORKING, f"working on a task; next look in {every}")
        else:
            because = f": {nothing.reason}" if nothing.reason else ""
            self._show(AgentState.WAITING, f"waiting for a task; looks in every {every}{because}")

    # --- messages -------------------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        if isinstance(message, Chunk):
            await self._models.take(message)
        elif isinstance(message, Assign):
            self._assign(message)
        elif isinstance(message, Sending):
            await self._models.begin(message)
        elif isinstance(message, Send):
            self._outbox.send(message, self._talk.send_framed, self._talk.packing)
        elif isinstance(message, Credit):
            self._outbox.allow(message)
        elif isinstance(message, Verdict):
            self._judged(message)
        elif isinstance(message, Counted):
            self._outbox.promote([message.task_id])
        elif isinstance(message, Hold):
            self._hold(message)
        elif isinstance(message, Waiting):
            if self.state is AgentState.WAITING:
                self._show(self.state, f"waiting for a task: {message.reason}")
        elif isinstance(message, Cancel):
            self._cancel(message)
        elif isinstance(message, RunEnded):
            self._inbox.end(self._talk.spawn(self._end(message)))
        elif isinstance(message, Nothing):
            self._hang_up(message)
        elif isinstance(message, Ping):
            await self._talk.say(Pong())
        elif isinstance(message, Refuse):
            raise refused(message)

    def _hold(self, hold: Hold) -> None:
        line = f"the aggregator asks to wait: {hold.reason}"
        if line != self.line:
            logger.warning("%s; nothing is lost", line)
        self._show(self.state, line)

    # --- tasks ----------------------------------------------------------------------------

    def _assign(self, assign: Assign) -> None:
        task_id = assign.task_id
        for payload in assign.payloads:
            if payload.follows:
                self._models.expect(payload, self.layout or self.model.layout)
        if task_id in self._inbox or task_id in self._outbox:
            return  # said again after a reconnection
        self._inbox.give(assign, self._talk.spawn(self._prepare(assign)))

    async def _prepare(self, assign: Assign) -> None:
        """Ask the policy, fetch what the task needs, and queue it for the program."""
        if assign.kind not in self._profile.kinds:
            await self.decline(assign.task_id, "unsupported", f"this agent does not do {assign.kind}")
            return
        if denial := await denial_of(self._policy, assign, self._ports.run_in_thread):
            await self.decline(assign.task_id, "policy", denial)
            return
        if assign.payloads:
            self._show(AgentState.FETCHING, f"round {assign.round_id}: fetching the model")
        self._models.forget_all_but({payload.digest for payload in assign.payloads})
        arrays = {
            payload.channel: await self._fetch(payload)
            for payload in assign.payloads
            if assign.task_id in self._inbox  # what else belongs to a cancelled task may be gone there
        }
        self._inbox.put(Work(assign, arrays))

    def _cancel(self, cancel: Cancel) -> None:
        if self._inbox.take_back(cancel.task_id):
            self._queue(Decline(task_id=cancel.task_id, code="lost", reason="cancelled before it began"))

    async def _end(self, ended: RunEnded) -> None:
        """Fetch what the run came to, and tell the program."""
        weights = await self._fetch(ended.final) if ended.final else {}
        statistics = await self._fetch(ended.statistics) if ended.statistics else {}
        with contextlib.suppress(TimeoutError):  # else the next start offers again what is left
            async with asyncio.timeout(LAST_VERDICTS_S):
                await self._outbox.all_judged()
        if error := self._outbox.forget_undone(self.run_id, ended.rollbacks):
            logger.warning("%s; what this agent kept may be of rounds that were undone", error)
        self._show(AgentState.ENDED, f"the run {ended.status}: {ended.reason}")
        self._inbox.put_last(Ending(ended.status, ended.reason, ended.round_id, weights, statistics))

    async def _fetch(self, payload: Payload) -> dict[str, Array]:
        """Return the arrays of a payload."""
        layout, data = await self._models.fetch(payload, self.layout or self.model.layout)
        if payload.channel != "weights":
            return views(layout, data)
        self.layout = layout
        return self.model.merged(views(layout, data))

    def _judged(self, verdict: Verdict) -> None:
        self._outbox.judged(verdict)
        self._inbox.answered(verdict.task_id)
        if self.state is AgentState.SENDING:
            self._show(AgentState.WAITING, f"update {verdict.verdict}; waiting for a task")

    def _show(self, state: AgentState, line: str) -> None:
        if (state, line) != (self.state, self.line):
            self.state, self.line = state, line
            self._on_change()
