"""Error feedback: what an agent could not send is added to what it sends next.

With p = e + g, an agent sends C(p) and keeps e <- p - C(p) (Stich, Cordonnier & Jaggi 2018,
"Sparsified SGD with Memory", Algorithm 1, arXiv:1809.07599; for any codec Karimireddy et al.
2019, arXiv:1901.09847). So what was sent in all, and e, are the sum of all g, to rounding:
nothing is lost, it comes later. g is what a local model adds to its base, so this is for
differences only. e becomes current when the update counted in a global model, not before: one
that was refused is as if it had not been.
"""

from collections.abc import Iterator

import numpy as np

from fl_main.compression.base import Codec
from fl_main.compression.vector import Signal
from fl_main.precision import decoded
from fl_main.sources import Source, read_array


def left_of(codec: Codec, signal: Signal, stored: Source) -> Iterator[memoryview]:
    """Yield the data of what an encoding left to be sent, in pieces, as `Codec.left_layout` has it.

    Args:
        codec: That encoded.
        signal: What was encoded, p; what it reads from must not have changed.
        stored: What came of it.
    """
    vector = signal.vector
    sent = codec.decoded(stored, vector.model)
    for start, size in vector.stretches():
        span = vector.span_at(start)
        dtype = span.segment.dtype
        offset = span.segment.offset + (start - span.start) * dtype.stored.itemsize
        left = signal.read(start, size) - decoded(read_array(sent, offset, size, dtype), dtype)
        yield left.view(np.uint8).data
