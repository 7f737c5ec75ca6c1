"""The strategies that are attacked, and the attacks, by what the page calls them.

Twenty sites; up to six of them (30 %) attack, the last ones. `site-00` never does: FLTrust trusts it.
Every rule has one configuration for all attacks, for as many attackers as it can bear up to six.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_main.testing.attacks import gaussian, inner_product, little_is_enough, scaling, sign_flip

SITES = 20
ATTACKERS = (2, 4, 6)  # of them: 10, 20 and 30 %
ROOT = "site-00"

Arrays = Mapping[str, NDArray[Any]]

RULES: dict[str, str | list[Any]] = {
    "fedavg": "fedavg",
    "norm_bound, fedavg": [{"norm_bound": {"bound": 0.3}}, "fedavg"],
    "median": "median",
    "trimmed_mean": [{"trimmed_mean": {"beta": 0.3}}],
    "geometric_median": "geometric_median",
    "geometric_median, 3 iterations": [{"geometric_median": {"iterations": 3}}],
    "krum": [{"krum": {"f": 6}}],
    "multi_krum": [{"multi_krum": {"f": 6}}],
    "bulyan": [{"bulyan": {"f": 4}}],
    "centred_clipping": [{"centred_clipping": {"tau": 0.3}}],
    "fltrust": [{"fltrust": {"root": ROOT}}],
}
MEAN = "fedavg"


@dataclass(frozen=True, slots=True)
class Attack:
    """What the attackers of one case do.

    Attributes:
        flips: Whether they train on flipped labels.
        forge: Makes what each sends of the global model, its own trained one, the honest sites' models
            of the round, how many attackers there are, and chance; None: what it trained.
    """

    flips: bool = False
    forge: Callable[[Arrays, Arrays, Sequence[Arrays], int, np.random.Generator], Arrays] | None = None


ATTACKS: dict[str, Attack] = {
    "label flip": Attack(flips=True),
    "sign flip": Attack(forge=lambda base, own, honest, count, chance: sign_flip(base, own, scale=4)),
    "Gaussian noise": Attack(forge=lambda base, own, honest, count, chance: gaussian(base, chance)),
    "scaling": Attack(
        flips=True, forge=lambda base, own, honest, count, chance: scaling(base, own, factor=SITES)
    ),
    "ALIE": Attack(
        forge=lambda base, own, honest, count, chance: little_is_enough(base, honest, count, z=1.5)
    ),
    "inner product": Attack(
        forge=lambda base, own, honest, count, chance: inner_product(base, honest, epsilon=0.5)
    ),
}
NONE = "none"
