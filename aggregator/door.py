"""The door: who may come in, as what, and the clear words for those who may not."""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from fl_main import __version__
from fl_main.errors import FLError, LocalProtocolError, RemoteProtocolError, StoreError, WeightsError
from fl_main.events import AgentJoined, AgentRefused
from fl_main.messages import Ask, Join, Operate, Ping, Pong, Refuse, Reply, Welcome
from fl_main.ports import Link, LinkClosedError
from fl_main.session import Session, Side, State
from fl_main.weights import Layout
from fl_main.why import findings

from .host import RunHost
from .runs import Runs
from .sessions import AgentSession, Shared

logger = logging.getLogger("fl_main.aggregator")

MAX_REFUSALS = 1000
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

    def __init__(self, code: str, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.message = Refuse(code=code, reason=reason, lasting=lasting)


class Door:
    """Greets every new connection and serves it until it ends.

    Attributes:
        sessions: Joined agents by (run, agent id).
        is_closing: Set when the daemon stops: nobody comes in any more.
        refusals: Agents that were not let in last, by (run, agent id), until they are.
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
        self._entering: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def serve(self, link: Link) -> None:
        """Serve one connection; every way it can end is handled here."""
        session = Session(Side.AGGREGATOR)
        try:
            await self._greet(link, session)
        except LinkClosedError:
            pass
        except TimeoutError:
            limits = self._shared.limits
            patience_s = limits.join_s if session.state is State.NEW else limits.ping_timeout_s
            await link.close(1008, f"no word within {patience_s:g} s")
        except RemoteProtocolError as error:
            logger.warning("refused peer=%s: %s", link.peer, error)
            await link.close(error.code, str(error))
        except Refusal as refusal:
            logger.warning("refused peer=%s: %s", link.peer, refusal)
            with contextlib.suppress(LinkClosedError):  # it may have hung up already
                await link.send(session.send(refusal.message))
            await link.close(1008, str(refusal))

    async def _greet(self, link: Link, session: Session) -> None:
        async with asyncio.timeout(self._shared.limits.join_s):
            first = session.receive(await link.receive())
        if self.is_closing:
            raise Refusal("stopping", "the aggregator is stopping; try again soon", lasting=False)
        if isinstance(first, Operate):
            await self._operator(link, session, first)
        elif isinstance(first, Join):
            try:
                await self._agent(link, session, first)
            except Refusal as refusal:
                self._remember(first, refusal.message)
                raise

    # --- agents ---------------------------------------------------------------------------

    async def _agent(self, link: Link, session: Session, join: Join) -> None:
        host, layout = self._admit(join)
        if host.journal.is_full:
            trouble = f"nothing can be stored at the moment: {host.journal.trouble}"
            raise Refusal("trouble", trouble, lasting=False)
        key = (join.run, join.agent_id)
        async with self._entering.setdefault(key, asyncio.Lock()):
            await self._fence(key, join)
            agent = AgentSession(link, session, join, host, self._shared)
            try:
                welcome = await self._welcome(host, join)
            except StoreError as error:
                raise Refusal("trouble", str(error), lasting=False) from error
            await link.send(session.send(welcome))
            self.sessions[key] = agent
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
                )
            )
        try:
            await agent.serve()
        finally:
            if self.sessions.get(key) is agent:
                del self.sessions[key]
                host.seats.pop(join.agent_id, None)

    def _remember(self, join: Join, refuse: Refuse) -> None:
        """Keep why an agent was not let in; its run stores that once, unless it is a stranger."""
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
        if host is not None and not again and refuse.code not in ("bad_token", "trouble"):
            host.tell(AgentRefused(join.agent_id, join.name, refuse.code, refuse.reason))

    def _admit(self, join: Join) -> tuple[RunHost, Layout | None]:
        """Return the run that an agent asks for, and the layout that it states."""
        wanted = self._join_token
        if wanted and not hmac.compare_digest(join.token.encode(), wanted.encode()):
            raise Refusal("bad_token", "the join token is not the aggregator's")
        host = self._runs.find(join.run)
        if host is None:
            names = ", ".join(sorted(run.run.name for run in self._runs)) or "none yet"
            raise Refusal(
                "unknown_run", f"there is no run {join.run!r} (runs: {names}); create one: fl run create FILE"
            )
        if len(self.sessions) >= self._shared.limits.agents:
            raise Refusal("full", f"{len(self.sessions)} agents are connected, the limit", lasting=False)
        layout = _stated_layout(join)
        if refusal := host.machine.refusal(layout):
            raise Refusal(*refusal)
        return host, layout

    async def _fence(self, key: tuple[str, str], join: Join) -> None:
        """End an older session of the same identity before the new one may do anything."""
        older = self.sessions.get(key)
        if older is None:
            return
        if older.join.instance_id != join.instance_id and older.join.start_number > join.start_number:
            raise Refusal("fenced", TAKEN_OVER)
        same = older.join.instance_id == join.instance_id
        notice = Refuse(code="fenced", reason=TAKEN_OVER)
        await older.close(1008, "replaced by a newer connection", None if same else notice)

    async def _welcome(self, host: RunHost, join: Join) -> Welcome:
        run, settings = host.run, host.settings
        layout = host.machine.layout
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
            counted=await self._counted(join),
            ping_interval_s=self._shared.limits.ping_interval_s,
            software=SOFTWARE,
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

    async def _operator(self, link: Link, session: Session, operate: Operate) -> None:
        known = self._operator_token.encode()
        if not known or not hmac.compare_digest(operate.token.encode(), known):  # nobody knows no token
            raise Refusal(
                "bad_token", "this needs the operator's token: --database its folder, or FL_OPERATOR_TOKEN"
            )
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


def _stated_layout(join: Join) -> Layout | None:
    if join.rows is None:
        return None
    try:
        return Layout.from_wire(join.rows)
    except WeightsError as error:
        raise RemoteProtocolError(f"join: {error}") from error
