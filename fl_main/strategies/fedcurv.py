"""FedCurv: FedAvg whose agents are held back where the other agents' models are certain.

Source: Shoham, Avidor, Keren, Israel, Benditkis, Mor-Yosef, Zeitak: Overcoming Forgetting in
Federated Learning on Non-IID Data, NeurIPS 2019 workshop (arXiv:1910.07796), section 3.
"""

from collections.abc import Mapping
from typing import Any, Literal

from fl_main.strategies.base import Block
from fl_main.strategies.fedavg import FedAvg
from fl_main.strategies.options import not_negative
from fl_main.strategies.scaffold import ONLY_SYNC


class FedCurv(FedAvg):
    """x ← Σ_k (n_k / n) y_k, where agent k minimises F_k(w) + λ Σ_(j≠k) (w - y_j)ᵀ diag(I_j) (w - y_j).

    I_j is the diagonal of the Fisher information of agent j at its last local model y_j. Agents send
    I_k and I_k y_k; the run sends back their sums over the agents of the last round, from which each
    agent takes its own part out (`fl_main.corrections`).

    Use it where sites have different labels and each round forgets what the others know. In the
    first round it is FedAvg.

    Cost: two more array sets of the model's size each way, and in the database; at the agents the
    gradient of every example once.

    Args:
        lam: λ, at least 0; 0 is FedAvg.
        weighting: As for fedavg.
        cap: As for fedavg.
    """

    state = ("fisher", "weighted")
    paired = state
    down = ("fisher", "weighted")
    up = ("fisher", "weighted")
    modes = ("sync",)
    why_not = ONLY_SYNC
    alone = "its penalty must follow from the same updates as the model"

    def __init__(
        self,
        lam: float = 0.1,
        weighting: Literal["examples", "uniform"] = "examples",
        cap: int | None = None,
    ) -> None:
        super().__init__(weighting, cap)
        self._lam = not_negative("lam", lam)

    def correction(self) -> Mapping[str, Any]:  # noqa: D102 - see Strategy
        return {"name": "fedcurv", "lam": self._lam}

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        super().combine(block)
        for channel in self.up:
            total = block.state[channel]
            total[:] = 0
            for values in block.updates(channel):
                total += values
