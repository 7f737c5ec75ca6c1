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
from fl_main.strategies.options import positive, whole
from fl_main.strategies.weighting import Weighting, check_weighting, weight_of


class GeometricMedian(Strategy):
    """x ← argmin_z Σ_k p_k ‖z - y_k‖, by z ← Σ β_k y_k / Σ β_k with β_k = p_k / max(ν, ‖z - y_k‖).

    Use it where whole updates may be wrong and sites differ: it keeps what most of them have in
    common, and loses less than a median of each value. The paper makes few iterations since each is
    a round of messages; here they are of n × n numbers and cost nothing: with 100 it is the geometric
    median itself.

    Bears: fewer than half, ⌊(n - 1) / 2⌋ of n, where updates count alike; with weighting `examples` as
    many as have less than half of the examples together, by what they say themselves.

    Cost: one pass to measure n × n distances, one to take the mean; nothing more on the wire.

    Args:
        nu: ν, below which a distance counts as ν, more than 0.
        iterations: R, how often z is made better, from the mean on, at least 1.
        weighting: `examples` weighs by `num_examples` (the paper); `uniform` counts every update once.
    """

    passes = 1
    stacks = True
    measures = ("distance", "cosine")
    min_updates = 3
    why_least = "the median of fewer bears no faulty one"
    exceptions: Mapping[str, str] = {"scale": "ν is a distance, which does not grow with the model"}

    def __init__(self, nu: float = 1e-6, iterations: int = 3, weighting: Weighting = "examples") -> None:
        self._nu = positive("nu", nu)
        self._iterations = whole("iterations", iterations, 1)
        check_weighting(weighting)
        self._weighting = weighting

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return (updates - 1) // 2

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        weights = np.array([weight_of(update, self._weighting) for update in contributions])
        self._parts: Numbers = weights / weights.sum()
        self._seen = Geometry(len(contributions))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack(), block.base)

    @cached_property
    def _weights(self) -> list[float]:
        found = self._parts
        for _ in range(self._iterations):
            found = self._parts / np.maximum(self._nu, self._seen.distances(found))
            found /= found.sum()
        weights: list[float] = found.tolist()
        return weights

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return self._weights

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_mean(block.updates(), running_shares(self.shares()), block.out)

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        return as_notes(distance=self._seen.distances(self._weights), cosine=self._seen.cosines_to_mean())
