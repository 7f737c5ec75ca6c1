"""FedCurv at the agent: a penalty on moving what matters to the other agents.

Source: Shoham, Avidor, Keren, Israel, Benditkis, Mor-Yosef, Zeitak: Overcoming Forgetting in
Federated Learning on Non-IID Data, NeurIPS 2019 workshop (arXiv:1910.07796), section 3.
"""

from typing import ClassVar

import numpy as np

from fl_main.corrections.base import Correction, Given, Outcome, Pull
from fl_main.training import TrainingTask
from fl_main.weights import Array

FISHER, WEIGHTED = "fisher", "weighted"  # channels, both ways: I_k and I_k w_k; down, sums over agents


class FedCurv(Correction):
    """F_k(w) + λ Σ_(j≠k) (w - w_j)ᵀ diag(I_j) (w - w_j) over the other agents of the last round.

    With A = Σ I_j and B = Σ I_j w_j its gradient is 2 λ (A w - B). The run sends the sums over all
    agents of the round that made the global model; this agent takes its own part out if it was in it.
    """

    name: ClassVar[str] = "fedcurv"

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task)
        strength = self._option("lam")
        fisher, weighted = self._others(FISHER), self._others(WEIGHTED)
        if fisher:  # else nobody has told what matters yet
            self.pulls = {
                # A sum less a part of it may miss 0 by rounding: a negative curvature would push away.
                name: Pull(2 * strength * np.maximum(fisher[name], 0), slope=-2 * strength * weighted[name])
                for name in task.trained
            }

    def _others(self, channel: str) -> dict[str, Array]:
        """Return the sums without this agent's own part."""
        sums = self._task.channels.get(channel, {})
        counted = self._kept("round").get("", np.array(-1))
        if int(counted) != self._task.base_round:
            return dict(sums)
        own = self._kept(channel)
        return {name: array - own[name] if name in own else array for name, array in sums.items()}

    def _outcome(self, given: Given) -> Outcome:
        fisher, local = given.fishers(), given.local()
        channels = {FISHER: fisher, WEIGHTED: {name: fisher[name] * local[name] for name in fisher}}
        kept = {
            f"{channel}/{name}": array
            for channel, arrays in channels.items()
            for name, array in arrays.items()
        }
        return Outcome(channels, kept | {"round/": np.array(self._task.round_id)})
