"""What an update counts for in a mean: its examples, or as much as any other."""

from typing import Literal, TypeAlias, get_args

from fl_main.strategies.base import Contribution
from fl_main.strategies.options import one_of

Weighting: TypeAlias = Literal["examples", "uniform"]


def check_weighting(value: object) -> None:
    """Refuse an option `weighting` that is neither.

    Raises:
        SettingsError: If it is neither.
    """
    one_of("weighting", value, get_args(Weighting))


def weight_of(update: Contribution, weighting: Weighting, cap: int | None = None) -> float:
    """Return what an update counts for, discounted for its staleness.

    Args:
        update: Its facts.
        weighting: By what it counts.
        cap: Most examples that it may count for; None for no limit.
    """
    if weighting == "uniform":
        return update.discount
    return min(update.num_examples, cap or update.num_examples) * update.discount
