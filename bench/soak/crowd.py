"""A thousand sites that come, train, break and leave."""

import asyncio
import itertools
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from bench.soak.agents import SoakAgent
from bench.soak.options import RUN, Options
from fl_main.agent import Final
from fl_main.weights import Array

LAYERS = 20
FILE_THREADS = 4  # of all agents together
AWAY_S = 5.0  # that a site is down after a crash, on average
HOST_OF = 10  # sites that crash together
POLL_S = 5.0
FAREWELL_S = 120.0  # for all agents to fetch the last model and leave


class Site:
    """One site: a program that takes part until it is stopped, in good order or not.

    Attributes:
        accepted: Tasks whose update was accepted, as the site was told.
        final: What the run came to.
    """

    def __init__(self, number: int, crowd: "Crowd") -> None:
        self.number = number
        self.accepted: set[str] = set()
        self.final: Final | None = None
        self._crowd = crowd
        self._folder = crowd.options.folder / "sites" / str(number)
        self._agent: SoakAgent | None = None
        self._program: asyncio.Task[None] | None = None

    @property
    def program(self) -> "asyncio.Task[None]":
        """Its program."""
        assert self._program is not None, "not started"
        return self._program

    @property
    def line(self) -> str:
        """What its agent says that it does."""
        return self._agent._connected.client.line if self._agent else "not started"

    def start(self) -> None:
        """Start the program, with the state folder of the last time if there was one."""
        self._program = asyncio.create_task(self._run(), name=f"site {self.number}")

    async def _run(self) -> None:
        try:
            await self._take_part()
        except Exception as error:  # noqa: BLE001 - whatever it is, the verdict tells it
            self._crowd.problems.append(f"site {self.number} failed: {type(error).__name__}: {error}")

    async def _take_part(self) -> None:
        agent = self._agent = self._made()
        await agent._in_thread(agent.start)
        async for task in agent.tasks():
            await asyncio.sleep(self._crowd.pause_s())
            receipt = await task.submit(
                trained(task.weights, self.number), self.number % 9 + 1, {"loss": 1 / task.round_id}
            )
            self._crowd.counts[f"updates {receipt.verdict if receipt else 'unknown'}"] += 1
            if receipt is not None and receipt.verdict == "accepted":
                self.accepted.add(task.task_id)
        self.final = agent.final
        await agent.close()

    def _made(self) -> SoakAgent:
        options = self._crowd.options
        polls = self.number % 100 < 100 * options.poll
        agent = SoakAgent(
            self._crowd.url,
            RUN,
            f"site-{self.number:05}",
            initial_weights=self._crowd.initial,
            state_folder=self._folder,
            progress=False,
            connection="poll" if polls else "stay",
            poll_s=POLL_S,
        )
        return agent.prepare(self._crowd.threads)

    # --- churn ----------------------------------------------------------------------------

    def cut(self) -> None:
        """Break its connection."""
        if self._agent is not None:
            self._agent.cut()

    async def crash(self) -> None:
        """Kill the program; what it wrote stays."""
        await self._end_program()
        if self._agent is not None:
            await self._agent.crash()

    async def leave(self) -> None:
        """Say goodbye for good."""
        await self._end_program()
        if self._agent is not None:
            await self._agent.settle()
            await self._agent.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _end_program(self) -> None:
        if self._program is not None and not self._program.done():
            self._program.cancel()
            with suppress(asyncio.CancelledError):
                await self._program


class Crowd:
    """All sites, and what happens to them.

    Args:
        options: How many, and how much happens.
        url: Of the daemon.

    Attributes:
        counts: Of what happened.
        sites: Those that take part, by number.
        gone: Those that left for good.
        problems: What went wrong, in words.
    """

    def __init__(self, options: Options, url: str) -> None:
        self.options = options
        self.url = url
        self.initial = first_weights(options.megabytes)
        self.threads = ThreadPoolExecutor(FILE_THREADS, "files")
        self.counts: Counter[str] = Counter()
        self.sites: dict[int, Site] = {}
        self.gone: list[Site] = []
        self.problems: list[str] = []
        self._chance = random.Random(options.seed)
        self._numbers = itertools.count()
        self._away: set[asyncio.Task[None]] = set()

    @property
    def told(self) -> set[str]:
        """Tasks whose agents heard that their update was accepted."""
        return set().union(*(site.accepted for site in [*self.sites.values(), *self.gone]))

    def pause_s(self) -> float:
        """Return how long a site takes for a task."""
        return self._chance.expovariate(1 / self.options.pause_s) if self.options.pause_s else 0.0

    async def live(self, until: Awaitable[None]) -> None:
        """Let all join at once, then come and go for so long."""
        for _ in range(self.options.agents):
            self._join()
        churn = asyncio.create_task(self._churn())
        await until
        churn.cancel()
        await asyncio.gather(churn, *self._away, return_exceptions=True)

    async def end(self) -> None:
        """Wait until all were told that the run is over, and write down who was not."""
        await asyncio.wait([site.program for site in self.sites.values()], timeout=FAREWELL_S)
        for site in self.sites.values():
            if not site.program.done():
                self.problems.append(f"site {site.number} did not end within {FAREWELL_S:g} s: {site.line}")
                await site.crash()
            elif site.final is None or site.final.status != "stopped":
                self.problems.append(f"site {site.number} did not hear of the end of the run")
        self.threads.shutdown()

    # --- churn ----------------------------------------------------------------------------

    def _join(self) -> None:
        number = next(self._numbers)
        self.sites[number] = site = Site(number, self)
        site.start()
        self.counts["joined"] += 1

    async def _churn(self) -> None:
        """Let as many sites per minute as was asked leave, be cut off or crash, in equal parts."""
        acts = {"left": 1, "cut off": 1, "crashed": min(HOST_OF, len(self.sites))}
        while self.options.churn:
            act = self._chance.choice([*acts])
            chosen = self._chance.sample(sorted(self.sites), acts[act])
            # As many sites of each kind: what takes many at once comes the more rarely.
            if self._chance.random() < 1 / acts[act]:
                for number in chosen:
                    self._happen(act, self.sites[number])
            await asyncio.sleep(60 / self.options.churn)

    def _happen(self, act: str, site: Site) -> None:
        self.counts[act] += 1
        if act == "cut off":
            site.cut()
        else:
            work = self._replaced(site) if act == "left" else self._come_back(site)
            task = asyncio.create_task(work)
            self._away.add(task)
            task.add_done_callback(self._away.discard)

    async def _replaced(self, site: Site) -> None:
        """A site leaves, and another one joins under a new name."""
        del self.sites[site.number]
        self.gone.append(site)
        await site.leave()
        self._join()

    async def _come_back(self, site: Site) -> None:
        """A site crashes, and starts again after a while with the same state folder."""
        del self.sites[site.number]
        try:
            await site.crash()
            await asyncio.sleep(self._chance.uniform(0, 2 * AWAY_S))
        finally:
            self.sites[site.number] = site
            site.start()


def first_weights(megabytes: float) -> dict[str, Array]:
    """Return a model of float32 layers."""
    random_ = np.random.default_rng(0)
    values = max(1, int(megabytes * 1e6) // 4 // LAYERS)
    return {f"layer{i:02}": random_.standard_normal(values, dtype=np.float32) for i in range(LAYERS)}


def trained(weights: Mapping[str, Array], number: int) -> dict[str, Array]:
    """Return what a site makes of a model: an addition, since it is the system that is soaked."""
    return {name: array + np.float32(1e-4 * (number + 1)) for name, array in weights.items()}
