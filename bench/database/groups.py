"""How the updates of many agents go into the database: a real host and store, without a network."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.database.figures import Groups
from fl_main.aggregator.app import FILE_THREADS, real_ports
from fl_main.aggregator.host import RunHost
from fl_main.db import ModelStore
from fl_main.events import AgentJoined, Offered, Steered, UpdateOffered, UpdateReceived
from fl_main.messages import Assign, Message
from fl_main.settings import RunSettings
from fl_main.store import (
    ModelKind,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    RunSnapshot,
    RunStatus,
    StoredPayload,
)
from fl_main.threads import Threads
from fl_main.weights import ArraySpec, DType, Layout
from fl_main.why.findings import Transfer

WARM_UP = 2  # rounds that are left out


class CountingStore(ModelStore):
    """A store that notes of each transaction how many records it had and how long it took."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.transactions: list[tuple[int, float]] = []

    def commit(self, records: Sequence[Record], at: float) -> None:
        began = time.perf_counter()
        super().commit(records, at)
        self.transactions.append((len(records), time.perf_counter() - began))


class Crowd:
    """Agents that answer each task as soon as they have it."""

    def __init__(self, store: CountingStore, agents: int, rounds: int, values: int) -> None:
        self.ended: list[tuple[float, int]] = []  # of each round: when, and transactions so far
        self.over = asyncio.Event()
        self._store = store
        self._rounds = rounds
        self._layout = Layout([ArraySpec("w", DType.F32, (values,))])
        self._agents = [f"site-{number:04}" for number in range(agents)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._files = Threads(FILE_THREADS, "bench-files")
        self._writer = Threads(1, "bench-database")
        self._ports = real_ports(self._files, self._writer)
        self.host = self._hosted(agents)

    def _hosted(self, agents: int) -> RunHost:
        sections = {
            "name": "groups",
            "round": {"min_agents": agents, "min_updates": agents},
            "end": {"rounds": self._rounds},
            "evaluate": {"every": 0},
        }
        settings = RunSettings.model_validate(sections)
        run = replace(RunRecord.begun("groups", settings), status=RunStatus.PAUSED)
        return RunHost(settings, RunSnapshot(run), self._store, self._ports, asyncio.Semaphore(1), self._see)

    def _see(self, host: RunHost, record: Record) -> None:
        if isinstance(record, RoundRecord) and record.status == "done" and record.round_id:
            self.ended.append((time.perf_counter(), len(self._store.transactions)))
            if record.round_id == self._rounds:
                self.over.set()

    async def train(self) -> None:
        """Do all rounds."""
        initial = ModelRecord("initial", "groups", 0, ModelKind.INITIAL, self._staged("initial"))
        self._store.commit(self.host.adopt(initial), time.time())
        worker = asyncio.create_task(self.host.work())
        self.host.start()
        for agent_id in self._agents:
            self.host.seats[agent_id] = Seat(self, agent_id)
            self.host.tell(AgentJoined(agent_id, agent_id, ("train",), layout=self._layout))
        self.host.tell(Steered("resume", "bench"))
        await self.over.wait()
        await self.host.stop()
        worker.cancel()
        self._files.shutdown()
        self._writer.shutdown()

    def answer(self, agent_id: str, task_id: str) -> None:
        """Let an agent answer a task."""
        task = asyncio.create_task(self._answered(agent_id, task_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answered(self, agent_id: str, task_id: str) -> None:
        payload = await self._ports.run_in_thread(self._staged, f"{task_id}.weights")
        offer = Offered(task_id, agent_id, 10, 1, {"loss": 0.5}, {"weights": payload})
        self.host.tell(UpdateOffered(offer))

    def _staged(self, name: str) -> StoredPayload:
        data = np.random.default_rng(abs(hash(name))).random(self._layout.nbytes // 4, np.float32)
        staging = self._store.stage(name, self._layout)
        staging.write(data.tobytes())
        return StoredPayload("weights", staging.finish(), self._layout.nbytes, self._layout, name)


class Seat:
    """An agent's end, as the host sees it."""

    transfer: Transfer | None = None

    def __init__(self, crowd: Crowd, agent_id: str) -> None:
        self._crowd = crowd
        self._agent_id = agent_id

    def post(self, message: Message) -> None:
        if isinstance(message, Assign):
            self._crowd.answer(self._agent_id, message.task_id)

    def receive(self, offer: Offered) -> None:
        self._crowd.host.tell(UpdateReceived(offer))

    def expel(self, code: str, reason: str) -> None:
        raise AssertionError(f"{self._agent_id} was expelled: {code}: {reason}")


def measure_groups(folder: Path, agents: int, rounds: int, values: int = 64) -> Groups:
    """Return how a round's updates went into the database: medians over the rounds."""
    with CountingStore(folder) as store:
        ended = asyncio.run(_trained(store, agents, rounds + WARM_UP, values))[WARM_UP - 1 :]
        pairs = list(pairwise(ended))
        rounds_of = [store.transactions[before:after] for (_, before), (_, after) in pairs]
    return Groups(
        agents,
        statistics.median(after - before for (before, _), (after, _) in pairs),
        round(statistics.median(map(len, rounds_of))),
        round(statistics.median(sum(records for records, _ in group) for group in rounds_of)),
        max(records for group in rounds_of for records, _ in group),
        statistics.median(sum(seconds for _, seconds in group) for group in rounds_of),
    )


async def _trained(store: CountingStore, agents: int, rounds: int, values: int) -> list[tuple[float, int]]:
    crowd = Crowd(store, agents, rounds, values)
    await crowd.train()
    return crowd.ended
