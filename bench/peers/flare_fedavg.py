"""FLARE's FedAvg with a model of so many megabytes; it writes down when each round was done."""

import time

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg

LAYERS = 20


class TimedFedAvg(FedAvg):
    """FedAvg that keeps its model in memory, and notes when each round was done."""

    def __init__(self, megabytes, times, num_clients, num_rounds):
        super().__init__(persistor_id="", num_clients=num_clients, num_rounds=num_rounds)
        self.megabytes = megabytes
        self.times = times

    def load_model(self):
        chance = np.random.default_rng(0)
        values = max(1, int(self.megabytes * 1e6) // 4 // LAYERS)
        names = [f"layer{i:02}" for i in range(LAYERS)]
        return FLModel(params={name: chance.standard_normal(values, dtype=np.float32) for name in names})

    def save_model(self, model):
        with open(self.times, "a") as file:
            print(time.perf_counter(), file=file)
