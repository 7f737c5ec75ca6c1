"""Attacks on a federation, to try robust strategies against: what faulty or hostile agents would send.

Each function returns a local model as an attacker sends it, from the global model and what it knows
of honest ones. None of it is needed to attack: all of it is published. Float arrays are forged,
others are the honest ones'.

    from fl_main.testing.attacks import sign_flip

    def train(task):
        honest = my_training(task)
        return TrainResult(sign_flip(task.weights, honest), num_examples=100)
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_main.errors import WeightsError
from fl_main.weights import dtype_of

Arrays = Mapping[str, NDArray[Any]]


def label_flip(labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return the labels to train on: l becomes C - 1 - l.

    Source: Fang, Cao, Jia, Gong: Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning, USENIX Security 2020 (arXiv:1911.11815), section 4.

    Args:
        labels: Whole numbers from 0 to `classes` - 1, of any type.
        classes: C, how many labels there are.
    """
    return np.asarray(classes - 1 - labels, labels.dtype)


def sign_flip(base: Arrays, own: Arrays, scale: float = 1.0) -> dict[str, NDArray[Any]]:
    """Return x - s Δ: the opposite of what honest training adds.

    Source: Li, Xu, Chen, Giannakis, Ling: RSA: Byzantine-Robust Stochastic Aggregation Methods for
    Distributed Learning from Heterogeneous Datasets, AAAI 2019 (arXiv:1811.03761), section 5.

    Args:
        base: x, the global model.
        own: x + Δ, the attacker's honestly trained model.
        scale: s.
    """
    return _moved(base, [own], lambda deltas: -scale * deltas[0])


def scaling(base: Arrays, own: Arrays, factor: float = 10.0) -> dict[str, NDArray[Any]]:
    """Return x + γ Δ: an update made so large that it prevails in a mean.

    Source: Bagdasaryan, Veit, Hua, Estrin, Shmatikov: How To Backdoor Federated Learning, AISTATS
    2020 (arXiv:1807.00459), equation 3: model replacement. Δ is trained on what the attacker wants
    to be learned, flipped labels for instance.

    Args:
        base: x, the global model.
        own: x + Δ, the attacker's model.
        factor: γ; the number of agents replaces the model by the attacker's.
    """
    return _moved(base, [own], lambda deltas: factor * deltas[0])


def gaussian(base: Arrays, chance: np.random.Generator, sigma: float = 1.0) -> dict[str, NDArray[Any]]:
    """Return x + σ ξ with ξ drawn from a normal distribution.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine
    Tolerant Gradient Descent, NeurIPS 2017, section 6 (there with σ = 200).

    Args:
        base: x, the global model.
        chance: Where ξ comes from.
        sigma: σ.
    """
    return _moved(base, [base], lambda deltas: sigma * chance.standard_normal(deltas[0].shape))


def little_is_enough(
    base: Arrays, honest: Sequence[Arrays], attackers: int, z: float | None = None
) -> dict[str, NDArray[Any]]:
    """Return x + μ - z σ: the mean of honest updates, moved by as little as escapes notice (ALIE).

    Source: Baruch, Baruch, Goldberg: A Little Is Enough: Circumventing Defenses For Distributed
    Learning, NeurIPS 2019 (arXiv:1902.06156), Algorithm 3. All attackers send the same.

    Args:
        base: x, the global model.
        honest: Models of honest agents, as far as the attackers know them, at least one: μ and σ of
            each value are over these.
        attackers: m, how many attackers there are.
        z: How far to move; None for the paper's z_max of n = m + `honest` agents.
    """
    if z is None:
        z = little_is_enough_z(len(honest) + attackers, attackers)
    return _moved(base, honest, lambda deltas: deltas.mean(axis=0) - z * deltas.std(axis=0))


def little_is_enough_z(agents: int, attackers: int) -> float:
    """Return z_max, the largest z with Φ(z) ≤ (n - m - s) / (n - m), where s = ⌊n/2 + 1⌋ - m.

    So many honest agents, s, are expected farther from the mean than the attackers that they make a
    majority together with them. With few agents it is below 0, where it does no harm.

    Args:
        agents: n, the attackers among them.
        attackers: m, less than half of n.

    Raises:
        WeightsError: If that is not so.
    """
    if not 0 < attackers < agents / 2:
        raise WeightsError(f"{attackers} attackers of {agents} agents are none, or no minority")
    supporters = agents // 2 + 1 - attackers
    return statistics.NormalDist().inv_cdf((agents - attackers - supporters) / (agents - attackers))


def inner_product(base: Arrays, honest: Sequence[Arrays], epsilon: float = 0.1) -> dict[str, NDArray[Any]]:
    """Return x - ε μ: what makes the inner product of the mean and the true update negative.

    Source: Xie, Koyejo, Gupta: Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation, UAI 2019 (arXiv:1903.03936), section 4. All attackers send the same.

    Args:
        base: x, the global model.
        honest: Models of honest agents, as far as the attackers know them, at least one; μ is the
            mean of their updates.
        epsilon: ε; small, it escapes rules that look at distances.
    """
    return _moved(base, honest, lambda deltas: -epsilon * deltas.mean(axis=0))


def _moved(
    base: Arrays, models: Sequence[Arrays], forge: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return base plus what is forged of the models' differences from it, array by array."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in models[0].items():
        if not dtype_of(array).is_float:
            found[name] = array
            continue
        start = np.asarray(base[name], np.float64)
        deltas = np.stack([np.asarray(model[name], np.float64) - start for model in models])
        found[name] = np.asarray(start + forge(deltas), array.dtype)
    return found
