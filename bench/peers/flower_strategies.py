"""What Flower makes of updates, by its own strategies and functions: for comparisons in tests.

Takes a file of arrays (base (d,), counts (n,), models (rounds, n, d)), a file to write to (models
(rounds, d)), and as JSON the name of a strategy or function, and its options. Runs in Flower's
environment.
"""

import json
import sys

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as strategies
from flwr.server.strategy import aggregate as functions


def layers(model):
    """Return a model as two layers, as distances must be over all of them."""
    return [model[:2], model[2:]]


def by_function(name, options, counts, models):
    """Return what a function makes of each round's models."""
    if name == "aggregate_bulyan":
        options = {**options, "aggregation_rule": functions.aggregate_krum}
    for updates in models:
        results = [(layers(model), int(count)) for model, count in zip(updates, counts, strict=True)]
        yield np.concatenate(getattr(functions, name)(results, **options))


def by_strategy(name, options, base, counts, models):
    """Return the global model after each round of a strategy."""
    strategy = getattr(strategies, name)(initial_parameters=ndarrays_to_parameters(layers(base)), **options)
    for number, updates in enumerate(models, start=1):
        answers = [
            FitRes(Status(Code.OK, ""), ndarrays_to_parameters(layers(model)), int(count), {})
            for model, count in zip(updates, counts, strict=True)
        ]
        parameters, _ = strategy.aggregate_fit(number, [(None, answer) for answer in answers], [])
        yield np.concatenate(parameters_to_ndarrays(parameters))


def main(given, found, name, options):
    """Read, compute, write."""
    arrays = np.load(given)
    base, counts, models = arrays["base"], arrays["counts"], arrays["models"]
    if name.startswith("aggregate"):
        made = by_function(name, json.loads(options), counts, models)
    else:
        made = by_strategy(name, json.loads(options), base, counts, models)
    np.savez(found, models=np.stack(list(made)))


if __name__ == "__main__":
    main(*sys.argv[1:])
