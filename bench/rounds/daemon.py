"""The daemon of a measurement: `python -m bench.rounds.daemon SETTINGS RUN [uvloop]`, both as JSON.

It is what `fl aggregator` starts. It writes `url=…` once it listens, and `figures=…` at the end of the
run: when each round was done, what processor time had been taken by then, the most memory it had, and
how late its event loop woke at worst.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

from bench.rounds.memory import peak_mib
from fl_main.aggregator import Aggregator, AggregatorSettings, RunSettings
from fl_main.aggregator.memory import share_one_arena
from fl_main.store import EventRecord

WAKE_EVERY_S = 0.02  # more often, it is a part of small rounds itself
FAREWELL_S = 60.0  # for the agents to fetch the final model and leave; it is not timed


@dataclass(slots=True)
class Wakes:
    """How late the event loop wakes: meanwhile it hears nobody.

    Attributes:
        late_s: At worst; others on the machine have their part in it.
        busy_s: The most processor time that the loop took from one wake to the next.
    """

    late_s: float = 0.0
    busy_s: float = 0.0

    async def watch(self) -> None:
        """Watch until cancelled."""
        while True:
            begun, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(WAKE_EVERY_S)
            self.late_s = max(self.late_s, time.perf_counter() - begun - WAKE_EVERY_S)
            self.busy_s = max(self.busy_s, time.thread_time() - busy)


async def serve(settings: AggregatorSettings, run: RunSettings) -> None:
    """Serve until the run is over."""
    ended_at: list[float] = []
    cpu_s: list[float] = []
    over, wakes = asyncio.Event(), Wakes()
    watching: list[asyncio.Task[None]] = []

    def note(host: object, record: object) -> None:
        if isinstance(record, EventRecord) and record.kind == "round_done":
            ended_at.append(time.perf_counter())
            cpu_s.append(time.process_time())
            if not watching:  # what comes before the first timed round is not counted
                watching.append(asyncio.create_task(wakes.watch()))
        elif isinstance(record, EventRecord) and record.kind == "run_ended":
            over.set()
            for watch in watching:
                watch.cancel()

    async with Aggregator(settings, [run], on_record=note) as aggregator:
        print(f"url={aggregator.url}", flush=True)
        await over.wait()
        async with asyncio.timeout(FAREWELL_S):
            while aggregator.daemon.door.sessions:  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.05)
    figures = {"ended_at": ended_at, "cpu_s": cpu_s, "peak_mib": peak_mib(), **asdict(wakes)}
    print(f"figures={json.dumps(figures)}", flush=True)


def main(settings: str, run: str, loop: str = "asyncio") -> None:
    """Run the daemon on the loop that was asked for."""
    share_one_arena()
    work = serve(AggregatorSettings.model_validate_json(settings), RunSettings.model_validate_json(run))
    if loop == "uvloop":
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
