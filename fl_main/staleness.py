"""What an update counts that was trained on an older global model.

Sources: Nguyen et al. 2022 (FedBuff, arXiv:2106.06639): 1/√(1+τ); Xie et al. 2019 (FedAsync,
arXiv:1903.03934), section 5.2: the polynomial and the hinge function.
"""

from fl_main.settings import StalenessSettings

POLYNOMIAL_A, HINGE_A = 0.5, 10.0


def discount(staleness: int, settings: StalenessSettings) -> float:
    """Return s(τ), from 0 to 1.

    Args:
        staleness: τ, global versions between its base and now, at least 0.
        settings: Which function.
    """
    if settings.discount == "polynomial":
        return float((1 + staleness) ** -(settings.a or POLYNOMIAL_A))
    if settings.discount == "hinge" and staleness > settings.b:
        return 1 / ((settings.a or HINGE_A) * (staleness - settings.b) + 1)
    return 1.0
