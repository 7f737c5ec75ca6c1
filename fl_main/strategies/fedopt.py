"""FedAdagrad, FedAdam, FedYogi: adaptive server optimizers.

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated
Optimization, ICLR 2021 (arXiv:2003.00295), Algorithm 2.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from fl_main.strategies.base import Block, Strategy, Values
from fl_main.strategies.options import not_negative, one_of, positive, ratio

_SCALE = "Δ is measured against τ and what v began with, which are not scaled"


class _FedOpt(Strategy):
    """m ← β₁ m + (1 - β₁) Δ; v ← …; x ← x + η m / (√v + τ), with Δ what the rule found minus x.

    Args:
        eta: η.
        beta1: β₁.
        tau: τ.
        initial_v: v before the first round, and where the run's state begins anew; None for τ².
    """

    step = "optimizer"
    modes = ("sync", "semi-sync", "async")
    state = ("m", "v")
    exceptions: Mapping[str, str] = {"equal": "a step of another size is taken", "scale": _SCALE}

    def __init__(self, eta: float, beta1: float, tau: float, initial_v: float | None) -> None:
        self._eta = positive("eta", eta)
        self._beta1 = ratio("beta1", beta1)
        self._tau = positive("tau", tau)
        self._initial_v = self._tau**2 if initial_v is None else not_negative("initial_v", initial_v)

    def combine(self, block: Block) -> None:
        out, m, v = block.out, block.state["m"], block.state["v"]
        if block.is_first:
            v[:] = self._initial_v
        out -= block.base  # Δ from here on
        m *= self._beta1
        m += (1 - self._beta1) * out
        self._accumulate(v, np.square(out))
        out[:] = block.base + self._rate(block.version) * m / (np.sqrt(v) + self._tau)

    def _accumulate(self, v: Values, square: Values) -> None:
        """Take Δ² into v, in place."""
        raise NotImplementedError  # each of the three has its own rule

    def _rate(self, version: int) -> float:
        """Return the learning rate of the step that makes this global model."""
        return self._eta


class FedAdagrad(_FedOpt):
    """v ← v + Δ²; x ← x + η m / (√v + τ), with m ← β₁ m + (1 - β₁) Δ and Δ what the rule found minus x.

    Use it where few updates touch a parameter, as with sparse features and rare words: their steps
    stay large while those of the others shrink. v only grows, so the steps of a long run fade.

    Cost: no pass; about 4 ns of a processor per value; two arrays of the model's size are kept.

    Args:
        eta: η, the server's learning rate, more than 0.
        beta1: β₁, what is left of m after a round, at least 0, below 1; the paper's is 0.
        tau: τ, below which a Δ counts as small, more than 0.
        initial_v: v before the first round, at least 0; None for τ², as in the paper's algorithm.
            Its experiments and Flower begin with 0.
    """

    def __init__(
        self, eta: float = 0.1, beta1: float = 0.0, tau: float = 1e-3, initial_v: float | None = None
    ) -> None:
        super().__init__(eta, beta1, tau, initial_v)

    def _accumulate(self, v: Values, square: Values) -> None:
        v += square


class FedAdam(_FedOpt):
    """v ← β₂ v + (1 - β₂) Δ²; x ← x + η m / (√v + τ), m ← β₁ m + (1 - β₁) Δ, Δ what the rule found minus x.

    Use it where parameters need steps of different sizes, as in language models, or where the
    updates' size changes over the rounds. It needs an η of its own: try 0.001 to 0.1.

    Cost: no pass; about 4 ns of a processor per value; two arrays of the model's size are kept.

    Args:
        eta: η, the server's learning rate, more than 0.
        beta1: β₁, what is left of m after a round, at least 0, below 1.
        beta2: β₂, what is left of v after a round, at least 0, below 1. The authors' later code has
            0.999, as has FLamby, with τ = 1e-8.
        tau: τ, below which a Δ counts as small, more than 0; added after the root.
        initial_v: v before the first round, at least 0; None for τ², as in the paper's algorithm.
            Its experiments and Flower begin with 0.
        bias_correction: `none`, as in the paper's algorithm; `adam` multiplies η by
            √(1 - β₂^t) / (1 - β₁^t) in round t = 1, 2, …, as Keras and with it the paper's
            experiments (Kingma and Ba 2015, section 2); `flower` the same with t + 1, as Flower 1.42.
    """

    def __init__(
        self,
        eta: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        initial_v: float | None = None,
        bias_correction: Literal["none", "adam", "flower"] = "none",
    ) -> None:
        super().__init__(eta, beta1, tau, initial_v)
        self._beta2 = ratio("beta2", beta2)
        one_of("bias_correction", bias_correction, ("none", "adam", "flower"))
        self._bias_correction = bias_correction

    def _accumulate(self, v: Values, square: Values) -> None:
        v *= self._beta2
        v += (1 - self._beta2) * square

    def _rate(self, version: int) -> float:
        if self._bias_correction == "none":
            return self._eta
        power = version if self._bias_correction == "adam" else version + 1
        return self._eta * math.sqrt(1 - self._beta2**power) / (1 - self._beta1**power)


class FedYogi(_FedOpt):
    """v ← v - (1 - β₂) Δ² sign(v - Δ²); x ← x + η m / (√v + τ), m ← β₁ m + (1 - β₁) Δ, Δ = rule's result - x.

    Use it as FedAdam, where that is restless: however large the change of Δ², v changes by no more
    than (1 - β₂) Δ² per round, so that a rare large update is not forgotten at once.

    Cost: no pass; about 4 ns of a processor per value; two arrays of the model's size are kept.

    Args:
        eta: η, the server's learning rate, more than 0.
        beta1: β₁, what is left of m after a round, at least 0, below 1.
        beta2: β₂, how little of Δ² v takes in, at least 0, below 1.
        tau: τ, below which a Δ counts as small, more than 0.
        initial_v: v before the first round, at least 0; None for τ², as in the paper's algorithm.
            Its experiments and Flower begin with 0.
    """

    def __init__(
        self,
        eta: float = 0.1,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        initial_v: float | None = None,
    ) -> None:
        super().__init__(eta, beta1, tau, initial_v)
        self._beta2 = ratio("beta2", beta2)

    def _accumulate(self, v: Values, square: Values) -> None:
        v -= (1 - self._beta2) * square * np.sign(v - square)
