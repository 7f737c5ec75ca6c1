"""An agent in a process of its own: `python -m bench.rounds.agent URL NUMBER MEGABYTES FOLDER CA_FILE`.

It writes `peak_mib=…` after each round: the most memory that it had.
"""

import sys
from pathlib import Path

import numpy as np

from bench.rounds.memory import peak_mib
from bench.rounds.work import LAYERS
from fl_main.agent import Agent
from fl_main.weights import Array

RUN = "bench"


def first_weights(megabytes: float) -> dict[str, Array]:
    """Return a model of float32 arrays that do not compress."""
    chance = np.random.default_rng(0)
    values = max(1, int(megabytes * 1e6) // 4 // LAYERS)
    return {f"layer{i:02}": chance.standard_normal(values, dtype=np.float32) for i in range(LAYERS)}


def main(url: str, number: str, megabytes: str, folder: str, ca_file: str) -> None:
    """Take part without training: add a little, so that no two updates are equal."""
    weights = first_weights(float(megabytes))
    with Agent(
        url,
        RUN,
        f"agent-{number}",
        initial_weights=weights,
        state_folder=Path(folder, f"agent-{number}"),
        ca_file=Path(ca_file) if ca_file else None,
        progress=False,
    ) as agent:
        for task in agent.tasks():
            for name, array in task.weights.items():
                np.add(array, np.float32(1e-6 * (int(number) + 1)), out=weights[name])
            task.submit(weights, num_examples=1)
            print(f"peak_mib={peak_mib():.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
