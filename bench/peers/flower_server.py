"""Flower's `start_server` with FedAvg; it writes down when each round was done."""

import json
import signal
import sys
import time
from pathlib import Path

import flwr
import numpy as np

LAYERS = 20


class TimedFedAvg(flwr.server.strategy.FedAvg):
    """FedAvg that notes when each round was done."""

    def aggregate_fit(self, server_round, results, failures):
        if failures:
            sys.exit(f"round {server_round} failed: {failures[0]}")
        found = super().aggregate_fit(server_round, results, failures)
        with open(given["times"], "a") as file:
            print(time.perf_counter(), file=file)
        return found


given = json.loads(sys.argv[1])
chance = np.random.default_rng(0)
values = max(1, int(given["megabytes"] * 1e6) // 4 // LAYERS)
model = [chance.standard_normal(values, dtype=np.float32) for _ in range(LAYERS)]
files = given["certificates"]
flwr.server.start_server(
    server_address=given["address"],
    config=flwr.server.ServerConfig(num_rounds=given["rounds"]),
    strategy=TimedFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=given["agents"],
        min_available_clients=given["agents"],
        initial_parameters=flwr.common.ndarrays_to_parameters(model),
    ),
    certificates=tuple(Path(file).read_bytes() for file in files) if files else None,
)
signal.pause()  # its memory is looked at before it is ended
