"""FedProx: FedAvg whose agents stay near the global model by a proximal term.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous
Networks, MLSys 2020 (arXiv:1812.06127), Algorithm 2.
"""

from collections.abc import Mapping
from typing import Any, Literal

from fl_main.strategies.fedavg import FedAvg
from fl_main.strategies.options import not_negative


class FedProx(FedAvg):
    """x ← Σ_k (n_k / n) y_k, where agent k minimises F_k(w) + μ/2 ||w - x||².

    The aggregator averages as FedAvg does; μ goes to the agents with each task, whose training adds
    μ (w - x) to its gradients (`fl_main.corrections`). One that does not ask for it does FedAvg.

    Use it where sites differ much or do unequal amounts of work, and FedAvg is unstable. A larger μ
    is more stable and slower; the point that it goes to is still not the optimum of all data, for
    which scaffold and feddyn are made. μ = 0 is FedAvg.

    Cost: no pass over the updates before they are averaged, nothing more on the wire.

    Args:
        mu: μ, at least 0; the paper tries 0.001, 0.01, 0.1 and 1.
        weighting: As for fedavg.
        cap: As for fedavg.
    """

    def __init__(
        self,
        mu: float = 0.1,
        weighting: Literal["examples", "uniform"] = "examples",
        cap: int | None = None,
    ) -> None:
        super().__init__(weighting, cap)
        self._mu = not_negative("mu", mu)

    def correction(self) -> Mapping[str, Any]:  # noqa: D102 - see Strategy
        return {"name": "fedprox", "mu": self._mu}
