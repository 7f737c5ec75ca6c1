"""FedCurv at the agent: a penalty on moving what matters to the other agents.

Source: Shoham, Avidor, Keren, Israel, Benditkis, Mor-Yosef, Zeitak: Overcoming Forgetting in
Federated Learning on Non-IID Data, NeurIPS 2019 workshop (arXiv:1910.07796), section 3.
"""

from typing import ClassVar

import numpy as np

from fl_main.corrections.base import Correction, Given, Outcome, Pull
from fl_main.training import TrainingTask
from fl_main.weights import Array

ROUNDING = 256  # times the last place of a sum: what is less than that is what rounding has left of it
FISHER, WEIGHTED = "fisher", "weighted"  # channels, both ways: I_k and I_k w_k; down, sums over agents


class FedCurv(Correction):
    """F_k(w) + λ Σ_(j≠k) (w - w_j)ᵀ diag(I_j) (w - w_j) over the other agents of the last round.

    With A = Σ I_j and B = Σ I_j w_j its gradient is 2 λ (A w - B). The run sends the sums over all
    agents of the round that made the global model; this agent takes its own part out if it was in it.
    Where next to nothing is left then, as far as it can be told from rounding, both are 0: the others
    do not care, and with A = 0 alone nothing would hold against the slope of B.
    """

    name: ClassVar[str] = "fedcurv"

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task)
        strength, pulls = self._option("lam"), dict[str, Pull]()
        fisher, weighted = self._others(FISHER), self._others(WEIGHTED)
        for name in task.trained if fisher else ():  # else nobody has told what matters yet
            total = np.abs(task.channels[FISHER][name])
            told = fisher[name] > ROUNDING * np.finfo(total.dtype).eps * total
            curvature, slope = (np.where(told, part[name], 0) for part in (fisher, weighted))
            pulls[name] = Pull(2 * strength * curvature, slope=-2 * strength * slope)
        self.pulls = pulls

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
