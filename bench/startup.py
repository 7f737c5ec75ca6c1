#!/usr/bin/env python3
"""Time whole processes: daemon to first completed round with two agents; the agent's import.

    startup.py [--size-mb 1] [--repeat 5]

The first figure begins when the daemon's process is started, and ends when the first round is
in the database. The agents' processes are started when the daemon listens, as a script would.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
AGENT = """
import sys
import numpy as np
from fl_main.agent import Agent
weights = {f"layer{i:02}": np.zeros(int(float(sys.argv[3]) * 1e6) // 80, np.float32) for i in range(20)}
agent = Agent(sys.argv[1], "start", sys.argv[2], initial_weights=weights, state_folder=sys.argv[2])
with agent as me:
    for task in me.tasks():
        task.submit(task.weights, num_examples=1)
"""
THIRD_PARTY = "import numpy, msgpack, blake3, filelock, pydantic, websockets.asyncio.client"


def first_round_s(size_mb: float) -> float:
    """Return the seconds from starting the daemon to the first completed round."""
    with tempfile.TemporaryDirectory(prefix="fl-start-") as folder:
        run = Path(folder, "run.yaml")
        run.write_text("name: start\nend: {rounds: 1}\nevaluate: {every: 0}\n")
        settings = Path(folder, "aggregator.yaml")
        settings.write_text("listen: {port: 0}\nruns: [run.yaml]\n")
        command = [sys.executable, "-m", "fl_main.aggregator", "--settings", str(settings)]
        began = time.perf_counter()
        daemon = subprocess.Popen(
            [*command, "--database", f"{folder}/models"], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert daemon.stderr is not None
        url, sites = "", []
        for line in daemon.stderr:
            if "listening url=" in line:
                url = line.split("url=")[1].split()[0]
                sites = [
                    subprocess.Popen(
                        [sys.executable, "-c", AGENT, url, f"{folder}/{name}", str(size_mb)], cwd=ROOT
                    )
                    for name in ("a", "b")
                ]
            if "round done" in line:
                break
        seconds = time.perf_counter() - began
        daemon.terminate()
        daemon.communicate()
        for site in sites:
            site.wait()
        return seconds


def import_s(statement: str) -> float:
    """Return the wall seconds of a process that only imports."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    starts = [first_round_s(options.size_mb) for _ in range(options.repeat)]
    pairs = [(import_s("import fl_main.agent"), import_s(THIRD_PARTY)) for _ in range(3 * options.repeat)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    first = statistics.median(starts)
    print(f"daemon to first completed round, 2 agents, {options.size_mb:g} MB: {first:.2f} s")
    print(f"import fl_main.agent {ours:.3f} s, third-party imports alone {theirs:.3f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
