"""A whole system in virtual time: one aggregator, its sites, their machines and the network.

Everything is real but what the ports are: the daemon with its rounds and sessions, the model
database, the agents with their outboxes. What happens follows from the seed alone.
"""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from fl_main.aggregator import uploads
from fl_main.aggregator.operator import OrderFailedError, _answer
from fl_main.aggregator.server import Daemon
from fl_main.codec import decode
from fl_main.errors import FLError, StateFolderError, StoreError
from fl_main.messages import Ask, Verdict, Welcome
from fl_main.ports import LinkClosedError
from fl_main.settings import AggregatorSettings, RunSettings

from .database import SimStore
from .loop import NeverEndsError, VirtualLoop
from .machine import Machine
from .network import Network, SimLink, SimListener
from .process import CURRENT, Killed, Process, task_factory
from .scenario import FAST_S, Faults, Scenario, SiteFacts, Trouble
from .sites import SiteRecord, attend
from .watch import Watch, watched

JUDGED_S = 120.0  # between two judgements of the operator, at most
PATIENCE_S = 5000.0  # of virtual time, after the last fault: longer than any wait of ours
CHUNK = 256  # bytes: so that a small model, too, comes in many pieces
SCALE = {
    "fl_main.agent.transfers.CHUNK_BYTES": CHUNK,
    "fl_main.aggregator.downloads.CHUNK_BYTES": CHUNK,
    "fl_main.aggregator.downloads.BATCH_BYTES": 4 * CHUNK,
    "fl_main.aggregator.uploads.WINDOW_BYTES": 4 * CHUNK,
    "fl_main.aggregator.uploads.SMALL_BYTES": 2 * CHUNK,
}


@dataclass(slots=True)
class Ended:
    """What is left of a simulation, for the invariants.

    Attributes:
        faults_seen: How often each kind of fault struck.
        accepted: Tasks whose update was answered *accepted* on the wire.
        broken: What went wrong already.
        left: What the daemon still held when it had stopped.
        story: Every line of it.
    """

    scenario: Scenario
    database: Path
    sites: dict[str, SiteRecord]
    folders: dict[str, Path]
    faults_seen: dict[str, int] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    seconds: float = 0.0


class World:
    """One simulation.

    Args:
        scenario: The run.
        faults: What goes wrong.
        folder: A real folder for everybody's files.
    """

    def __init__(self, scenario: Scenario, faults: Faults, folder: Path) -> None:
        self._folder = folder
        self._scenario = scenario
        self._faults = faults
        self._random = Random(f"{scenario.seed} world")
        self._machines = {
            name: Machine(folder / name, Random(f"{scenario.seed} {name}"), loses_power=faults.loses_power)
            for name in ("aggregator", *(site.name for site in scenario.sites))
        }
        self._kills_left = faults.kills
        self._is_calm = self._is_over = False
        self._daemon: Daemon | None = None
        self._stop_daemon = asyncio.Event()
        self._operator = asyncio.Lock()
        self._rollbacks_left = len(faults.rollbacks)
        self._processes: dict[str, Process] = {}
        self.ended = Ended(
            scenario,
            folder / "aggregator" / "models",
            {site.name: SiteRecord() for site in scenario.sites},
            {site.name: folder / site.name for site in scenario.sites},
        )
        self.watch = Watch(scenario, self.ended.broken, lambda: asyncio.get_running_loop().time())
        self._network = Network(Random(f"{scenario.seed} network"), faults.weather, self.say, self._saw_frame)

    # --- the story ------------------------------------------------------------------------

    def say(self, who: str, what: str) -> None:
        """Add a line to the story."""
        what = what.replace(str(self._folder), "")  # another one each time
        self.ended.story.append(f"{asyncio.get_running_loop().time():11.4f}  {who:<12} {what}")

    def _count(self, kind: str) -> None:
        self.ended.faults_seen[kind] = self.ended.faults_seen.get(kind, 0) + 1

    def _saw_frame(self, link: SimLink, frame: bytes) -> None:
        is_of_interest = len(frame) < 4000 and (b"accepted" in frame or b"welcome" in frame)
        message = decode(frame) if is_of_interest else None
        if isinstance(message, Verdict) and message.verdict == "accepted":
            self.ended.accepted.add(message.task_id)
        elif isinstance(message, Welcome):
            self.watch.welcomed(link.peer)

    # --- life -----------------------------------------------------------------------------

    async def run(self) -> Ended:
        """Let everything happen."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory)
        loop.set_exception_handler(self._uncaught)
        chores = [asyncio.create_task(self._keep_daemon()), *map(asyncio.create_task, self._chores())]
        sites = [asyncio.create_task(self._keep_site(site)) for site in self._scenario.sites]
        done, waiting = await asyncio.wait(sites, timeout=self._faults.until_s + PATIENCE_S)
        for task in done:
            task.result()
        if waiting:
            self._say_where_they_wait()
            self.ended.broken.append(f"the run did not end: {self._waiting_for()}")
        self.ended.seconds = loop.time()
        await self._calm()
        await self._stop_in_order()
        for task in [*chores, *waiting]:
            task.cancel()
        await asyncio.gather(*chores, *waiting, return_exceptions=True)
        return self.ended

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        process = CURRENT.get()
        if isinstance(error, Killed) or (process is not None and process.is_dead):
            return
        self.ended.broken.append(f"uncaught: {context.get('message')}: {error!r}")

    def _say_where_they_wait(self) -> None:
        for process in self._processes.values():
            for task in process.tasks:
                frames = [f"{f.f_code.co_qualname}:{f.f_lineno}" for f in task.get_stack()]
                self.say(process.name, f"waits in {' > '.join(frames)}")

    def _waiting_for(self) -> str:
        if self._daemon is None or self._processes["aggregator"].is_dead:
            return "there is no daemon"
        return "; ".join(str(run) for run in self._daemon.status()["runs"])

    def _chores(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._end_faults()
        for trouble in self._faults.troubles:
            yield self._trouble(trouble)
        for at_s, order in self._faults.orders:
            yield self._order(at_s, order)
        for at_s, part in self._faults.rollbacks:
            yield self._roll_back(at_s, part)
        for at_s, machine, jump_s in self._faults.clock_jumps:
            yield self._jump(at_s, machine, jump_s)
        if self._scenario.run.get("quarantine"):
            yield self._judge()

    def _process(self, name: str) -> Process:
        calls = None
        if self._kills_left > 0 and not self._is_calm:
            calls = 1 + int(self._random.expovariate(1 / self._faults.mean_calls))
        random = Random(f"{self._random.random()}")
        process = Process(name, random, self._faults.thread_s, calls, self._killed)
        if name in self._processes:
            process.wall_offset_s = self._processes[name].wall_offset_s
        self._processes[name] = process
        return process

    def _killed(self, process: Process, what: str) -> None:
        self._kills_left -= 1
        self._count("kill")
        told = self._random.random() < 0.8
        self.say(process.name, f"is killed: {what}{'' if told else ', and nobody is told'}")
        self._network.stop_listening(process)
        self._network.hang_up(process, told=told)
        if self._faults.loses_power:
            process.at_the_end(self._machines[process.name].lose_power)
            self._count("loss of power")

    async def _keep(self, name: str, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Start a process, and start it again whenever it is killed: what systemd does."""
        while True:
            process = self._process(name)
            self.say(name, "starts")
            task = process.run(main(process))
            await asyncio.wait([task])
            if not process.is_dead:
                process.kill_quietly()
                try:
                    task.result()
                    return
                except (StoreError, StateFolderError) as error:
                    self.say(name, f"ends: {error}")
            await asyncio.sleep(self._random.choice([0.1, 1.0, 20.0]))

    async def _keep_site(self, site: SiteFacts) -> None:
        record, machine = self.ended.sites[site.name], self._machines[site.name]
        machine.folder.mkdir(parents=True, exist_ok=True)

        async def main(process: Process) -> None:
            await attend(
                self._scenario,
                site,
                record,
                process,
                machine,
                self._network,
                lambda: self._rollbacks_left > 0,
            )

        try:
            await self._keep(site.name, main)
        except (FLError, AssertionError) as error:
            self.ended.broken.append(f"{site.name} raised {type(error).__name__}: {error}")

    async def _keep_daemon(self) -> None:
        self._machines["aggregator"].folder.mkdir(parents=True, exist_ok=True)
        while not self._is_over:
            self._stop_daemon.clear()
            try:
                await self._keep("aggregator", self._aggregate)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug of ours
                self.ended.broken.append(f"the daemon raised {type(error).__name__}: {error}")
                return

    async def _aggregate(self, process: Process) -> None:
        """The daemon's program: what `fl_main.aggregator.Aggregator` does with real ports."""
        settings = AggregatorSettings.model_validate(
            {"database": self._scenario.database, "limits": self._scenario.limits}
        )
        runs = [RunSettings.model_validate(self._scenario.run)]
        machine = self._machines["aggregator"]
        store = SimStore(self.ended.database, settings.database, machine, process, self.watch)
        for damage in store.damages:
            self.ended.broken.append(f"damage: {damage}")
        listener = SimListener(self._network, process)
        self._daemon = daemon = Daemon(
            settings, runs, store, process.ports(), listener, join_token="", operator_token="o"
        )
        daemon._shared.budget = uploads.Budget(8 * CHUNK, process.ports().monotonic)  # 2 for early grants
        await daemon.start()
        await self._stop_daemon.wait()
        await daemon.stop()
        self.ended.left = {
            "bytes of credit": daemon._shared.budget.total - daemon._shared.budget._left,
            "sessions": len(daemon.door.sessions),
            **{repr(task.get_coro()): 1 for task in process.tasks if task is not asyncio.current_task()},
        }
        store.close()

    async def _stop_in_order(self) -> None:
        self._is_over = True
        self._stop_daemon.set()
        for _ in range(100):
            if all(p.is_dead or not p.tasks for p in self._processes.values()):
                return
            await asyncio.sleep(1.0)
        self.ended.broken.append("the daemon did not stop")

    # --- faults ---------------------------------------------------------------------------

    async def _end_faults(self) -> None:
        await asyncio.sleep(self._faults.until_s)
        await self._calm()

    async def _calm(self) -> None:
        """From here on nothing goes wrong any more."""
        if self._is_calm:
            return
        self._is_calm = True
        self._kills_left = 0
        self._faults.weather.clear_up()
        for process in self._processes.values():
            process.live_on()
        for machine in self._machines.values():
            machine.fault = machine.database_fault = None
        self.say("world", "is calm from here on")
        if self._daemon is not None and self._faults.orders:
            await self._order(0.0, "resume")

    async def _trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.begins_s)
        machine = self._machines[trouble.machine]
        self._count("disk trouble")
        self.say(trouble.machine, f"has trouble with its disk: {trouble.fault} {trouble.database_fault}")
        machine.fault, machine.database_fault = trouble.fault, trouble.database_fault
        await asyncio.sleep(trouble.ends_s - trouble.begins_s)
        machine.fault = machine.database_fault = None
        self.say(trouble.machine, "has no trouble with its disk any more")

    async def _jump(self, at_s: float, machine: str, jump_s: float) -> None:
        await asyncio.sleep(at_s)
        if machine in self._processes:
            self._count("clock jump")
            self.say(machine, f"finds that its clock jumped by {jump_s:.0f} s")
            self._processes[machine].wall_offset_s += jump_s

    async def _judge(self) -> None:
        """An operator releases all sites again and again, and now and then leaves one out."""
        random = Random(f"{self._scenario.seed} judge")
        while True:
            await asyncio.sleep(random.uniform(10.0, JUDGED_S))
            for site in self._scenario.sites:
                is_guilty = not self._is_calm and random.random() < 0.1
                await self._order(0.0, "quarantine" if is_guilty else "release", site.name)

    async def _roll_back(self, at_s: float, part: float) -> None:
        """Let the run go on from one of its rounds; sites come again until that is done, if it was over."""
        await asyncio.sleep(at_s)
        try:
            host = self._daemon.runs.find("r") if self._daemon else None
            made = round(part * host.run.round_id) if host else 0
            await self._order(0.0, "rollback", to=made)
        finally:
            self._rollbacks_left -= 1

    async def _order(self, at_s: float, order: str, about: str = "", to: int = 0) -> None:
        await asyncio.sleep(at_s)
        self._count(order)
        self.say("operator", f"{order} {about or to or ''}".strip())
        if order == "restart":
            self._stop_daemon.set()
            return
        async with self._operator:  # one order after the other, each until it is answered
            while not await self._ordered(order, about, to):
                await asyncio.sleep(10.0)
                if self._is_calm and order not in ("resume", "release"):
                    return

    async def _ordered(self, order: Any, about: str, to: int) -> bool:
        process = Process("operator", Random(0), FAST_S, None, lambda *_: None)
        try:
            link = await self._network.dial(process)
            answer = process.run(_answer(link, "o", Ask(number=1, order=order, run="r", about=about, to=to)))
            await asyncio.wait_for(answer, 30.0)
            await link.close()
        except OrderFailedError as error:
            self.say("operator", f"was told: {error}")
        except (FLError, LinkClosedError, TimeoutError) as error:
            self.say("operator", f"was told: {error}")
            return False
        return True


class _StoryHandler(logging.Handler):
    """Log lines of live processes are part of the story."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = CURRENT.get()
        if process is not None and process.is_dead:
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._world.say(process.name if process else "world", text)
        if record.levelno >= logging.CRITICAL or "bug of ours" in text or record.exc_info:
            self._world.ended.broken.append(text)


@contextmanager
def _told(world: World) -> Iterator[None]:
    logger, handler = logging.getLogger("fl_main"), _StoryHandler(world)
    before = (logger.handlers[:], logger.level, logger.propagate)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def simulate(scenario: Scenario, faults: Faults, folder: Path) -> Ended:
    """Run a simulation to its end and return what is left of it; its files stay in the folder."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    with ExitStack() as stack:
        for name, value in SCALE.items():
            stack.enter_context(patch(name, value))
        try:
            world = World(scenario, faults, folder)
            stack.enter_context(_told(world))
            stack.enter_context(watched(world.watch))
            try:
                return loop.run_until_complete(world.run())
            except NeverEndsError as error:
                world.ended.broken.append(str(error))
                return world.ended
        finally:
            _end(loop)


def _end(loop: VirtualLoop) -> None:
    loop.set_exception_handler(lambda loop, context: None)
    loop.go_on()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    for _ in range(20):
        loop.call_soon(loop.stop)
        loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    asyncio.set_event_loop(None)
    loop.close()


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for one simulation, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fl-simulation-", dir=memory if memory.is_dir() else None)
