"""Scalars of blocks, as measuring passes add them up: in float64, whatever the model is.

They are NumPy's own sums, not those of a BLAS, whose bits depend on how many threads it takes.
"""

import numpy as np

from fl_main.strategies.base import Values


def inner(left: Values, right: Values) -> float:
    """Return Σ_i left_i right_i of two arrays of one shape."""
    return float(np.multiply(left, right, dtype=np.float64).sum())


def squared_norm(values: Values) -> float:
    """Return Σ_i values_i²."""
    return inner(values, values)


def squared_distance(left: Values, right: Values) -> float:
    """Return Σ_i (left_i - right_i)² of two arrays of one shape."""
    return squared_norm(np.subtract(left, right, dtype=np.float64))
