"""Norm bound: no update moves the model by more than so much.

Source: Sun, Kairouz, Suresh, McMahan: Can You Really Backdoor Federated Learning?, 2019
(arXiv:1911.07963), section 4, "norm thresholding of updates".
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.options import positive
from fl_main.strategies.scalars import squared_norm


class NormBound(Strategy):
    """Δ_k ← Δ_k min(1, M / ‖Δ_k‖), with the norm over all parameters together.

    Use it before any rule to bound what one agent can do: a boosted update counts no more than
    another of norm M. It bounds an attack and removes none; a rule that bears faulty agents goes
    behind it. Take M a little above the norms of honest updates, which `fl db` shows once it is
    on: a lower one slows all of them down. The norm is of parameters only: an update whose running
    statistics alone are wild is not scaled, and a mean behind it lets them in.

    Cost: one pass over the updates, about 1 ns of a processor per value and update.

    Args:
        bound: M, the largest norm that is left as it is, more than 0.
    """

    step = "scaling"
    modes = ("sync", "semi-sync", "async")
    wants = "deltas"
    passes = 1
    measures = ("norm", "factor")
    exceptions: Mapping[str, str] = {
        "equal": "what is far away is not reached",
        "scale": "the bound is a length, which does not grow with the model",
    }

    def __init__(self, bound: float) -> None:
        self._bound = positive("bound", bound)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._squares = np.zeros(len(contributions))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        for index, delta in enumerate(block.updates()):
            self._squares[index] += squared_norm(delta)

    def factors(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return [min(1.0, self._bound / norm) if norm else 1.0 for norm in np.sqrt(self._squares).tolist()]

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        norms = np.sqrt(self._squares).tolist()
        return [{"norm": norm, "factor": factor} for norm, factor in zip(norms, self.factors(), strict=True)]
