"""FedBuff: a buffer of K updates on whatever global models they started from.

Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered
Asynchronous Aggregation, AISTATS 2022 (arXiv:2106.06639), Algorithm 1.
"""

from collections.abc import Mapping, Sequence

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_deltas
from fl_main.strategies.options import positive


class FedBuff(Strategy):
    """x ← x + η_g (1/K) Σ_k s(τ_k) Δ_k over the K updates Δ_k = y_k - x_(t-τ_k) of the buffer.

    Use it in mode async: agents never wait for each other. Every update counts once, whatever
    its examples, times the discount of its staleness τ; the sum is divided by K, not by the
    discounts, so that a buffer of old updates moves the model less. K is the run's
    `round.buffer`, s its `staleness`: 1/√(1+τ) as in the paper unless the settings say otherwise.

    Cost: no pass over the updates before they are averaged, nothing more on the wire.

    Args:
        eta: η_g, the server's learning rate, more than 0.
    """

    modes = ("sync", "semi-sync", "async")
    wants = "deltas"
    exceptions: Mapping[str, str] = {"equal": "it takes a step from the model that is there"}

    def __init__(self, eta: float = 1.0) -> None:
        self._eta = positive("eta", eta)
        self._discounts: list[float] = []

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._discounts = [update.discount for update in contributions]

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_deltas(block, [self._eta * discount / len(self._discounts) for discount in self._discounts])

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        total = sum(self._discounts)
        return [discount / total for discount in self._discounts]
