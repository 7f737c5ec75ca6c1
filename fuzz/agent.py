"""A hostile aggregator talks with a real agent's client: it must neither crash nor hang.

    python -m fuzz.agent INPUTS SEED

Time is virtual: waiting costs nothing, and an agent that goes round in circles is found out. An
input is one frame. The agent may close the connection, or end by an error that says why; an end by
an error that nobody foresaw is a bug.
"""

import asyncio
import collections
import contextlib
import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from fl_main.agent.client import Client
from fl_main.agent.exchange import AgentState, Ending, Profile
from fl_main.agent.outgoing import Outgoing
from fl_main.agent.own_model import OwnModel
from fl_main.agent.state_folder import StateFolder
from fl_main.codec import decode
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.errors import FLError
from fl_main.messages import FROM_AGGREGATOR, Fetch, Offer, Payload, Poll
from fl_main.ports import LinkClosedError
from fl_main.weights import Layout
from tests.aggregator.memory_link import MemoryLink, link_pair, ports
from tests.simulation.loop import VirtualLoop

from . import hostile

TOO_LARGE = 2 << 30  # bytes of address space: what a model of an absurd size runs into
PATIENCE_S = 7200.0  # virtual: an agent that is refused may be asked to wait for an hour
SAID = [kind.model_fields["type"].default for kind in FROM_AGGREGATOR]


class Program(logging.Handler):
    """A training program around a client, which takes what comes and answers it somehow.

    Attributes:
        faults: What was logged with an exception: there must be none.
    """

    def __init__(self, folder: Path, rng: Random) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._rng = rng
        self._folder = StateFolder(folder)
        self._dialled: asyncio.Queue[MemoryLink] = asyncio.Queue()
        weights, poll_s = rng.choice([None, hostile.WEIGHTS]), rng.choice([None, None, 30.0])
        profile = Profile(hostile.RUN, "site", "1", 0, poll_s=poll_s)
        self.client = Client(profile, self._folder, ports(), self._dial, model=OwnModel(weights))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what is a bug of ours."""
        if record.exc_info:
            self.faults.append(logging.Formatter().format(record))

    async def _dial(self) -> MemoryLink:
        mine, theirs = link_pair()
        self._dialled.put_nowait(theirs)
        return mine

    async def dialled(self) -> MemoryLink:
        """Return the next connection that the client opens; or raise what ended it."""
        next_link = asyncio.ensure_future(self._dialled.get())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([next_link, self._running], return_when=asyncio.FIRST_COMPLETED)
            if self.client._failure is not None:
                raise self.client._failure
            return next_link.result()
        except TimeoutError:
            if self.client.state is not AgentState.ENDED:
                raise
            raise FLError("it polls, and has heard that the run is over") from None
        finally:
            next_link.cancel()

    async def __aenter__(self) -> "Program":
        logging.getLogger("fl_main.agent").addHandler(self)
        self._running = asyncio.ensure_future(self.client.run())
        self._working = asyncio.ensure_future(self._work())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in (self._running, self._working):
            task.cancel()
        await asyncio.gather(self._running, self._working, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._folder.close()
        logging.getLogger("fl_main.agent").removeHandler(self)

    async def _work(self) -> None:
        with contextlib.suppress(FLError):
            while not isinstance(work := await self.client.next_work(), Ending):
                task_id = work.assign.task_id
                if self._rng.random() < 0.3:
                    await self.client.decline(task_id, "skipped", "not today")
                    continue
                arrays = {"weights": Outgoing.of(hostile.WEIGHTS, hostile.LAYOUT)}
                entry = self._folder.put(task_id, 5, None, {}, arrays, hostile.WEIGHTS, 0.1)
                await asyncio.gather(self.client.hand_in(entry))


class Aggregator:
    """One connection's other end: right answers, wrong ones, and nonsense."""

    def __init__(self, link: MemoryLink, rng: Random) -> None:
        self._link = link
        self._rng = rng
        self._tasks = [f"{rng.getrandbits(128):032x}" for _ in range(3)]
        self._models = {payload.digest: payload for payload in (hostile.PAYLOAD, absurd(rng))}
        self.said = 0

    async def talk(self) -> str:
        """Talk for a while; return how it ended."""
        try:
            for answer in self._begun():
                await self._say(answer)
            for _ in range(self._rng.randrange(12)):
                for answer in self._answers(await self._heard()):
                    await self._say(answer)
            await self._link.close()
        except LinkClosedError as closed:
            return f"closed by the agent ({closed.code})"
        return "closed by us"

    def _begun(self) -> list[bytes]:
        if self._rng.random() < 0.9:
            interval_s = self._rng.choice([20.0, 20.0, 20.0, 1e300, 1e-9, 0.0, -1.0])
            algorithm = self._rng.choice(list(DigestAlgorithm))
            welcome = self._right("welcome", ping_interval_s=interval_s, digest_algorithm=algorithm)
            return [welcome, self._assign()]
        return [hostile.frame(self._rng, ["welcome", "refuse"])]

    async def _say(self, frame: bytes) -> None:
        self.said += 1
        await self._link.send(frame)
        await asyncio.sleep(0.01)

    async def _heard(self) -> Any:
        """Return the next message of the agent, or None if it says nothing."""
        try:
            async with asyncio.timeout(0.1):
                return decode(await self._link.receive())
        except TimeoutError:
            return None

    def _answers(self, heard: Any) -> list[bytes]:
        if self._rng.random() < 0.25:
            return [hostile.frame(self._rng, SAID)]
        if isinstance(heard, Fetch):
            return self._sent(heard)
        if isinstance(heard, Poll) and self._rng.random() < 0.8:
            return [self._right("nothing")]
        if isinstance(heard, Offer):
            size = heard.payloads[0].size
            place = self._rng.choice([0, 0, 0, 7, 8, size, 2**62])
            return [
                self._right(
                    "send", task_id=heard.task_id, offset=place, credit=self._rng.choice([size, 9, 2**62])
                )
            ]
        kind = self._rng.choice(
            ["assign", "verdict", "counted", "cancel", "credit", "run_ended", "ping", "hold"]
        )
        task_id = self._rng.choice([*self._tasks, hostile.TASK])
        return [
            self._assign()
            if kind == "assign"
            else self._right(kind, task_id=task_id, transfer=f"{task_id}/weights")
        ]

    def _sent(self, fetch: Fetch) -> list[bytes]:
        model = self._models.get(fetch.digest, hostile.PAYLOAD)
        fields = {"transfer": fetch.digest, "offset": fetch.offset}
        sending = self._right("sending", **fields, size=model.size, rows=model.rows)
        chunk = self._right("chunk", **fields, data=hostile.DATA[fetch.offset :])
        return self._rng.choice([[sending, chunk], [sending], [sending, chunk, chunk], [chunk]])

    def _assign(self) -> bytes:
        models = self._rng.choices([*self._models.values()], [3, 1], k=self._rng.randrange(3))
        payloads = [
            model.model_dump() | {"channel": f"c{n}" if n else "weights"} for n, model in enumerate(models)
        ]
        return self._right("assign", task_id=self._rng.choice(self._tasks), payloads=payloads)

    def _right(self, kind: str, **changes: Any) -> bytes:
        """Return a right frame, with now and then something wrong about it."""
        fields = hostile.right(kind)
        fields |= {name: value for name, value in changes.items() if name in fields}
        if self._rng.random() < 0.15:
            fields = hostile.made_wrong(self._rng, fields)
        return hostile.packed(fields)


def absurd(rng: Random) -> Payload:
    """Return a payload that is well described, of any size."""
    layout = Layout.free(rng.choice([0, 1, 1 << 20, 1 << 31, 1 << 40, 1 << 59]))
    digest = tagged(file_digest(layout, rng.choice(list(DigestAlgorithm))))
    return Payload(layout=layout.digest, digest=digest, size=layout.nbytes, rows=layout.to_wire())


async def conversations(folder: Path, rng: Random, outcomes: collections.Counter[str]) -> int:
    """Let one agent live through a few connections; return how many frames it was sent."""
    said = 0
    async with Program(folder, rng) as program:
        try:
            for _ in range(rng.randrange(1, 5)):
                aggregator = Aggregator(await program.dialled(), rng)
                outcome = await aggregator.talk()
                said += aggregator.said
                outcomes[outcome] += 1
            await program.dialled()
        except FLError as error:
            if "bug of ours" in str(error):
                raise
            outcomes[f"ended by a {type(error).__name__}"] += 1
    assert not program.faults, program.faults[0]
    return said


def fuzz(inputs: int, seed: int) -> dict[str, Any]:
    """Fuzz the agent with so many frames; return what happened."""
    outcomes: collections.Counter[str] = collections.Counter()
    begun, said, number = time.monotonic(), 0, 0
    while said < inputs:
        number += 1
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
            try:
                said += runner.run(conversations(Path(folder), Random(f"{seed}:{number}"), outcomes))
            except BaseException as error:
                error.add_note(f"agent number {number} of seed {seed}")
                raise
    return {"inputs": said, "seconds": time.monotonic() - begun, "outcomes": dict(outcomes.most_common())}


def main(inputs: int, seed: int) -> None:
    """Fuzz the agent and print the facts as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (TOO_LARGE, TOO_LARGE))
    logging.getLogger("fl_main.agent").propagate = False
    facts = fuzz(inputs, seed)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps({"engine": "random", **facts, "memory_mb": [memory_mb]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
