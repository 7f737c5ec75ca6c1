"""RFA: the geometric median of the local models, by the smoothed Weiszfeld algorithm.

Source: Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning, IEEE Transactions on
Signal Processing 2022 (arXiv:1912.13445), Algorithms 1 and 2.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_mean, running_shares
from fl_main.strategies.geometry import Geometry, Numbers, as_notes
from fl_main.strategies.median import median_of
from fl_main.strategies.options import positive, whole
from fl_main.strategies.weighting import Weighting, check_weighting, weight_of

MOST = 1000  # iterations, if z does not stand before
STANDS = 1e-10  # the relative change of every weight below which it does


class GeometricMedian(Strategy):
    """x ← argmin_z Σ_k p_k ‖z - y_k‖, by z ← Σ β_k y_k / Σ β_k with β_k = p_k / max(ν, ‖z - y_k‖).

    Use it where whole updates may be wrong and sites differ: it keeps what most of them have in
    common, and loses less than a median of each value. The paper makes few iterations since each is
    a round of messages, and they may end far from the median; here they are of n × n numbers, and go
    on till z stands. Running statistics, integers and booleans are medians of each value over all.

    Bears: fewer than half, ⌊(n - 1) / 2⌋ of n; none with so many `iterations`, nor with weighting
    `examples`, by which an agent counts for as many as it says itself.

    Cost: one pass to measure n × n distances, one to take the mean; nothing more on the wire.

    Args:
        nu: ν, below which a distance counts as ν, more than 0.
        iterations: R, how often z is made better, from the mean on, at least 1 (the paper: 3); None for
            till it stands, from the mean of those near the update that has most of them around it.
        weighting: `uniform` counts every update once, a late one too: those in time of a few must not
            outweigh late ones of most; `examples` weighs by `num_examples` (the paper) and staleness.
    """

    passes = 1
    stacks = True
    takes_buffers = True
    one_each = True
    measures = ("distance", "cosine")
    min_updates = 3
    why_least = "the median of fewer bears no faulty one"
    exceptions: Mapping[str, str] = {"scale": "ν is a distance, which does not grow with the model"}

    def __init__(
        self, nu: float = 1e-6, iterations: int | None = None, weighting: Weighting = "uniform"
    ) -> None:
        self._nu = positive("nu", nu)
        self._iterations = None if iterations is None else whole("iterations", iterations, 1)
        check_weighting(weighting)
        self._weighting = weighting

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return (updates - 1) // 2 if self._iterations is None and self._weighting == "uniform" else 0

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        is_uniform = self._weighting == "uniform"  # of staleness, too
        weights = np.array([1.0 if is_uniform else weight_of(update, "examples") for update in contributions])
        self._parts: Numbers = weights / weights.sum()
        self._seen = Geometry(len(contributions))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack(), block.base)

    @cached_property
    def _weights(self) -> list[float]:
        parts = self._parts * self._seen.counted()
        found = self._near_most(parts) if self._iterations is None else parts / parts.sum()
        for _ in range(self._iterations or MOST):
            distances = np.maximum(self._nu, self._seen.distances(found))
            before, found = found, parts * (distances.min() / distances)  # 1 / ν may be infinite
            found /= found.sum()
            if self._iterations is None and (np.abs(found - before) <= STANDS * found).all():
                break
        weights: list[float] = found.tolist()
        return weights

    def _near_most(self, parts: Numbers) -> Numbers:
        """Return the weights of the mean of those updates that are nearest to each other, more than half.

        However far off the others are, this is as near to the median as these are to each other.
        """
        order = np.argsort(self._seen.squares, axis=1, kind="stable")
        enough = (np.cumsum(parts[order], axis=1) <= parts.sum() / 2).sum(axis=1, keepdims=True)
        radii = np.take_along_axis(np.sort(self._seen.squares, axis=1), enough, axis=1)[:, 0]
        radii[parts == 0] = np.inf
        middle = int(np.argmin(radii))
        near: Numbers = np.where(self._seen.squares[middle] <= radii[middle], parts, 0.0)
        near /= near.sum()
        return near

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return self._weights

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_mean(block.updates(), running_shares(self.shares()), block.out)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        median_of(block.stack(), block.out)

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        return as_notes(distance=self._seen.distances(self._weights), cosine=self._seen.cosines_to_mean())
