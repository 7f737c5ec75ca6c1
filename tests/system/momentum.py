"""A strategy of a user's own: server momentum, sent down; a drift of each agent, sent up."""

from collections.abc import Sequence

import numpy as np

from fl_main.strategies import Block, Contribution, FedAvg, Strategy
from fl_main.strategies.base import Values


class Drifting(Strategy):
    """What a strategy with momentum and drifts wants of its run, and of every update."""

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

    def moved(self, block: Block) -> Values:
        """Return the momentum of before, slowed down, plus the mean of the drifts; kept as state."""
        momentum = block.state["momentum"]
        momentum *= self._beta
        drifts = [values.copy() for values in block.updates("drift")]
        momentum += np.mean(drifts, axis=0).astype(momentum.dtype)
        return momentum


class Momentum(Drifting, FedAvg):
    """m ← β m + mean(drift) + mean(y) − x; x ← x + m."""

    def combine(self, block: Block) -> None:
        super().combine(block)
        momentum = self.moved(block)
        momentum += block.out - block.base
        block.out[:] = block.base + momentum


class Fresh(FedAvg):
    """A mean that is only right for updates of the current model."""

    modes = ("sync",)
    why_not = "it throws away what others learned meanwhile"
