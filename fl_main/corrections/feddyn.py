"""FedDyn at the agent: a regulariser that moves with the rounds, so that local optima meet.

Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on
Dynamic Regularization, ICLR 2021 (arXiv:2111.04263), Algorithm 1.
"""

from typing import ClassVar

from fl_main.corrections.base import Correction, Given, Outcome, Pull
from fl_main.training import TrainingTask
from fl_main.weights import Array


class FedDyn(Correction):
    """F_k(y) - <g_k, y> + α/2 ||y - x||²: its gradient adds α (y - x) - g_k.

    After training g_k ← g_k - α (y - x), kept here: the gradient of F_k at y, if y is the optimum.
    """

    name: ClassVar[str] = "feddyn"

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task)
        self._alpha = self._option("alpha")
        self._own: dict[str, Array] = {**self._zeros(), **self._kept("gradient")}
        self.pulls = {name: Pull(self._alpha, task.weights[name], -self._own[name]) for name in task.trained}

    def _outcome(self, given: Given) -> Outcome:
        local = given.local()
        return Outcome(
            kept={
                f"gradient/{name}": self._own[name] - self._alpha * (local[name] - x)
                for name, x in given.base.items()
            }
        )
