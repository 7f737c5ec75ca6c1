"""A function of the user's own that measures a model."""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from fl_main.errors import SettingsError
from fl_main.plugins import imported
from fl_main.training import Evaluation
from fl_main.weights import Array

Measured = dict[str, float]
VALUE = "value"  # what a number is called that came without a name


class Evaluator:
    """Measures models by a function: `function(weights)` gives a number, numbers by name or an `Evaluation`.

    Args:
        function: The function itself, or `package.module:function`, found where Python finds modules.

    Raises:
        SettingsError: If it cannot be imported.
    """

    def __init__(self, function: str | Callable[[Mapping[str, Array]], Any]) -> None:
        if isinstance(function, str):
            self.name = function
            self._function = imported(function, "--evaluate")
        else:
            self.name = getattr(function, "__qualname__", type(function).__name__)
            self._function = function

    def __call__(self, weights: Mapping[str, Array]) -> Measured:
        """Return what it measures of a model; a number without a name is called `value`.

        Raises:
            SettingsError: If it raises, or gives back something else.
        """
        try:
            found = self._function(weights)
        except Exception as error:  # a function of the user's own may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise SettingsError(f"--evaluate: {self.name} failed: {said}") from error
        if isinstance(found, Evaluation):  # the function may be that of the agents
            found = found.metrics
        named = found if isinstance(found, Mapping) else {VALUE: found}
        if not named or not all(isinstance(value, numbers.Real) for value in named.values()):
            raise SettingsError(
                f"--evaluate: {self.name} returned {type(found).__name__} {str(found)[:80]}: "
                "give back a number, or a mapping of names to numbers"
            )
        return {str(name): float(value) for name, value in named.items()}

    def measured(self, weights: Mapping[str, Array], metric: str | None) -> tuple[str, float]:
        """Return one of the numbers that it measures, and its name.

        Args:
            weights: The model.
            metric: Which; may be left out if there is only one.

        Raises:
            SettingsError: If there is no such, or it is not finite.
        """
        found = self(weights)
        name = next(iter(found)) if metric is None and len(found) == 1 else metric
        if name not in found:
            raise SettingsError(f"--metric: {self.name} measures {', '.join(found)}; name one of them")
        if not math.isfinite(found[name]):
            raise SettingsError(f"--evaluate: {self.name} says of a model that {name} is {found[name]}")
        return name, found[name]
