"""Between the types that values are stored in and those that they are computed with."""

import numpy as np

from fl_main.weights import Array, DType


def decoded(raw: Array, dtype: DType) -> Array:
    """Return stored values in the precision that is computed in: float32 or float64.

    Args:
        raw: As stored: bfloat16 as its bits.
        dtype: Their type.

    Returns:
        raw itself where it is of that type already; integers and bools become float64.
    """
    if dtype is DType.BF16:  # its bits are the upper half of a float32's
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if dtype.is_float:
        return raw.astype(dtype.computed.stored, copy=False)
    return raw.astype(np.float64)


def stored_as(values: Array, dtype: DType) -> Array:
    """Return values in a float type as it is stored, rounded half to even.

    Args:
        values: Floats of any precision.
        dtype: The float type.

    Returns:
        values itself where it is of that type already. What is too large for it is infinite.
    """
    with np.errstate(over="ignore"):
        if dtype is not DType.BF16:
            return values.astype(dtype.stored, copy=False)
        narrow = np.ascontiguousarray(values, np.float32)
    bits = narrow.view(np.uint32)
    stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    stored[np.isnan(narrow)] = 0x7FC0  # a carry may have made a number of it
    return stored
