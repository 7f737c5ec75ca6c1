"""A client that does not train but adds a little, so that no two updates are equal."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    little = np.float32(1e-6 * (int(context.node_config["number"]) + 1))
    arrays = [array + little for array in message.content["arrays"].to_numpy_ndarrays()]
    answer = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
    return Message(content=RecordDict(answer), reply_to=message)
