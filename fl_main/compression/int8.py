"""The codec int8: 8 bits for each value, as parts of the largest of its block.

a = max |v| / 127 for each block of values (symmetric: 0 stays 0), code round(v / a). Gholami et
al. 2021, "A Survey of Quantization Methods for Efficient Neural Network Inference", section
III.C (arXiv:2103.13630), with the blocks of Dettmers et al. 2022 (arXiv:2110.02861), so that one
large value does not make all others coarse. The error of a value is less than a when rounded by
chance (Gupta et al. 2015, arXiv:1502.02551), at most a / 2 to the nearest.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fl_main.compression.quantized import Quantized
from fl_main.strategies.base import Values


@dataclass(frozen=True, slots=True)
class Int8(Quantized):
    """Rounds to 255 steps between a block's largest magnitude and its negative.

    Attributes:
        block: Values that share a scale.
        rounding: `stochastic` or `nearest`.
    """

    name: ClassVar[str] = "int8"

    rounding: str = "stochastic"

    @property
    def largest(self) -> int:
        """The largest code of 8 bits that has a negative."""
        return 127

    @property
    def is_stochastic(self) -> bool:
        """Whether it rounds by chance."""
        return self.rounding == "stochastic"

    def scales_of(self, values: Values, starts: NDArray[np.intp]) -> Values:
        """Return max |v| / 127 of each block."""
        largest: Values = np.maximum.reduceat(np.abs(values), starts)
        return largest.astype(np.float64) / self.largest  # a float32 might lose a tiny one
