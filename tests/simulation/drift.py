"""A strategy for mode async that keeps state of its own, and wants a second channel."""

from collections.abc import Sequence

import numpy as np

from fl_main.strategies import Block, Contribution, FedBuff


class Drift(FedBuff):
    """m ← β m + mean(drift); x ← FedBuff(x) + m."""

    state = ("momentum",)
    down = ("momentum",)
    up = ("drift",)
    needs = ("num_steps",)

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = beta

    def begin(self, contributions: Sequence[Contribution]) -> None:
        super().begin(contributions)
        assert all(update.num_steps for update in contributions)

    def combine(self, block: Block) -> None:
        super().combine(block)
        momentum = block.state["momentum"]
        momentum *= self._beta
        momentum += np.mean(
            [values.copy() for values in block.updates("drift")], axis=0, dtype=momentum.dtype
        )
        block.out[:] += momentum
