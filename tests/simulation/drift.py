"""A strategy for mode async that keeps state of its own, and wants a second channel."""

from fl_main.strategies import Block, FedBuff
from tests.system.momentum import Drifting


class Drift(Drifting, FedBuff):
    """m ← β m + mean(drift); x ← FedBuff(x) + m."""

    def combine(self, block: Block) -> None:
        super().combine(block)
        block.out[:] += self.moved(block)
