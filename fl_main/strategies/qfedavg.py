"""q-FedAvg: agents on whose data the model is worse count for more.

Source: Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning, ICLR 2020
(arXiv:1905.10497), Algorithm 2.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import UpdateRejectedError
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_deltas
from fl_main.strategies.options import not_negative, positive
from fl_main.strategies.scalars import squared_norm

LONGEST = 1e290  # of q L ‖Δ‖²: divided by TINY, and the sum over all agents, it is still a float64
TINY = 1e-10  # added to a loss, as in the authors' code: 0 to a negative power is infinite


class QFedAvg(Strategy):
    """x ← x + Σ_k F_k^q L Δ_k / Σ_k (q F_k^(q-1) ‖L Δ_k‖² + L F_k^q) with L = 1 / learning rate.

    Δ_k = y_k - x is what agent k adds, and F_k the loss of the global model on its data: agents measure
    it before they train, and report it with the update.

    Use it where no site may be left behind: the larger q, the more those of a high loss count, so that
    the losses come closer to each other, at some cost of the mean. q = 0 is the plain mean of updates.
    What counts is a loss that agents state themselves: not where some may lie.

    Cost: one pass over the updates; every update reports its loss.

    Args:
        learning_rate: Of the agents' training, more than 0: the paper's guess of 1 / L.
        q: At least 0; the paper tries 0.001 to 15, and 1 to 5 on most data.
        metric: Name of the metric that is F_k.
    """

    passes = 1
    wants = "deltas"
    modes = ("sync",)
    why_not = "it weighs losses of one global model"
    measures = ("factor",)
    exceptions: Mapping[str, str] = {
        "equal": "it takes a step from the model that is there",
        "scale": "the length of a step is weighed against the loss, which does not grow with the model",
    }

    def __init__(self, learning_rate: float, q: float = 1.0, metric: str = "loss") -> None:
        self._learning_rate = positive("learning_rate", learning_rate)
        self._q = not_negative("q", q)
        self._metric = metric
        self.needs = (metric,)
        self._losses: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)
        self._agents: list[str] = []

    def fault(self, update: Contribution) -> str:  # noqa: D102 - see Strategy
        if not 0 <= (loss := update.metrics[self._metric]) < math.inf:
            return f"{self._metric} is {loss}; it must be a number of at least 0"
        return ""

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._losses = TINY + np.array([update.metrics[self._metric] for update in contributions])
        self._squares = np.zeros(len(contributions))
        self._agents = [update.agent for update in contributions]

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        for index, delta in enumerate(block.updates()):
            self._squares[index] += squared_norm(delta)

    @cached_property
    def _factors(self) -> list[float]:
        """What each difference is multiplied by."""
        # Of losses divided by the largest: the formula's value, and no power of a large loss is infinite.
        # What it divides is divided by L too, which may be too large to square.
        weights = (self._losses / self._losses.max()) ** self._q
        below = weights * (1 + self._lengths() / self._losses)
        factors: list[float] = (weights / below.sum()).tolist()
        return factors

    def _lengths(self) -> NDArray[np.float64]:
        """Return q L ‖Δ_k‖² of each update.

        Raises:
            UpdateRejectedError: If it is more than a float64 can say.
        """
        if self._q == 0:
            return np.zeros(len(self._squares))
        lengths = self._q * (self._squares / self._learning_rate)
        for agent, length in zip(self._agents, lengths, strict=True):
            if not length < LONGEST:
                raise UpdateRejectedError(
                    f"{agent}: its update is too long to be weighed: q L ‖Δ‖² is {length}"
                )
        return lengths

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_deltas(block, self._factors)

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return self._factors  # what they miss of 1 is the base's part

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        return [{"factor": factor} for factor in self._factors]
