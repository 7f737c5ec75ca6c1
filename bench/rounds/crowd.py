"""Many agents in one process: `python -m bench.rounds.crowd URL FIRST STOP MEGABYTES FOLDER`.

They are real, each with its connection and its outbox; they share a loop, some threads and a disk.
"""

import asyncio
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.rounds.agent import RUN, first_weights
from bench.soak.agents import SoakAgent
from fl_main.weights import Array

FILE_THREADS = 4


async def take_part(agent: SoakAgent, number: int) -> None:
    """Answer every task until the run ends."""
    await agent._in_thread(agent.start)
    async for task in agent.tasks():
        little = np.float32(1e-6 * (number + 1))
        await task.submit({name: array + little for name, array in task.weights.items()}, num_examples=1)
    await agent.close()


async def main(url: str, numbers: range, weights: dict[str, Array], folder: Path) -> None:
    """Let all take part."""
    with ThreadPoolExecutor(FILE_THREADS, "files") as threads:
        crowd = {
            number: SoakAgent(
                url,
                RUN,
                f"agent-{number:05}",
                initial_weights=weights,
                state_folder=folder / f"agent-{number}",
                progress=False,
            ).prepare(threads)
            for number in numbers
        }
        await asyncio.gather(*(take_part(agent, number) for number, agent in crowd.items()))


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    given_url, first, stop, megabytes, place = sys.argv[1:]
    work = main(given_url, range(int(first), int(stop)), first_weights(float(megabytes)), Path(place))
    asyncio.run(work)
