"""Global models computed anew: each strategy's formula, written down once more.

Everything is float32 (float64 where the model is), in the order in which the fold takes the
updates, so that the bits must be the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_main.weights import Array

Arrays = Mapping[str, Array]
Discounts = Sequence[float]


@dataclass(frozen=True, slots=True)
class Part:
    """One update of a global model.

    Attributes:
        arrays: As they are stored: a local model, or what it adds to its origin.
        origin: What it was trained on.
        late: Global models between its origin and the one it is part of.
    """

    arrays: Arrays
    origin: Arrays
    is_delta: bool
    num_examples: int
    late: int

    def local(self, name: str) -> Array:
        """Return an array of the local model."""
        return self.arrays[name] + self.origin[name] if self.is_delta else self.arrays[name]

    def delta(self, name: str) -> Array:
        """Return what an array of the local model adds to its origin."""
        return self.arrays[name] if self.is_delta else self.arrays[name] - self.origin[name]


def recomputed(run: Mapping[str, Any], base: Arrays, parts: Sequence[Part]) -> Arrays:
    """Return the global model that follows from a base and its updates by the run's settings."""
    discounts = [discount(part.late, run) for part in parts]
    formula, options = FORMULAS[run["strategy"]], run["strategy_options"]
    return {name: formula(name, base[name], parts, discounts, options) for name in base}


def discount(late: int, run: Mapping[str, Any]) -> float:
    """Return what an update counts that is so many versions late."""
    how = run["staleness"]
    if run["mode"] == "sync" or how["discount"] == "none":
        return 1.0
    if how["discount"] == "polynomial":
        return float((1 + late) ** -(how["a"] or 0.5))
    return 1.0 if late <= how["b"] else 1 / ((how["a"] or 10.0) * (late - how["b"]) + 1)


def _fedavg(name: str, base: Array, parts: Sequence[Part], discounts: Discounts, options: Any) -> Array:
    """x̄ += (n_k / N_k)(y_k - x̄), with N_k the sum up to k."""
    mean, total = base, 0.0
    for part, discounted in zip(parts, discounts, strict=True):
        count = part.num_examples * discounted
        total += count
        mean = (
            part.local(name)
            if count == total
            else mean + (part.local(name) - mean) * _as(base, count / total)
        )
    return mean


def _fedbuff(
    name: str, base: Array, parts: Sequence[Part], discounts: Sequence[float], options: Any
) -> Array:
    """x + Σ_k (η s_k / K) Δ_k."""
    moved = base * 0
    for part, discounted in zip(parts, discounts, strict=True):
        moved = moved + part.delta(name) * _as(base, options["eta"] * discounted / len(parts))
    return moved + base


def _fedasync(
    name: str, base: Array, parts: Sequence[Part], discounts: Sequence[float], options: Any
) -> Array:
    """x += α s_k (y_k - x), for one update after the other."""
    model = base
    for part, discounted in zip(parts, discounts, strict=True):
        model = model + (part.local(name) - model) * _as(base, options["alpha"] * discounted)
    return model


def _median(name: str, base: Array, parts: Sequence[Part], discounts: Discounts, options: Any) -> Array:
    """The middle one of each value, or halfway between the middle two."""
    values = np.sort(np.stack([part.local(name) for part in parts]), axis=0)
    low, high = values[(len(parts) - 1) // 2], values[len(parts) // 2]
    middle: Array = low + (high - low) * _as(base, 0.5)
    return middle


def _as(array: Array, number: float) -> Any:
    return array.dtype.type(number)


FORMULAS: dict[str, Callable[[str, Array, Sequence[Part], Discounts, Any], Array]] = {
    "fedavg": _fedavg,
    "fedbuff": _fedbuff,
    "fedasync": _fedasync,
    "median": _median,
}
