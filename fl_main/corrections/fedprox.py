"""FedProx at the agent: a proximal term that keeps the local model near the global one.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous
Networks, MLSys 2020 (arXiv:1812.06127), equation 2.
"""

from collections.abc import Mapping
from typing import ClassVar

from fl_main.corrections.base import Correction, Pull
from fl_main.training import TrainingTask
from fl_main.weights import Array


def proximal(weights: Mapping[str, Array], names: tuple[str, ...], mu: float) -> dict[str, Pull]:
    """Return the term μ/2 ||w - x||² over some arrays of a model x."""
    return {name: Pull(curvature=mu, center=weights[name]) for name in names}


class FedProx(Correction):
    """F_k(w) + μ/2 ||w - x||², with x the global model: its gradient is μ (w - x)."""

    name: ClassVar[str] = "fedprox"

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task)
        self.pulls = proximal(task.weights, task.trained, self._option("mu"))
