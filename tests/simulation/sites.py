"""The programs of the sites: the real `AsyncAgent` in a simulated process."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fl_main.agent import AsyncAgent, Evaluation, Final
from fl_main.agent import connection as real
from fl_main.agent.connection import Outside
from fl_main.agent.state_folder import OutboxEntry
from fl_main.corrections import correction_of
from fl_main.plan import derive_seed
from fl_main.training import NamedArrays, TrainingTask
from fl_main.weights import Array, Role

from .machine import Machine, SimDisk
from .network import Network
from .process import Process
from .scenario import Scenario, SiteFacts

T = TypeVar("T")

PRIVATE = "own"  # the array that stays at its site
TAIL = 1.1  # Pareto's exponent of training times: their mean is just finite
LONGEST_S = 135.0  # of those of the tail: a round of the shortest deadline must be possible


@dataclass(slots=True)
class SiteRecord:
    """What a site saw, over all of its processes.

    Attributes:
        stored: Tasks whose update was whole in the outbox.
        trained: Tasks in the order in which they were trained.
        wanted: What each training added to the model that it began with, by task.
        verdicts: What it was told of its updates, by task.
        final: What the run came to.
    """

    stored: set[str] = field(default_factory=set)
    trained: list[str] = field(default_factory=list)
    wanted: dict[str, dict[str, Array]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    final: Final | None = None


class _SimNetworkThread:
    """Beside the program, in the same loop; see `fl_main.agent.connection.Network`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started: list[Future[Any]] = []

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        started = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._started = [future for future in self._started if not future.done()]
        self._started.append(started)
        return started

    def stop(self) -> None:
        for future in self._started:
            future.cancel()


class SimAgent(AsyncAgent):
    """An `AsyncAgent` whose outside is simulated."""

    process: Process
    machine: Machine
    network: Network
    on_stored: Callable[[str], None]

    def _make_outside(self) -> Outside:
        return Outside(
            self.process.ports(),
            SimDisk(self.machine, self.process),
            _SimNetworkThread(),
            lambda: self.network.dial(self.process),
            lambda: None,
        )

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self.process.ports().run_in_thread(function)

    async def _store(self, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        entry = await super()._store(write)
        self.on_stored(entry.task_id)
        return entry


def first_weights(scenario: Scenario) -> NamedArrays:
    """Return the weights that every site offers to begin with."""
    random = np.random.default_rng(scenario.seed)
    shared = {"w": random.standard_normal(scenario.size).astype(np.float32), "b": np.zeros(3)}
    private = {PRIVATE: np.zeros(1)} if scenario.has_private else {}
    return NamedArrays({**shared, **private}, dict.fromkeys(private, Role.PRIVATE))


def train(scenario: Scenario, site: SiteFacts, task: TrainingTask) -> dict[str, Any]:
    """Return the arguments of `submit`: what a site makes of a task follows from the task alone."""
    noise = np.random.default_rng(0 if site.is_constant else task.seed)
    count = int(task.state.get("count", np.array(0)))
    shared = {name: array for name, array in task.weights.items() if name != PRIVATE}
    made = {
        name: (
            (array * 0.0 if site.is_constant else array * 0.9)
            + site.number
            + (count if scenario.keeps_state else 0)
            + noise.standard_normal(array.shape)
        ).astype(array.dtype)
        for name, array in shared.items()
    }
    drift = {name: (array * 0.01).astype(array.dtype) for name, array in made.items()}
    correction = correction_of(task)
    if not site.is_constant:
        for name, gradient in correction.gradient(made).items():
            made[name] -= (0.1 * gradient).astype(made[name].dtype)
    own = {"count": np.array(count + 1)} if scenario.keeps_state else None
    fisher = {name: np.full_like(array, site.number) for name, array in made.items()}
    answer = correction.answer(made, num_steps=site.number, learning_rate=0.5, fisher=fisher, state=own)
    private = {PRIVATE: task.weights[PRIVATE] + 1} if scenario.has_private else {}
    return {
        **answer,
        "weights": NamedArrays({**made, **private}, dict.fromkeys(private, Role.PRIVATE)),
        "num_examples": 10 * site.number,
        "metrics": {"loss": 1.0 / site.number},
        **({"channels": {"drift": drift}} if scenario.has_drift else {}),
    }


def work_s(site: SiteFacts, seed: int) -> float:
    """Return how long a training takes: with a heavy tail now and then many times as long."""
    seconds = site.train_s * (0.5 + seed % 100 / 100)
    if not site.has_tail:
        return seconds
    part = (seed // 100 % 1000 + 1) / 1000  # from 0 to 1
    return max(seconds, min(LONGEST_S, seconds * math.pow(part, -1 / TAIL)))


async def attend(
    scenario: Scenario,
    site: SiteFacts,
    record: SiteRecord,
    process: Process,
    machine: Machine,
    network: Network,
    may_go_on: Callable[[], bool],
) -> None:
    """Take part until the run ends for good: the program of a site.

    Args:
        may_go_on: Whether the run may be opened again when it has ended.
    """

    def on_stored(task_id: str) -> None:
        record.stored.add(task_id)

    def statistics() -> NamedArrays:
        return NamedArrays({"sum": np.array([float(site.number)])})

    path = machine.folder.resolve()
    process.at_the_end(lambda: _forget(path))
    is_over = False
    while not is_over:
        is_last = not may_go_on()
        agent = SimAgent(
            "ws://simulated",
            "r",
            site.name,
            initial_weights=lambda: first_weights(scenario),
            evaluate=lambda weights: Evaluation({"loss": float(np.mean(weights["w"]))}, site.number),
            statistics=statistics if scenario.run["statistics"] else None,
            state_folder=path,
            attributes={"region": site.region, "gpu": site.gpu},
            durability=scenario.database["durability"],
            progress=False,
            connection="stay" if site.poll_s is None else "poll",
            poll_s=site.poll_s or 60.0,
        )
        agent.process, agent.machine, agent.network, agent.on_stored = process, machine, network, on_stored
        await _take_part(agent, scenario, site, record)
        is_stopped = record.final is not None and record.final.status == "stopped"  # it may be resumed
        is_over = is_last and not is_stopped
        await asyncio.sleep(5.0)


async def _take_part(agent: SimAgent, scenario: Scenario, site: SiteFacts, record: SiteRecord) -> None:
    async with agent:
        async for task in agent.tasks():
            assert task.task_id not in record.stored, f"{task.task_id} is trained though it was stored"
            record.trained.append(task.task_id)
            await asyncio.sleep(work_s(site, derive_seed(task.seed, len(record.trained))))
            made = train(scenario, site, task)
            record.wanted[task.task_id] = {
                name: array.astype(float) - task.weights[name] for name, array in made["weights"].items()
            }
            receipt = await task.submit(**made)
            assert receipt is not None
            record.verdicts[task.task_id] = receipt.verdict
    record.final = agent.final


def _forget(path: Path) -> None:
    """A dead process's connection is not there to be replaced in good order."""
    real._OPEN.pop(path, None)
