"""Coordinate-wise median: of each value of the model the median over the updates.

Source: Yin, Chen, Ramchandran, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018 (arXiv:1803.01498), Definition 1 and Algorithm 1, option I.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fl_main.strategies.base import Block, Contribution, Strategy, Values
from fl_main.strategies.fedavg import fold_mean, running_shares
from fl_main.strategies.geometry import Sightings


def mean_of_rows(rows: Values, out: Values) -> None:
    """Write the plain mean of some rows to out; equal rows give exactly that row. Changes rows."""
    fold_mean(rows, running_shares([1.0] * len(rows)), out)


def median_of(rows: Values, out: Values) -> None:
    """Write the median of each place to out, of an even number the mean of the middle two; rows stay."""
    ordered, half = np.sort(rows, axis=0), (len(rows) - 1) // 2
    mean_of_rows(ordered[half : len(rows) // 2 + 1], out)


class Coordinates(Strategy):
    """Base of the rules that combine each value for itself, running statistics too.

    A subclass says by `reduce` what becomes of the values of all updates in one place.
    """

    stacks = True
    takes_buffers = True
    one_each = True
    measures = ("distance", "cosine")

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._seen = Sightings(len(contributions))

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        rows = block.stack()
        self.reduce(rows, block.out)
        self._seen.take(rows, block.base, block.out)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        self.reduce(block.stack(), block.out)

    def reduce(self, rows: Values, out: Values) -> None:
        """Write what comes of the updates' values, shape (updates, length), to out; rows stay as they are."""
        raise NotImplementedError  # each rule says how

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        return self._seen.notes()


class Median(Coordinates):
    """x_j ← median {y_1,j, …, y_n,j} for each value j; of an even number the mean of the middle two.

    Use it where few sites may be faulty in ways that nobody can foretell, and sites are much alike:
    of data that differ much from site to site it learns what is in the middle, and slower than a mean.
    Every update counts once, whatever its examples. Running statistics are medians, too, and so are
    integers and booleans (of an even number the lower one).

    Bears: fewer than half, ⌊(n - 1) / 2⌋ of n.

    Cost: one pass over the updates, which are sorted value by value; nothing more on the wire.
    """

    min_updates = 3
    why_least = "the median of fewer bears no faulty one"

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return (updates - 1) // 2

    def reduce(self, rows: Values, out: Values) -> None:  # noqa: D102 - see Coordinates
        median_of(rows, out)
