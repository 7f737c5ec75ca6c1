"""FedAsync: every update moves the global model towards the local one, the less the older it is.

Source: Xie, Koyejo, Gupta: Asynchronous Federated Optimization, 2019 (arXiv:1903.03934), Algorithm 1.
"""

from collections.abc import Mapping, Sequence

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.options import positive


class FedAsync(Strategy):
    """x ← (1 - α_k) x + α_k y_k with α_k = α s(t - τ_k), for one update y_k after the other.

    Use it where single sites may shape the model: each update is published at once
    (`round.buffer` is 1 unless the settings say otherwise, so `round.min_updates` must be 1). Of
    a larger buffer the updates are taken one by one, in the order of their agents. s is the
    run's `staleness`.

    Cost: no pass over the updates before they are combined, nothing more on the wire.

    Args:
        alpha: α, how far a fresh update moves the model, more than 0, at most 1.
    """

    modes = ("semi-sync", "async")
    why_not = "it takes updates one by one, and the last would count most in a round of all"
    buffer = 1
    alone = "it takes updates one by one, so there is no one result, nor one base, for other steps"
    exceptions: Mapping[str, str] = {
        "order": "it takes one update after the other",
        "equal": "it moves only a part of the way",
    }

    def __init__(self, alpha: float = 0.6) -> None:
        self._alpha = positive("alpha", alpha, most=1.0)
        self._steps: list[float] = []

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._steps = [self._alpha * update.discount for update in contributions]

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        out = block.out
        out[:] = block.base
        for model, step in zip(block.updates(), self._steps, strict=True):
            model -= out
            model *= out.dtype.type(step)
            out += model

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        shares: list[float] = []
        for step in self._steps:
            shares = [share * (1 - step) for share in shares] + [step]
        return shares
