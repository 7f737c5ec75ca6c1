"""The codec qsgd: s levels between 0 and the Euclidean norm of a block, rounded by chance.

Q_s(v_i) = ||v|| sign(v_i) xi_i(v, s), with xi_i = l/s or (l+1)/s for l <= s |v_i| / ||v|| < l+1, so
that E[Q_s(v)] = v and E||Q_s(v) - v||^2 <= min(n/s^2, sqrt(n)/s) ||v||^2 for a block of n values:
Alistarh, Grubic, Li, Tomioka & Vojnovic 2017, "QSGD", section 3.1 and Lemma 3.1
(arXiv:1610.02132), with the buckets of section 4. The paper's Elias code is left out; its levels
s are ours, its bucket is our block, and what is stored of a block is ||v|| / s.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_main.compression.quantized import Quantized
from fl_main.strategies.base import Values


@dataclass(frozen=True, slots=True)
class Qsgd(Quantized):
    """Rounds to some steps between 0 and a block's norm, and their negatives.

    Attributes:
        block: Values that share a norm.
        levels: Steps, s.
    """

    name: ClassVar[str] = "qsgd"

    levels: int

    @property
    def largest(self) -> int:
        """The largest code: all of a block's norm is one value's."""
        return self.levels

    def scales_of(self, values: Values, starts: NDArray[np.intp]) -> Values:
        """Return ||v|| / s of each block."""
        squares = np.square(values, dtype=np.float64)
        norms: Values = np.sqrt(np.add.reduceat(squares, starts))
        largest = np.maximum.reduceat(np.abs(values), starts)  # where the sum of squares lost it
        return np.maximum(norms, largest) / self.levels
