"""FedNova: updates are divided by the work behind them before they are averaged.

Source: Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization, NeurIPS 2020 (arXiv:2007.07481), section 4.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from fl_main.errors import SettingsError, UpdateRejectedError
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import fold_deltas
from fl_main.strategies.options import one_of, ratio

REPORTED = "a_k"  # the metric by which agents say it
SMALL = 1e-3  # of τ (1 - ρ): below, a difference of two numbers near τ has lost more than three digits ...
TERMS = 5  # ... and the next term of the series is less than SMALL^5 / 2,520 of the first


class FedNova(Strategy):
    """x ← x + τ_eff Σ_k p_k Δ_k / a_k with p_k = n_k / n, τ_eff = Σ_k p_k τ_k and Δ_k = y_k - x.

    τ_k are the steps behind an update (`num_steps`), a_k the sum of the weights with which its
    gradients count: τ_k for plain gradient steps, (τ - ρ (1 - ρ^τ) / (1 - ρ)) / (1 - ρ) for momentum
    ρ, (1 - (1 - α)^τ) / α for a proximal term with α = learning rate × μ.

    Use it where sites make unequal numbers of steps, for their data or their speed: with fedavg those
    of many steps pull the model to an optimum of their own, with this it goes to that of all examples,
    the nearer the smaller the learning rate. Where all make τ plain steps it is fedavg; with momentum
    or a proximal term it moves τ / a times as far, unless `tau_eff` is `a`. Steps are what agents
    state themselves, and one that claims 10⁹ of them makes τ_eff, and the step of all, as much
    longer: not where some may lie.

    Cost: no pass over the updates before they are averaged; every update reports `num_steps`.

    Args:
        momentum: ρ of the agents' optimizer, at least 0, below 1.
        proximal: α, learning rate × μ of the agents' proximal term, at least 0, below 1.
        reported: Whether agents report `a_k` among their metrics, for optimizers of another kind.
        tau_eff: `steps` as above, which the paper recommends; `a` takes Σ_k p_k a_k, as the authors'
            code does with momentum.
    """

    wants = "deltas"
    modes = ("sync",)
    why_not = "what it evens out are steps from one global model"
    exceptions: Mapping[str, str] = {"equal": "it takes a step from the model that is there"}

    def __init__(
        self,
        momentum: float = 0.0,
        proximal: float = 0.0,
        reported: bool = False,
        tau_eff: Literal["steps", "a"] = "steps",
    ) -> None:
        self._momentum = ratio("momentum", momentum)
        self._proximal = ratio("proximal", proximal)
        if type(reported) is not bool:
            raise SettingsError(f"strategy_options.reported: {reported!r} is not true or false")
        if sum([momentum > 0, proximal > 0, reported]) > 1:
            raise SettingsError(
                "strategy_options: momentum, proximal and reported each say what a_k is: give one of them; "
                "where momentum and a proximal term meet, let agents report it"
            )
        one_of("tau_eff", tau_eff, ("steps", "a"))
        self._reported, self._tau_eff = reported, tau_eff
        self.needs = ("num_steps", REPORTED) if reported else ("num_steps",)
        self._parts: list[float] = []
        self._factors: list[float] = []

    def fault(self, update: Contribution) -> str:  # noqa: D102 - see Strategy
        if (steps := update.num_steps or 0) < 1:
            return f"num_steps is {steps}; it must be at least 1"
        if self._reported and not 0 < (said := update.metrics[REPORTED]) < math.inf:
            return f"{REPORTED} is {said}; it must be a number of more than 0"
        return ""

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        examples = sum(update.num_examples for update in contributions)
        self._parts = [update.num_examples / examples for update in contributions]
        work = [self._work(update) for update in contributions]
        steps = [float(update.num_steps or 0) for update in contributions]
        effective = work if self._tau_eff == "a" else steps
        total = sum(part * own for part, own in zip(self._parts, effective, strict=True))
        self._factors = [total * part / own for part, own in zip(self._parts, work, strict=True)]
        for update, own, factor in zip(contributions, work, self._factors, strict=True):
            if factor == math.inf:
                raise UpdateRejectedError(
                    f"{update.agent}: {REPORTED} is {own}; it is too small to divide by"
                )

    def _work(self, update: Contribution) -> float:
        """Return a_k."""
        steps = update.num_steps or 0
        if self._reported:
            return update.metrics[REPORTED]
        if (alpha := self._proximal) > 0:
            return _geometric(steps, alpha)
        return _by_momentum(steps, 1 - self._momentum)

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        fold_deltas(block, self._factors)

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        return self._parts


def _geometric(steps: int, alpha: float) -> float:
    """Return (1 - (1 - α)^τ) / α, α above 0: Σ_i (1 - α)^i of τ terms, however small α is."""
    return -math.expm1(steps * math.log1p(-alpha)) / alpha


def _by_momentum(steps: int, rest: float) -> float:
    """Return (τ - ρ (1 - ρ^τ) / (1 - ρ)) / (1 - ρ), given 1 - ρ, of more than 0.

    Where ρ is so near to 1 that the difference would cancel, it is the sum of the powers of 1 - ρ that it
    consists of: C(τ + 1, 2) - C(τ + 1, 3) (1 - ρ) + C(τ + 1, 4) (1 - ρ)² - …
    """
    if rest == 1:
        return steps
    if steps * rest > SMALL:
        return (steps - (1 - rest) * _geometric(steps, rest)) / rest
    term = steps * (steps + 1) / 2
    total = term
    for power in range(1, TERMS):
        term *= -rest * (steps - power) / (power + 2)
        total += term
    return total
