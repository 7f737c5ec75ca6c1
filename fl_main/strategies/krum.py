"""Krum and Multi-Krum: the updates whose neighbours are nearest.

Source: Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent, NeurIPS 2017, sections 4 and 5.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_mean, running_shares
from fl_main.strategies.geometry import Geometry, Numbers, as_notes
from fl_main.strategies.median import median_of
from fl_main.strategies.options import whole
from fl_main.strategies.weighting import Weighting, check_weighting, weight_of


def krum_scores(squares: Numbers, f: int) -> Numbers:
    """Return s(i), the sum of the squared distances from i to its n - f - 2 nearest others.

    Args:
        squares: Squared distance of each pair, shape (n, n).
        f: How many of them may be faulty; where n - f - 2 is less than 1, the nearest one counts.
    """
    points = len(squares)
    others = squares[~np.eye(points, dtype=bool)].reshape(points, points - 1)
    scores: Numbers = np.sort(others, axis=1)[:, : max(1, points - f - 2)].sum(axis=1)
    return scores


def totals_of(squares: Numbers) -> Numbers:
    """Return the sum of each point's squared distances, the smallest first: whatever order they are in."""
    totals: Numbers = np.sort(squares, axis=1).sum(axis=1)
    return totals


def ranked(scores: Numbers, totals: Numbers) -> list[int]:
    """Return the points by their scores, the least first.

    The nearest two of three have one score: the one that is nearer to all comes first, so that the
    order of the updates does not matter; only of equal ones the first does.
    """
    order: list[int] = np.lexsort((totals, scores)).tolist()
    return order


class Selection(Strategy):
    """Base of the rules that keep some whole updates, and take their mean."""

    passes = 1
    stacks = True
    selects = True
    takes_buffers = True
    one_each = True
    measures = ("distance", "score", "kept", "cosine")

    def __init__(self, f: int) -> None:
        self._f = whole("f", f, 0)

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return self._f if updates >= self.min_updates else 0

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._facts = contributions
        self._seen = Geometry(len(contributions))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack(), block.base)

    def selected(self) -> list[int]:
        """Return which updates are kept, by their places."""
        raise NotImplementedError  # each rule says which

    def _ranked(self) -> list[int]:
        squares = self._seen.squares
        return ranked(krum_scores(squares, self._f), totals_of(squares))

    def weight(self, update: Contribution) -> float:
        """Return what an update counts for that is kept."""
        raise NotImplementedError  # each rule says how much

    @cached_property
    def _kept(self) -> list[float]:
        kept = set(self.selected())
        counts = [self.weight(update) if i in kept else 0.0 for i, update in enumerate(self._facts)]
        return [count / sum(counts) for count in counts]

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return self._kept

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_mean(block.updates(), running_shares(self._kept), block.out)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        median_of(block.stack(), block.out)

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        seen, shares = self._seen, self._kept
        return as_notes(
            distance=seen.distances(shares),
            score=krum_scores(seen.squares, self._f),
            kept=[float(share > 0) for share in shares],
            cosine=seen.cosines_to_mean(),
        )


class Krum(Selection):
    """x ← y_i of the least score s(i) = Σ_(i→j) ‖y_i - y_j‖², over the n - f - 2 nearest y_j.

    Use it where one honest site's model is good enough, and faulty ones may be anywhere: the new
    model is one update, as it came. Where data differ from site to site it favours the sites in the
    middle; Multi-Krum wastes less. Running statistics, integers and booleans are medians of each value
    over all updates: nothing says that those of an update that was kept are right.

    Bears: f of n ≥ 2 f + 3.

    Cost: one pass to measure n × n distances, one to take the model; nothing more on the wire.

    Args:
        f: How many updates may be faulty, at least 0.
    """

    def __init__(self, f: int = 1) -> None:
        super().__init__(f)
        self.min_updates = 2 * self._f + 3
        self.why_least = f"f = {self._f} faulty ones are borne by n ≥ 2f + 3"

    def selected(self) -> list[int]:  # noqa: D102 - see Selection
        return self._ranked()[:1]

    def leaves(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return 1

    def weight(self, update: Contribution) -> float:  # noqa: D102 - see Selection
        return 1.0


class MultiKrum(Selection):
    """x ← (1/m) Σ y_i over the m updates of the least Krum scores s(i).

    Use it in place of Krum where the mean of many sites is wanted: it leaves out the f updates that
    are farthest from their neighbours, and takes the mean of the others. Running statistics, integers
    and booleans are medians of each value over all updates.

    Bears: f of n ≥ 2 f + 3.

    Cost: one pass to measure n × n distances, one to take the mean; nothing more on the wire.

    Args:
        f: How many updates may be faulty, at least 0.
        m: How many are kept, at least 1, at most n - f; None for n - f.
        weighting: `uniform` takes their plain mean (the paper); `examples` weighs those that are kept
            by `num_examples`, as Flower does.
    """

    def __init__(self, f: int = 1, m: int | None = None, weighting: Weighting = "uniform") -> None:
        super().__init__(f)
        self._m = None if m is None else whole("m", m, 1)
        check_weighting(weighting)
        self._weighting = weighting
        self.min_updates = max(2 * self._f + 3, self._f + (self._m or 0))
        self.why_least = f"f = {self._f} faulty ones are borne by n ≥ 2f + 3"
        if self.min_updates > 2 * self._f + 3:
            self.why_least = f"m = {self._m} are kept of n - f"

    def selected(self) -> list[int]:  # noqa: D102 - see Selection
        return self._ranked()[: self.leaves(len(self._facts))]

    def leaves(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return self._m or updates - self._f

    def weight(self, update: Contribution) -> float:  # noqa: D102 - see Selection
        return weight_of(update, self._weighting)
