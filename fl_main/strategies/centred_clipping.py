"""Centred clipping: updates are clipped around what came of the round before.

Source: Karimireddy, He, Jaggi: Learning from History for Byzantine Robust Optimization, ICML 2021
(arXiv:2012.10333), section 4, Algorithm 2 and equation (CClip).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.geometry import Geometry, Numbers, as_notes
from fl_main.strategies.median import median_of
from fl_main.strategies.options import positive, whole


class CentredClipping(Strategy):
    """v ← v + (1/n) Σ_i (Δ_i - v) min(1, τ / ‖Δ_i - v‖), x ← x + v with Δ_i = y_i - x.

    v is kept from round to round, at first 0. No update moves it by more than τ / n, whatever it is.

    Use it where sites keep momentum between rounds (the paper's worker momentum), so that what they
    send changes slowly, against attacks that are small in each round and add up. τ must fit the norms
    of honest updates: far below them the model moves slowly, far above nothing is clipped. Every
    update counts once, whatever its examples. Running statistics, integers and booleans are medians of
    each value.

    Bears: a tenth, ⌊n / 10⌋ of n, as far as the paper proves it (δ ≤ 0.1).

    Cost: one pass to measure n × n distances, one to take the mean; one more model kept between
    rounds; nothing more on the wire.

    Args:
        tau: τ, the largest distance from v that counts in full, more than 0.
        iterations: How often v is moved in a round, each time from where it is then, at least 1.
    """

    state = ("center",)
    wants = "deltas"
    passes = 1
    stacks = True
    takes_buffers = True
    measures = ("distance", "factor", "cosine")
    modes = ("sync",)
    why_not = "it compares updates with those of the round before, which late ones did not start from"
    min_updates = 10
    why_least = "it bears a tenth of the updates"
    exceptions: Mapping[str, str] = {
        "equal": "what is farther away than τ is not reached",
        "scale": "τ is a distance, which does not grow with the model",
    }

    def __init__(self, tau: float = 10.0, iterations: int = 1) -> None:
        self._tau = positive("tau", tau)
        self._iterations = whole("iterations", iterations, 1)

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        return updates // 10

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._seen = Geometry(1 + len(contributions))  # v is the first of the points

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        self._seen.take(block.stack(), first=block.state["center"])

    @cached_property
    def _moved(self) -> tuple[Numbers, Numbers]:
        """The new v as weights of the points (the old v, each update), and the last factors."""
        weights = np.zeros(len(self._seen.squares))
        weights[0] = 1.0
        for _ in range(self._iterations):
            factors = self._tau / np.maximum(self._seen.distances(weights)[1:], self._tau)
            factors *= self._seen.counted()[1:]
            weights *= 1 - factors.mean()
            weights[1:] += factors / len(factors)
        return weights, factors

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        (old, *others), center = self._moved[0].tolist(), block.state["center"]
        center *= center.dtype.type(old)
        for delta, weight in zip(block.updates(), others, strict=True):
            if weight:
                delta *= delta.dtype.type(weight)
                center += delta
        np.add(block.base, center, out=block.out)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        median_of(block.stack(), block.out)

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        shares: list[float] = self._moved[0][1:].tolist()
        return shares

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        weights, factors = self._moved
        return as_notes(
            distance=self._seen.distances(weights)[1:],
            factor=factors,
            cosine=self._seen.cosines(np.append(0.0, np.full(len(factors), 1 / len(factors))))[1:],
        )
