"""Cyclic training: the model goes from agent to agent.

Source: Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer: Distributed deep
learning networks among institutions for medical imaging, JAMIA 25(8), 2018 ("cyclical weight transfer").
"""

from collections.abc import Sequence

from fl_main.errors import UpdateRejectedError
from fl_main.strategies.base import Block, Contribution, Strategy


class Cyclic(Strategy):
    """x ← y_k, with k the agent whose turn it is.

    A round is the turn of one agent: `cohort: {rule: number, number: 1, choose: in_turn}`, which goes
    by the order of names and then by who waited longest, and `round.min_updates: 1`, as every model
    is one site's. Who is not here is passed over, and is the next when it is back; who does not answer
    by the deadline loses its turn. A round is over when its agent has answered, so `end.rounds` is
    the number of agents times that of laps.

    Use it for few sites, alike, in few laps, or for boosted trees, whose bytes each site adds to (with
    `payload: free`). The last site counts most, and what the first one taught fades, the more so the
    more they differ; each site sees the model that another has just trained on its data alone.

    Cost: no pass over the update; as many rounds as agents for what fedavg does in one.
    """

    modes = ("sync",)
    why_not = "one agent at a time is at work"
    takes_free = True
    in_turn = True
    alone = "the model goes on as one agent left it"

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        if len(contributions) != 1:
            raise UpdateRejectedError(f"{len(contributions)} updates, and cyclic is the turn of one agent")

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        for model in block.updates():
            block.out[:] = model

    def combine_free(self, payloads: Sequence[bytes]) -> bytes:  # noqa: D102 - see Strategy
        return payloads[0]

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return [1.0]
