"""Coordinate-wise trimmed mean: of each value the mean without the largest and the smallest ones.

Source: Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018 (arXiv:1803.01498), Definition 2 and Algorithm 1, option II.
"""

import math

import numpy as np

from fl_main.errors import SettingsError
from fl_main.strategies.base import Values
from fl_main.strategies.median import Coordinates, mean_of_rows
from fl_main.strategies.options import positive

ROUNDING = 1e-9  # 0.29 x 100 is 28.999999999999996


class TrimmedMean(Coordinates):
    """x_j ← mean of y_1,j, …, y_n,j without the ⌊β n⌋ largest and the ⌊β n⌋ smallest, for each value j.

    Use it where the median loses too much: the larger β, the nearer it is to that. Every update
    counts once, whatever its examples. Running statistics are trimmed, too; integers and booleans are
    medians.

    Bears: ⌊β n⌋ of n.

    Cost: one pass over the updates, which are sorted value by value; nothing more on the wire.

    Args:
        beta: β, the part that is dropped at each end, more than 0, less than 1/2.
    """

    def __init__(self, beta: float = 0.2) -> None:
        self._beta = positive("beta", beta)
        if self._beta >= 0.5:
            raise SettingsError(f"strategy_options.beta: {beta!r} is not a number below 0.5")
        self.min_updates = math.ceil(1 / self._beta - ROUNDING)
        self.why_least = f"of fewer, beta = {self._beta:g} drops none"

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return min(math.floor(self._beta * updates + ROUNDING), (updates - 1) // 2)  # one is left at least

    def reduce(self, rows: Values, out: Values) -> None:  # noqa: D102 - see Coordinates
        dropped = self.bears(len(rows))
        mean_of_rows(np.sort(rows, axis=0)[dropped : len(rows) - dropped], out)
