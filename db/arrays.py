"""A stored model's arrays in numbers, read in pieces: a model may be larger than memory."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_main.store import DataFile
from fl_main.weights import ArraySpec, DType

from .records import ArrayFacts

_PIECE_BYTES = 4 << 20


def describe(file: DataFile) -> Iterator[ArrayFacts]:
    """Yield the facts of each array, in the order of the layout."""
    buffer = bytearray(_PIECE_BYTES)
    for spec in file.layout.arrays:
        yield _describe(spec, _pieces(file, spec, buffer))


def _pieces(file: DataFile, spec: ArraySpec, buffer: bytearray) -> Iterator[NDArray[np.float64]]:
    start = file.layout.offsets[spec.name]
    for place in range(0, spec.nbytes, len(buffer)):
        view = memoryview(buffer)[: min(len(buffer), spec.nbytes - place)]
        file.read_into(start + place, view)
        yield _floats(np.frombuffer(view, spec.dtype.stored), spec.dtype)


def _floats(values: NDArray[Any], dtype: DType) -> NDArray[np.float64]:
    if dtype is DType.BF16:  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def _describe(spec: ArraySpec, pieces: Iterator[NDArray[np.float64]]) -> ArrayFacts:
    least, largest, total, norm, count = math.inf, -math.inf, 0.0, 0.0, 0
    for piece in pieces:
        finite = piece[np.isfinite(piece)]
        if finite.size:
            least, largest = min(least, float(finite.min())), max(largest, float(finite.max()))
            total += float(finite.sum())
            norm = math.hypot(norm, float(np.linalg.norm(finite)))
            count += finite.size
    words = (spec.name, str(spec.dtype), spec.shape, str(spec.role))
    if not count:
        return ArrayFacts(*words, None, None, None, None, spec.size)
    return ArrayFacts(*words, least, total / count, largest, norm, spec.size - count)
