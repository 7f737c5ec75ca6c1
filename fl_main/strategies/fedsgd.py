"""FedSGD: one full-batch gradient step per agent and round.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of
Deep Networks from Decentralized Data, AISTATS 2017 (arXiv:1602.05629), section 2.
"""

from collections.abc import Sequence

from fl_main.errors import UpdateRejectedError
from fl_main.strategies.base import Contribution
from fl_main.strategies.fedavg import FedAvg


class FedSGD(FedAvg):
    """w ← Σ_k (n_k / n) w_k = w - η Σ_k (n_k / n) ∇F_k(w), with w_k = w - η ∇F_k(w) of one step.

    Use it to get exactly what gradient descent on all data in one place gives, to rounding: as a
    yardstick, or where a model is convex and small. It needs many more rounds than fedavg. Agents
    make one step on all of their data and report `num_steps=1`; a round with an update of more steps
    fails, as it would not be this any more.

    Cost: no pass over the updates before they are averaged, nothing more on the wire.
    """

    needs = ("num_steps",)
    modes = ("sync",)
    why_not = "a gradient counts at the model that it was computed at"

    def __init__(self) -> None:
        super().__init__()

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        for update in contributions:
            if update.num_steps != 1:
                raise UpdateRejectedError(
                    f"{update.agent} made {update.num_steps} steps, and fedsgd is of one on all data: "
                    "mend its training, or take fedavg"
                )
        super().begin(contributions)
