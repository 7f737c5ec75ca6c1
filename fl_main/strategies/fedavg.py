"""FederatedAveraging: the mean of the local models, weighted by their examples.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of
Deep Networks from Decentralized Data, AISTATS 2017 (arXiv:1602.05629), Algorithm 1.
"""

from collections.abc import Iterable, Sequence

from fl_main.errors import SettingsError
from fl_main.strategies.base import Block, Contribution, Strategy, Values
from fl_main.strategies.weighting import Weighting, check_weighting, weight_of


def running_shares(counts: Sequence[float]) -> list[float]:
    """Return n_k / (n_1 + … + n_k) for each k: how far the running mean moves at update k."""
    total, shares = 0.0, []
    for count in counts:
        total += count
        shares.append(count / total if total else 0.0)
    return shares


def fold_mean(values: Iterable[Values], steps: Sequence[float], out: Values) -> None:
    """Write the weighted mean of values to out.

    The running form x̄ += (n_k / N_k)(x_k - x̄) leaves equal models exactly equal, which a sum
    of products does not.

    Args:
        values: Arrays of out's shape and dtype; changed.
        steps: `running_shares` of their weights, not all zero.
        out: Takes the mean.
    """
    for value, step in zip(values, steps, strict=True):
        if step == 1.0:  # the first that counts
            out[:] = value
        elif step:
            value -= out
            value *= out.dtype.type(step)
            out += value


def fold_deltas(block: Block, factors: Iterable[float]) -> None:
    """Write x + Σ_k factor_k Δ_k to the block's `out`: the base, moved by differences that the rule weighs.

    Args:
        block: Of a rule that wants deltas.
        factors: One for each update.
    """
    out = block.out
    out[:] = 0
    for delta, factor in zip(block.updates(), factors, strict=True):
        delta *= out.dtype.type(factor)
        out += delta
    out += block.base


class FedAvg(Strategy):
    """x ← Σ_k (n_k / n) y_k over the updates y_k of those who answered.

    In mode semi-sync n_k is times the discount of the update's staleness.

    Use it first: it is the standard that others are compared with. Where sites differ and train long,
    its model jumps about, and ends beside the optimum.

    Cost: no pass over the updates before they are averaged, nothing more on the wire.

    Args:
        weighting: `examples` weighs by `num_examples` (the paper); `uniform` counts every
            update once, so that a large site has no more say than a small one.
        cap: Most examples that one update may count for; None for no limit.
    """

    why_not = (
        "a mean of models throws away what was learned since the base of the oldest, "
        "where fedbuff adds up differences"
    )

    def __init__(self, weighting: Weighting = "examples", cap: int | None = None) -> None:
        check_weighting(weighting)
        if cap is not None and (type(cap) is not int or cap < 1):
            raise SettingsError(f"strategy_options.cap: {cap!r} is not a whole number of at least 1")
        if cap is not None:
            self.exceptions = {"examples": "a cap is a number of examples, which does not grow with them"}
        self._weighting = weighting
        self._cap = cap
        self._counts: list[float] = []
        self._steps: list[float] = []

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._counts = [weight_of(update, self._weighting, self._cap) for update in contributions]
        self._steps = running_shares(self._counts)

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_mean(block.updates(), self._steps, block.out)

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        total = sum(self._counts)
        return [count / total for count in self._counts]
