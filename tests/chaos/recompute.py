"""FedAvg once more, in numpy: what each global model must be, from the stored updates alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from fl_main.weights import Array


def mean(files: Sequence[Path], examples: Sequence[int]) -> dict[str, Array]:
    """Return x̄ after x̄ += (n_k / N_k)(x_k − x̄) for each update in order, N_k = n_1 + … + n_k.

    Args:
        files: The updates' safetensors files, in the order in which they were frozen.
        examples: Of each update.
    """
    total = 0.0
    result: dict[str, Array] = {}
    for file, count in zip(files, examples, strict=True):
        total += count
        for name, array in load_file(file).items():
            if name not in result:
                result[name] = array
            else:
                step = array.dtype.type(count / total)
                result[name] = (result[name] + (array - result[name]) * step).astype(array.dtype)
    return result


def is_equal(first: dict[str, Array], second: dict[str, Array]) -> bool:
    """Whether two models are the same, bit for bit."""
    return first.keys() == second.keys() and all(
        array.dtype == second[name].dtype and np.array_equal(_bits(array), _bits(second[name]))
        for name, array in first.items()
    )


def _bits(array: Array) -> Array:
    return np.frombuffer(array.tobytes(), np.uint8)
