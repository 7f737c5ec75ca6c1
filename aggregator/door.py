"""The door: who may come in, as what, and the clear words for those who may not."""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from fl_main import __version__
from fl_main.compression.words import in_words
from fl_main.errors import FLError, LocalProtocolError, RemoteProtocolError, StoreError, WeightsError
from fl_main.events import AgentJoined, AgentRefused
from fl_main.frozen import arrays_setting
from fl_main.messages import Ask, Join, Operate, Ping, Pong, Refuse, Reply, Welcome
from fl_main.ports import GuestLink, Link, LinkClosedError
from fl_main.session import Session, Side, State
from fl_main.tally import Tally, is_told, network_of
from fl_main.weights import Layout
from fl_main.why import findings

from .guesses import Guesses
from .host import RunHost
from .pace import Turns
from .runs import Runs
from .sessions import AgentSession, Shared
from .visitors import Visitors

logger = logging.getLogger("fl_main.aggregator")

MAX_REFUSALS = 1000
FULL_RETRY_S = 10.0  # when to look whether somebody left
TAKEN_OVER = (
    "a newer process took over this agent's identity: two programs use one state folder, or copies of it; "
    "give each one of its own"
)
SOFTWARE = f"fl_main {__version__}"

# Carries out an operator's order: (actor, ask) -> content of the reply.
CarryOut = Callable[[str, Ask], Awaitable[dict[str, Any]]]


class Refusal(FLError):
    """Why someone may not come in.

    Attributes:
        message: What the peer is told.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        lasting: bool = True,
        retry_s: float = 5.0,
        arrays: Sequence[str] = (),
    ) -> None:
        super().__init__(reason)
        self.message = Refuse(code=code, reason=reason, lasting=lasting, retry_s=retry_s, arrays=list(arrays))


class Door:
    """Greets every new connection and serves it until it ends.

    Attributes:
        sessions: Joined agents by (run, agent id).
        is_closing: Set when the daemon stops: nobody comes in any more.
        refusals: Agents that were not let in last, by (run, agent id), until they are.
        guesses: Wrong tokens.
    """

    def __init__(
        self, runs: Runs, shared: Shared, join_token: str, operator_token: str, carry_out: CarryOut
    ) -> None:
        self.sessions: dict[tuple[str, str], AgentSession] = {}
        self.is_closing = False
        self._runs = runs
        self._shared = shared
        self._join_token = join_token
        self._operator_token = operator_token
        self._carry_out = carry_out
        self.refusals: dict[tuple[str, str], findings.Refusal] = {}
        self.guesses = Guesses(shared.ports, shared.limits.join_s)
        self._turned_away = Tally(shared.ports.monotonic)
        self._turns = Turns(shared.limits.joins_per_s)
        self._last_layout: Layout | None = None
        self._visitors = Visitors()
        self._entering: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def serve(self, link: GuestLink) -> None:
        """Serve one connection; every way it can end is handled here."""
        session = Session(Side.AGGREGATOR)
        try:
            if agent := await self._greeted(link, session):  # what it said of itself is let go with that
                await self._attend(agent)
        except LinkClosedError:
            pass
        except TimeoutError:
            limits = self._shared.limits
            patience_s = limits.join_s if session.state is State.NEW else limits.ping_timeout_s
            await link.close(1008, f"no word within {patience_s:g} s")
        except RemoteProtocolError as error:
            self._say_refused(link, self._turned_away.count(network_of(link.peer)), error)
            await link.close(error.code, str(error))
        except Refusal as refusal:
            # Without its traceback: what the peer said would stay in memory while it waits.
            await self._refuse(link, session, refusal.with_traceback(None))

    async def _refuse(self, link: Link, session: Session, refusal: Refusal) -> None:
        """Say why somebody may not come in; the more tokens were guessed, the later."""
        code, late_s = refusal.message.code, 0.0
        if code == "bad_token":
            number, late_s = self.guesses.wrong(link.peer)
        else:
            number = self._turned_away.count((network_of(link.peer), code))
        self._say_refused(link, number, refusal)
        with contextlib.suppress(LinkClosedError):  # it may have hung up already
            if late_s:
                await _ignored(link, late_s)
            await link.send(session.send(refusal.message))
        await link.close(1008, str(refusal))

    def _say_refused(self, link: Link, number: int, reason: FLError) -> None:
        is_step = isinstance(reason, Refusal) and reason.message.arrays  # of joining: it comes again at once
        if is_told(number) and not is_step:
            logger.warning("refused peer=%s: %s (%d from there lately)", link.peer, reason, number)

    async def _greeted(self, link: GuestLink, session: Session) -> AgentSession | None:
        """Hear who somebody is; return the seated agent, and serve an operator."""
        async with asyncio.timeout(self._shared.limits.join_s):
            first = session.receive(await link.receive())
        if self.is_closing:
            raise Refusal(
                "stopping", "the aggregator is stopping; try again soon", lasting=False, retry_s=1.0
            )
        if isinstance(first, Operate):
            await self._operator(link, session, first)
        elif isinstance(first, Join):
            try:
                return await self._seated(link, session, first)
            except Refusal as refusal:
                self._remember(first, refusal.message)
                raise
        return None

    # --- agents ---------------------------------------------------------------------------

    async def _seated(self, link: GuestLink, session: Session, join: Join) -> AgentSession:
        """Give an agent its seat in its run."""
        host, layout = self._admit(join)
        if host.journal.is_full:
            trouble = f"nothing can be stored at the moment: {host.journal.trouble}"
            raise Refusal("trouble", trouble, lasting=False)
        key = (join.run, join.agent_id)
        async with self._entering.setdefault(key, asyncio.Lock()):
            await self._fence(host, join)
            agent = AgentSession(link, session, _without_lists(join), host, self._shared)
            try:
                welcome = await self._welcome(host, join)
            except StoreError as error:
                raise Refusal("trouble", str(error), lasting=False) from error
            # From here to its seat nothing is waited for: what is said meanwhile it would never hear.
            link.trust(lambda: agent.credit)
            agent.post(welcome)
            self.sessions[key] = agent
            self._visitors.note(join)
            self.refusals.pop(key, None)
            host.seats[join.agent_id] = agent
            host.tell(
                AgentJoined(
                    join.agent_id,
                    join.name,
                    tuple(join.kinds),
                    join.attributes,
                    layout,
                    tuple(join.held),
                    join.software,
                    join.poll_s,
                    join.frozen,
                )
            )
        return agent

    async def _attend(self, agent: AgentSession) -> None:
        """Serve an agent until its connection ends, and clear its seat."""
        key = (agent.join.run, agent.join.agent_id)
        try:
            await agent.serve()
        finally:
            if self.sessions.get(key) is agent:
                del self.sessions[key]
                agent.host.seats.pop(agent.join.agent_id, None)

    def _remember(self, join: Join, refuse: Refuse) -> None:
        """Keep why an agent was not let in; its run stores that once, unless it is a stranger."""
        if refuse.code == "busy" or refuse.arrays:  # it need only come again
            return
        key = (join.run, join.agent_id)
        before = self.refusals.pop(key, None)
        again = before is not None and before.code == refuse.code
        times = before.times + 1 if before is not None and again else 1
        self.refusals[key] = findings.Refusal(
            join.agent_id,
            join.name,
            join.run,
            refuse.code,
            refuse.reason,
            self._shared.ports.wall_time(),
            times,
        )
        while len(self.refusals) > MAX_REFUSALS:
            del self.refusals[next(iter(self.refusals))]
        host = self._runs.find(join.run)
        if host is not None and not again and refuse.code not in ("bad_token", "trouble", "full"):
            host.tell(AgentRefused(join.agent_id, join.name, refuse.code, refuse.reason))

    def _admit(self, join: Join) -> tuple[RunHost, Layout | None]:
        """Return the run that an agent asks for, and the layout that it states."""
        wanted = self._join_token
        if wanted and not hmac.compare_digest(join.token.encode(), wanted.encode()):
            fault = "is not the aggregator's" if join.token else "is missing: the aggregator wants one"
            raise Refusal("bad_token", f"the join token {fault}")
        host = self._runs.find(join.run)
        if not (host and _is_visit(host, join)):
            self._require_turn((join.run, join.agent_id))
        if host is None:
            names = ", ".join(sorted(run.run.name for run in self._runs)) or "none yet"
            raise Refusal(
                "unknown_run", f"there is no run {join.run!r} (runs: {names}); create one: fl run create FILE"
            )
        self._require_digest(join)
        self._require_room((join.run, join.agent_id))
        layout = self._stated_layout(host, join)
        self._require_frozen(host, layout, join)
        machine = host.machine
        if refusal := (
            machine.refusal(layout, join.frozen)
            or machine.poll_refusal(join.poll_s)
            or machine.codec_refusal(join.codecs, join.software)
        ):
            raise Refusal(*refusal)
        return host, layout

    def _require_frozen(self, host: RunHost, layout: Layout | None, join: Join) -> None:
        """Tell an agent which arrays the run trains, unless it knows."""
        try:
            if not host.machine.is_to_say_frozen(layout, join.frozen):
                return
        except WeightsError as error:
            raise Refusal("frozen", str(error)) from error
        arrays = host.settings.compression.arrays
        # What an agent reads that is too old to know the field.
        reason = f"the run trains only arrays of {arrays_setting(arrays)}: upgrade fl_main at its site"
        raise Refusal("frozen", reason, arrays=arrays)

    def _require_turn(self, key: tuple[str, str]) -> None:
        """Spread a crowd that comes at once."""
        if wait_s := self._turns.wait_s(key, self._shared.ports.monotonic()):
            most = self._shared.limits.joins_per_s
            reason = f"more than {most:g} agents per second join; its turn is in {wait_s:.1f} s"
            raise Refusal("busy", reason, lasting=False, retry_s=wait_s)

    def _require_digest(self, join: Join) -> None:
        """Refuse an agent that could not check a single model of this database."""
        algorithm = self._shared.store.algorithm
        if algorithm not in join.digest_algorithms:
            reason = (
                f"model files are named by {algorithm} digests here, and {join.software or 'this agent'} "
                "cannot compute them: install a newer fl_main"
            )
            raise Refusal("digest", reason)

    def _require_room(self, key: tuple[str, str]) -> None:
        """Let no more in than the limit, those counted who are about to be welcomed."""
        inside = self.sessions.keys() | self._entering.keys()
        if key not in inside and len(inside) >= self._shared.limits.agents:
            reason = f"{len(inside)} agents are connected, the limit (limits.agents)"
            raise Refusal("full", reason, lasting=False, retry_s=FULL_RETRY_S)

    def _stated_layout(self, host: RunHost, join: Join) -> Layout | None:
        """Return the layout that an agent states: of a thousand equal ones, one stays in memory."""
        if join.rows is None:
            return None
        try:
            stated = Layout.from_wire(join.rows)
        except WeightsError as error:
            raise RemoteProtocolError(f"join: {error}") from error
        for known in (host.machine.layout, self._last_layout):
            if known is not None and known.digest == stated.digest:
                return known
        self._last_layout = stated
        return stated

    async def _fence(self, host: RunHost, join: Join) -> None:
        """End an older session of the same identity before the new one may do anything."""
        member = host.machine.members.get(join.agent_id)
        if self._visitors.is_outdated(join, is_here=member is not None and member.is_present):
            raise Refusal("fenced", TAKEN_OVER)
        older = self.sessions.get((join.run, join.agent_id))
        if older is None:
            return
        if older.join.instance_id != join.instance_id and older.join.start_number > join.start_number:
            raise Refusal("fenced", TAKEN_OVER)
        same = older.join.instance_id == join.instance_id
        notice = Refuse(code="fenced", reason=TAKEN_OVER)
        await older.close(1008, "replaced by a newer connection", None if same else notice)

    async def _welcome(self, host: RunHost, join: Join) -> Welcome:
        said, counted = -1, dict[str, int]()
        while said != host.counted:  # what counts while we look, nobody is told: look again
            said, counted = host.counted, await self._counted(join)
        run, settings, machine = host.run, host.settings, host.machine
        layout = machine.layout
        return Welcome(
            session_id=self._shared.ports.new_id(),
            run=run.name,
            run_id=run.run_id,
            purpose=settings.purpose,
            settings_digest=run.settings_digest,
            kinds=host.kinds(),
            stores_local_models=self._shared.retention,
            round_id=run.round_id,
            rows=layout.to_wire() if layout else None,
            counted=counted,
            ping_interval_s=self._shared.limits.ping_interval_s,
            software=SOFTWARE,
            packing=None if settings.compression.lossless == "none" else settings.compression.lossless,
            digest_algorithm=self._shared.store.algorithm,
            form=settings.form,
            codec=in_words(machine.codec),
            feeds_back=settings.compression.feeds_back,
            download=in_words(machine.download_codec),
        )

    async def _counted(self, join: Join) -> dict[str, int]:
        """Return in which rounds the updates counted whose fate the agent does not know."""
        counted: dict[str, int] = {}
        for task_id in (*join.held, *join.uncounted):
            found = await self._shared.ports.run_in_writer(self._shared.store.find_task, task_id)
            if found and found[1] and found[1].counted_in is not None:
                counted[task_id] = found[1].counted_in
        return counted

    # --- operators ------------------------------------------------------------------------

    async def _operator(self, link: GuestLink, session: Session, operate: Operate) -> None:
        known = self._operator_token.encode()
        if not known or not hmac.compare_digest(operate.token.encode(), known):  # nobody knows no token
            fault = "this needs the operator's token"
            if operate.token:
                fault = "this is not the operator's token of this aggregator"
            raise Refusal("bad_token", f"{fault}: --database its folder, or FL_OPERATOR_TOKEN")
        link.trust(lambda: 0)
        while True:
            async with asyncio.timeout(self._shared.limits.ping_timeout_s):
                message = session.receive(await link.receive())
            if isinstance(message, Ask):
                await link.send(self._said(session, await self._reply(operate.actor, message)))
            elif isinstance(message, Ping):
                await link.send(session.send(Pong()))

    async def _reply(self, actor: str, ask: Ask) -> Reply:
        try:
            return Reply(number=ask.number, content=await self._carry_out(actor, ask))
        except FLError as error:
            return Reply(number=ask.number, error=str(error))

    def _said(self, session: Session, reply: Reply) -> bytes:
        """Return the frame of a reply, or of the reason why there is none."""
        try:
            return session.send(reply)
        except LocalProtocolError as error:
            return session.send(Reply(number=reply.number, error=str(error)))

    # --- closing --------------------------------------------------------------------------

    async def close(self) -> None:
        """Tell every agent that the daemon stops, and wait for their sessions to end."""
        self.is_closing = True
        sessions = list(self.sessions.values())
        await asyncio.gather(*(session.close(1001, "the aggregator is stopping") for session in sessions))


def _without_lists(join: Join) -> Join:
    """Return what a session needs to keep of a join: a thousand of them stay in memory."""
    return join.model_copy(update={"rows": None, "uncounted": []})


async def _ignored(link: Link, seconds: float) -> None:
    """Let some time pass, and everything that comes meanwhile; ends early if the peer hangs up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                await link.receive()


def _is_visit(host: RunHost, join: Join) -> bool:
    """Whether an agent that polls looks in as it is to: it was let in before, and must not miss its time."""
    member = host.machine.members.get(join.agent_id)
    return join.poll_s is not None and member is not None and member.hung_up_at is not None
