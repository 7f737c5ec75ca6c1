"""A Flower client that does not train but adds a little: ADDRESS NUMBER [CA_FILE]."""

import sys
from pathlib import Path

import flwr
import numpy as np


class Client(flwr.client.NumPyClient):
    """Adds a little, so that no two updates are equal."""

    def fit(self, parameters, config):
        little = np.float32(1e-6 * (int(sys.argv[2]) + 1))
        return [array + little for array in parameters], 1, {}


ca_file = sys.argv[3:]
flwr.client.start_client(
    server_address=sys.argv[1],
    client=Client().to_client(),
    insecure=not ca_file,
    root_certificates=Path(ca_file[0]).read_bytes() if ca_file else None,
)
