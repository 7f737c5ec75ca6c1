"""Local models as what they add to their base: the form in which asynchronous updates travel.

A delta has the layout of the model. Its float parameters are differences; every other array
(integers, running statistics, counters) is the local model's own, as a difference of those says
nothing.
"""

import numpy as np

from fl_main.weights import Array, ArraySpec, Layout, Weights


def subtract(base: Weights, local: Weights, layout: Layout) -> dict[str, Array]:
    """Return the delta, local - base: what `add` makes the local model of again, to rounding.

    Args:
        base: What the training started from; not changed.
        local: What came of it; not changed.
        layout: Of both; arrays that are not in it are left out.

    Returns:
        New arrays of the local model's dtypes for float parameters; the others are the local
        model's. A difference too large for its dtype is infinite.
    """
    return {
        spec.name: _difference(base[spec.name], local[spec.name], spec)
        if spec.is_trained
        else local[spec.name]
        for spec in layout.arrays
    }


def add(base: Weights, delta: Weights, layout: Layout) -> dict[str, Array]:
    """Return the local model, base + delta.

    Args:
        base: What the training started from; not changed.
        delta: What `subtract` returned; not changed.
        layout: Of both; arrays that are not in it are left out.

    Returns:
        New arrays of the base's dtypes for float parameters; the others are the delta's. Where
        the delta is zero, the base's value is kept bit for bit.
    """
    return {
        spec.name: _sum(base[spec.name], delta[spec.name], spec) if spec.is_trained else delta[spec.name]
        for spec in layout.arrays
    }


def _difference(base: Array, local: Array, spec: ArraySpec) -> Array:
    wide = spec.dtype.computed.stored
    with np.errstate(over="ignore"):  # infinite: refused as any other model that is not finite
        return np.asarray(local.astype(wide) - base.astype(wide)).astype(local.dtype)


def _sum(base: Array, delta: Array, spec: ArraySpec) -> Array:
    wide = spec.dtype.computed.stored
    with np.errstate(over="ignore"):
        moved = np.asarray(base.astype(wide) + delta.astype(wide)).astype(base.dtype)
    return np.where(delta == 0, base, moved)  # -0.0 + 0.0 would be 0.0
