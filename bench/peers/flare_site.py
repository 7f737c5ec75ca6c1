"""A FLARE client that does not train but adds a little, so that no two updates are equal."""

import numpy as np
import nvflare.client as flare

flare.init()
little = np.float32(1e-6 * (int(flare.get_site_name().rpartition("-")[2]) + 1))
while flare.is_running():
    task = flare.receive()
    if task is None:
        break
    weights = {name: array + little for name, array in task.params.items()}
    flare.send(flare.FLModel(params=weights, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
