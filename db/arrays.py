"""A stored model's arrays in numbers, read in pieces: a model may be larger than memory."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fl_main.precision import decoded
from fl_main.sources import Source, read_array
from fl_main.weights import ArraySpec

from .records import ArrayFacts

STEP = 1 << 16  # values that are computed with at a time: 512 KiB, which fit the cache

Numbers = NDArray[np.float64]


def describe(source: Source) -> Iterator[ArrayFacts]:
    """Yield the facts of each array, in the order of the layout."""
    for spec in source.layout.arrays:
        yield _describe(spec, pieces(source, spec))


def pieces(source: Source, spec: ArraySpec) -> Iterator[Numbers]:
    """Yield an array's values piece by piece, flattened."""
    for start in range(0, spec.size, STEP):
        yield numbers(source, spec, start, min(STEP, spec.size - start))


def numbers(source: Source, spec: ArraySpec, start: int, size: int) -> Numbers:
    """Return some values of an array as new float64, flattened: integers beyond 2**53 are rounded."""
    offset = source.layout.offsets[spec.name] + start * spec.dtype.stored.itemsize
    return decoded(read_array(source, offset, size, spec.dtype), spec.dtype).astype(np.float64, copy=False)


def _describe(spec: ArraySpec, values: Iterator[Numbers]) -> ArrayFacts:
    least, largest, total, norm, count = math.inf, -math.inf, 0.0, 0.0, 0
    for piece in values:
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
