"""A strategy of your own: the mean, but no value moves by more than so much in a round."""

import numpy as np

from fl_main.strategies import Block, FedAvg


class Cautious(FedAvg):
    """x ← x + clip(Σ_k (n_k / n) y_k - x, -most, most), value by value."""

    exceptions = {"equal": "what is far is not reached", "scale": "most is a length"}

    def __init__(self, most: float = 0.1) -> None:
        super().__init__()
        self.most = most

    def combine(self, block: Block) -> None:
        super().combine(block)
        np.clip(block.out, block.base - self.most, block.base + self.most, out=block.out)
