"""FedAvg that writes down when each round was done."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

LAYERS = 20

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that notes when each round was done."""

    def __init__(self, times, **options):
        super().__init__(**options)
        self._times = times

    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, replies)
        with open(self._times, "a") as file:
            print(time.perf_counter(), file=file)
        return found


@app.main()
def main(grid: Grid, context: Context) -> None:
    given = context.run_config
    chance = np.random.default_rng(0)
    values = max(1, int(given["megabytes"] * 1e6) // 4 // LAYERS)
    model = ArrayRecord([chance.standard_normal(values, dtype=np.float32) for _ in range(LAYERS)])
    agents = given["agents"]
    strategy = TimedFedAvg(
        given["times"], fraction_evaluate=0.0, min_train_nodes=agents, min_available_nodes=agents
    )
    strategy.start(grid=grid, initial_arrays=model, num_rounds=given["rounds"])
