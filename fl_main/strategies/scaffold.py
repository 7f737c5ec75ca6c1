"""SCAFFOLD: control variates that take out the drift of local steps.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging
for Federated Learning, ICML 2020 (arXiv:1910.06378), Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fl_main.errors import SettingsError
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_deltas
from fl_main.strategies.options import one_of, positive

ONLY_SYNC = (
    "an agent's own part of it goes from one counted update to the next, and two of them may be under way"
)


class Scaffold(Strategy):
    """x ← x + η_g (1/|S|) Σ_k (y_k - x); c ← c + (|S|/N) (1/|S|) Σ_k (c_k⁺ - c_k), over the agents k of S.

    Agents step by y ← y - lr (g_k(y) - c_k + c) (`fl_main.corrections`), keep c_k at their site, and
    send its change. N is the number of agents that may train, here or not. The sum of all changes is
    kept, and c is made of it with the N of the day, so that c stays the mean of all c_k when agents
    join later. Every update counts once, whatever its examples: the optimum is that of the mean of
    the F_k. With `weighting: examples` the means are weighted by n_k, as in FLamby: that of all data;
    Σ n_k c_k is kept, and divided by N times the mean of the round's n_k.

    Use it where sites differ and do several local steps of plain gradient descent: it goes to the
    optimum, where FedAvg goes to another point. It needs agents that come back with their state
    folders; with a few of very many agents per round c_k is stale, and momentum or Adam at the
    agents does not go with option 2.

    Cost: one more array set of the model's size each way, and two more in the database.

    Args:
        eta: η_g, the server's learning rate, more than 0.
        option: How agents renew c_k: 1: the gradient of all their data at x, which they compute;
            2: from their steps, for nothing.
        weighting: `uniform` counts every update once (the paper); `examples` weighs by them, which is
            right where an agent has as many in every round, and c exact where all agents take part.
    """

    state = ("total", "control")
    paired = state
    down = ("control",)
    up = ("control",)
    modes = ("sync",)
    why_not = ONLY_SYNC
    alone = "its control variates must follow from the same updates as the model"
    exceptions: Mapping[str, str] = {"equal": "it takes a step from the model that is there"}
    wants = "deltas"

    def __init__(
        self, eta: float = 1.0, option: int = 2, weighting: Literal["uniform", "examples"] = "uniform"
    ) -> None:
        self._eta = positive("eta", eta)
        if type(option) is not int or option not in (1, 2):
            raise SettingsError(f"strategy_options.option: {option!r} is not 1 or 2")
        one_of("weighting", weighting, ("uniform", "examples"))
        if weighting == "examples":
            self.exceptions = {**self.exceptions, "examples": "the sum that is kept grows with them"}
        self._option = option
        self._weighting = weighting
        self._counts: list[int] = []

    def correction(self) -> Mapping[str, Any]:  # noqa: D102 - see Strategy
        return {"name": "scaffold", "option": self._option}

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        is_uniform = self._weighting == "uniform"
        self._counts = [1 if is_uniform else update.num_examples for update in contributions]

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        out, total = block.out, block.state["total"]
        fold_deltas(block, [self._eta * part for part in self.shares()])
        for change, count in zip(block.updates("control"), self._counts, strict=True):
            change *= out.dtype.type(count)
            total += change
        everybody = block.agents * sum(self._counts) / len(self._counts)
        np.multiply(total, total.dtype.type(1 / everybody), out=block.state["control"])

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        total = sum(self._counts)
        return [count / total for count in self._counts]
