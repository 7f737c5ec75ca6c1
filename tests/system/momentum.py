"""A strategy of a user's own: server momentum, sent down; a drift of each agent, sent up."""

from collections.abc import Sequence

import numpy as np

from fl_main.strategies import Block, Contribution, FedAvg


class Momentum(FedAvg):
    """m ← β m + mean(y) − x + mean(drift); x ← x + m."""

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
        drift = np.mean([values.copy() for values in block.updates("drift")], axis=0)
        momentum = block.state["momentum"]
        momentum *= self._beta
        momentum += block.out - block.base + drift.astype(momentum.dtype)
        block.out[:] = block.base + momentum


class Fresh(FedAvg):
    """A mean that is only right for updates of the current model."""

    modes = ("sync",)
    why_not = "it throws away what others learned meanwhile"
