#!/usr/bin/env python3
"""Time rounds of the whole system beside a bare durable round, in one run.

    rounds.py SIZE_MB AGENTS ROUNDS [--repeat 3] [--keep] [--json FILE]

One aggregator daemon and AGENTS agent processes on loopback; float32 weights in 20 arrays;
agents that do not train; FedAvg; every update digested, checked, stored and in the database
before it is acknowledged. The floor is `bench/bare_round.py`: the same traffic with no
framework around it. Both are run in turns, and medians are compared, since machines drift.

By default the local models of the last round only are kept, as the floor does; `--keep` keeps
everything on both sides.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
RUN = "bench"


def agent(url: str, number: int, size_mb: float, folder: str) -> None:
    """Take part without training: add a little, so that no two updates are equal."""
    import numpy as np

    from fl_main.agent import Agent

    values = int(size_mb * 1e6) // 4 // 20
    weights = {f"layer{i:02}": np.zeros(values, np.float32) for i in range(20)}
    rng = np.random.default_rng(0)
    for array in weights.values():
        array[:] = rng.standard_normal(values, dtype=np.float32)
    state = Path(folder) / f"agent-{number}"
    with Agent(
        url, RUN, f"agent-{number}", initial_weights=weights, state_folder=state, progress=False
    ) as me:
        for task in me.tasks():
            for name, array in task.weights.items():
                np.add(array, np.float32(1e-6 * (number + 1)), out=weights[name])
            task.submit(weights, num_examples=1)


async def serve(settings: dict[str, object], run: dict[str, object], pipe: object) -> None:
    """Run the daemon until the run is over; report when each round was done."""
    from fl_main.aggregator import Aggregator, AggregatorSettings, RunSettings
    from fl_main.store import EventRecord

    done, rounds = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def note(host: object, record: object) -> None:
        if isinstance(record, EventRecord) and record.kind == "round_done":
            rounds.append(loop.time())
        elif isinstance(record, EventRecord) and record.kind == "run_ended":
            done.set()

    daemon = Aggregator(AggregatorSettings(**settings), [RunSettings(**run)], on_record=note)
    async with daemon:
        pipe.send(daemon.url)
        await done.wait()
        async with asyncio.timeout(60):  # the agents fetch the final model and leave; it is not timed
            while daemon.daemon.door.sessions:  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.05)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((rounds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime))


def daemon(settings: dict[str, object], run: dict[str, object], pipe: object) -> None:
    try:
        import uvloop

        runner = uvloop.run if os.environ.get("BENCH_UVLOOP") else asyncio.run
    except ImportError:
        runner = asyncio.run
    runner(serve(settings, run, pipe))


def ours(size_mb: float, agents: int, rounds: int, keep: bool) -> dict[str, float]:
    """Return the figures of one run of the whole system."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as folder:
        retention = {"keep": "all"} if keep else {"keep": "rounds", "rounds": 1}
        settings = {"listen": {"port": 0}, "database": {"folder": f"{folder}/models", "retention": retention}}
        run = {
            "name": RUN,
            "round": {"min_agents": agents, "min_updates": agents},
            "end": {"rounds": rounds + 1},
            "evaluate": {"every": 0},
        }
        pipe, far = spawn.Pipe()
        server = spawn.Process(target=daemon, args=(settings, run, far))
        server.start()
        far.close()  # if the daemon dies, the next line says so
        url = pipe.recv()
        sites = [spawn.Process(target=agent, args=(url, n, size_mb, folder)) for n in range(agents)]
        for site in sites:
            site.start()
        at, peak, cpu = pipe.recv()
        for process in (*sites, server):
            process.join(30)
    seconds = [after - before for before, after in pairwise(at)]
    return {"round_s": statistics.median(seconds), "peak_mib": peak, "cpu_s": cpu}


def bare(size_mb: float, agents: int, rounds: int, keep: bool) -> dict[str, float]:
    """Return the figures of one run of the floor."""
    command = [sys.executable, str(HERE / "bare_round.py"), str(size_mb), str(agents), str(rounds)]
    found = subprocess.run(command + ["--keep"] * keep, capture_output=True, text=True, check=True)
    figures = json.loads(found.stdout)
    return {"round_s": figures["round_s"], "peak_mib": figures["peak_MiB"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds a round takes, beside a bare durable round.")
    parser.add_argument("size_mb", type=float)
    parser.add_argument("agents", type=int)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--repeat", type=int, default=3, help="times that both are run, in turns")
    parser.add_argument("--keep", action="store_true", help="keep the updates of all rounds")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    work = (options.size_mb, options.agents, options.rounds, options.keep)
    pairs = [(bare(*work), ours(*work)) for _ in range(options.repeat)]
    floor_s = statistics.median(floor["round_s"] for floor, _ in pairs)
    round_s = statistics.median(mine["round_s"] for _, mine in pairs)
    peak = max(mine["peak_mib"] for _, mine in pairs)
    ratio = statistics.median(mine["round_s"] / floor["round_s"] for floor, mine in pairs)
    print(
        f"{options.size_mb:g} MB x {options.agents} agents: {round_s:.4f} s a round, bare {floor_s:.4f} s, "
        f"ratio {ratio:.2f}; daemon's peak {peak:.0f} MiB, bare {pairs[0][0]['peak_mib']:.0f} MiB",
        flush=True,
    )
    if options.json:
        figures = {"work": work, "pairs": pairs, "python": platform.python_version()}
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
