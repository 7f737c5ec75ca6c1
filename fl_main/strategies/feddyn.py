"""FedDyn: a regulariser that moves with the rounds, so that the local optima meet in the global one.

Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on
Dynamic Regularization, ICLR 2021 (arXiv:2111.04263), Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.options import positive
from fl_main.strategies.scaffold import ONLY_SYNC


class FedDyn(Strategy):
    """h ← h - α (1/N) Σ_k (y_k - x); x ← (1/|S|) Σ_k y_k - h/α, over the agents k of S.

    Agents minimise F_k(y) - <g_k, y> + α/2 ||y - x||² (`fl_main.corrections`) and keep
    g_k ← g_k - α (y_k - x) at their site. N is the number of agents that may train, here or not;
    N h, the sum of all g_k, is what is kept. Every update counts once, whatever its examples: the
    optimum is that of the mean of the F_k.

    Use it where sites differ and train long, with whatever optimizer: it goes to the optimum, where
    FedAvg goes to another point, and sends no more than FedAvg. It needs agents that come back with
    their state folders, no `compression.codec`, and an α that fits: too small lets
    the first rounds overshoot.

    Cost: nothing more on the wire, one more array set of the model's size in the database.

    Args:
        alpha: α, more than 0; the paper tries 0.001, 0.01 and 0.1.
    """

    state = ("total",)
    paired = state
    modes = ("sync",)
    why_not = ONLY_SYNC
    alone = "what its agents keep must follow from the same updates as the model"
    exceptions: Mapping[str, str] = {"equal": "it takes a step from the model that is there"}
    wants = "deltas"
    exact = "what an agent keeps follows from its update as it made it, and the two must agree"

    def __init__(self, alpha: float = 0.1) -> None:
        self._alpha = positive("alpha", alpha)
        self._updates = 0

    def correction(self) -> Mapping[str, Any]:  # noqa: D102 - see Strategy
        return {"name": "feddyn", "alpha": self._alpha}

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._updates = len(contributions)

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        out, total = block.out, block.state["total"]
        out[:] = 0
        for delta in block.updates():
            out += delta
        total -= out.dtype.type(self._alpha) * out
        out *= out.dtype.type(1 / self._updates)
        out += block.base
        out -= total * out.dtype.type(1 / (block.agents * self._alpha))

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return [1 / self._updates] * self._updates
