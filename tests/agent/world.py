"""A client whose other side is played by the test."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.agent.client import Client
from fl_main.agent.exchange import Profile, Work
from fl_main.agent.state_folder import StateFolder
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.messages import (
    Assign,
    Chunk,
    Fetch,
    Join,
    Message,
    Nothing,
    Payload,
    Ping,
    Poll,
    Pong,
    Sending,
    Welcome,
)
from fl_main.ports import LinkClosedError
from fl_main.session import Session, Side
from fl_main.weights import Layout, pack
from tests.aggregator.memory_link import PATIENCE_S, MemoryLink, Talker, link_pair, ports

TASK = "a" * 24
WEIGHTS = {"w": np.arange(1000.0)}
LAYOUT = Layout.of(WEIGHTS)
DATA = bytes(pack(WEIGHTS, LAYOUT))


def payload() -> Payload:
    digest = file_digest(LAYOUT, DigestAlgorithm.BLAKE3)
    digest.update(DATA)
    return Payload(layout=LAYOUT.digest, digest=tagged(digest), size=len(DATA))


WELCOME = Welcome(
    session_id="1",
    run="r",
    run_id="1",
    settings_digest=LAYOUT.digest,
    kinds=["train"],
    round_id=0,
    rows=[tuple(row) for row in LAYOUT.to_wire()],  # type: ignore[misc]
    ping_interval_s=60.0,
)


class World:
    """A client whose every connection is a new aggregator, played by the test."""

    def __init__(self, folder: Path, *, poll_s: float | None = None, **options: Any) -> None:
        self.folder = StateFolder(folder)
        self.dialled: asyncio.Queue[MemoryLink] = asyncio.Queue()
        self.refusals: list[Exception] = []
        profile = Profile("r", "site", "1", 0, poll_s=poll_s)
        self.client = Client(profile, self.folder, ports(), self._dial, **options)
        self.running = asyncio.create_task(self.client.run())

    async def _dial(self) -> MemoryLink:
        if self.refusals:
            raise self.refusals.pop(0)
        mine, theirs = link_pair()
        self.dialled.put_nowait(theirs)
        return mine

    async def connected(self, *, welcome: bool = True) -> Talker:
        async with asyncio.timeout(PATIENCE_S):
            talker = Talker(await self.dialled.get(), Session(Side.AGGREGATOR))
        self.join = await talker.hear(Join)
        if welcome:
            await talker.say(WELCOME)
        return talker

    async def polled(self, reason: str = "nothing to do") -> Talker:
        """Let the client come, and go again."""
        talker = await self.connected()
        await talker.hear(Poll)
        await self.sent_away(talker, reason)
        return talker

    async def sent_away(self, talker: Talker, reason: str = "nothing to do") -> None:
        """Answer a poll, and wait until the client has hung up."""
        await talker.say(Nothing(reason=reason))
        with pytest.raises(LinkClosedError):
            await talker.hear(Message)
        assert talker.link.closed == (1000, "polled")

    async def end(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.folder.close()


Story = Callable[[World], Coroutine[Any, Any, None]]


async def work_of(world: World, talker: Talker) -> Work:
    """Let the client fetch a task's model, and take the task."""
    await talker.say(Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload()]))
    fetch = await talker.hear(Fetch)
    await talker.say(Sending(transfer=fetch.digest, offset=0, size=len(DATA)))
    await talker.say(Chunk(transfer=fetch.digest, offset=0, data=DATA))
    work = await world.client.next_work()
    assert isinstance(work, Work)
    return work


async def cut_transfer(talker: Talker) -> Assign:
    """Give the client a task, and cut the connection in the middle of its model; return the task."""
    assign = Assign(task_id=TASK, kind="train", round_id=1, payloads=[payload()])
    await talker.say(assign)
    fetch = await talker.hear(Fetch)
    await talker.say(Sending(transfer=fetch.digest, offset=0, size=len(DATA)))
    await talker.say(Chunk(transfer=fetch.digest, offset=0, data=DATA[:800]))
    await talker.say(Ping())
    await talker.hear(Pong)
    await talker.link.close(1006, "cut")
    return assign
