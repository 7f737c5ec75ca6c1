"""FedSGD: one full-batch gradient step per agent and round.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of
Deep Networks from Decentralized Data, AISTATS 2017 (arXiv:1602.05629), section 2.
"""

from fl_main.strategies.base import Contribution
from fl_main.strategies.fedavg import FedAvg


class FedSGD(FedAvg):
    """w ← Σ_k (n_k / n) w_k = w - η Σ_k (n_k / n) ∇F_k(w), with w_k = w - η ∇F_k(w) of one step.

    Use it to get exactly what gradient descent on all data in one place gives, to rounding: as a
    yardstick, or where a model is convex and small. It needs many more rounds than fedavg. Agents
    make one step on all of their data and report `num_steps=1`; an update of more steps is rejected,
    as it would not be this any more.

    Cost: no pass over the updates before they are averaged, nothing more on the wire.
    """

    needs = ("num_steps",)
    modes = ("sync",)
    why_not = "a gradient counts at the model that it was computed at"

    def __init__(self) -> None:
        super().__init__()

    def fault(self, update: Contribution) -> str:  # noqa: D102 - see Strategy
        if update.num_steps == 1:
            return ""
        return (
            f"num_steps is {update.num_steps}, but fedsgd is of one step on all data: "
            "mend the training, or take fedavg"
        )
