"""What an update counts for in a mean: its examples, or as much as any other."""

from typing import Literal, TypeAlias, get_args

from fl_main.errors import SettingsError
from fl_main.strategies.base import Contribution

Weighting: TypeAlias = Literal["examples", "uniform"]


def checked_weighting(value: object) -> Weighting:
    """Return the option `weighting`.

    Raises:
        SettingsError: If it is neither.
    """
    for word in get_args(Weighting):
        if value == word:
            return word  # type: ignore[no-any-return]
    raise SettingsError(f"strategy_options.weighting: {value!r} is not examples or uniform")


def weight_of(update: Contribution, weighting: Weighting) -> float:
    """Return what an update counts for, discounted for its staleness."""
    return (update.num_examples if weighting == "examples" else 1) * update.discount
