"""What a correction is: a term added to the local objective, and what its strategy wants back.

The terms of FedProx, SCAFFOLD, FedDyn and FedCurv are all quadratics without cross terms. For
each value w of the model

    term(w) = ½ h (w - z)² + s w        its gradient: h (w - z) + s

with a curvature h ≥ 0, a centre z and a slope s. So a training loop stays its own: it adds the
gradient to the one of its loss, or where gradients are found automatically, the term to the loss.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fl_main.errors import LayoutMismatchError, LocalProtocolError, SettingsError
from fl_main.training import TrainingTask
from fl_main.weights import Array, as_arrays, dtype_of

Part = Array | float
Lazy = Mapping[str, Any] | Callable[[], Mapping[str, Any]]  # arrays by name, or what returns them


@dataclass(frozen=True, slots=True)
class Pull:
    """The correction of one array: ½ h (w - z)² + s w, summed over its values.

    Attributes:
        curvature: h, a number or an array of the shape of w.
        center: z, in the same way.
        slope: s, in the same way.
    """

    curvature: Part = 0.0
    center: Part = 0.0
    slope: Part = 0.0

    def gradient(self, values: Array) -> Array:
        """Return h (w - z) + s, in the precision of the values."""
        return np.asarray(self.curvature * (values - self.center) + self.slope, values.dtype)

    def term(self, values: Array) -> float:
        """Return the sum over the values, computed in float64."""
        exact = values.astype(np.float64)
        return float((self.curvature / 2 * (exact - self.center) ** 2 + self.slope * exact).sum())


class Correction:
    """What the run's strategy asks of one training; `correction_of` makes it from the task.

    Without a strategy that asks for something it corrects nothing, so that a program can use it
    whatever the run's strategy is.

    Args:
        task: The training task.

    Attributes:
        name: As the strategy calls it; empty for none.
        pulls: What is added, by the name of the array; an array that is not there is left alone.

    Raises:
        SettingsError: If the task asks for something that cannot be.
    """

    name: ClassVar[str] = ""

    def __init__(self, task: TrainingTask) -> None:
        self.pulls: Mapping[str, Pull] = {}
        self._task = task

    # --- in the training loop -------------------------------------------------------------

    def add_to(self, gradients: MutableMapping[str, Array], weights: Mapping[str, Array]) -> None:
        """Add the correction's gradient to those of the loss, in place.

        Args:
            gradients: Of the loss, by array name: of each that the run trains, zeros where the loss does
                not depend on it; arrays without a correction stay as they are.
            weights: Where they were computed.

        Raises:
            LocalProtocolError: If one is missing, or is no array: the training would not be what the
                run asks for, and nobody would know.
        """
        for name in self.pulls:
            if not isinstance(gradients.get(name), np.ndarray | np.generic | float):
                said = (
                    f"is a {type(gradients[name]).__name__}, not an array"
                    if name in gradients
                    else "is missing"
                )
                raise LocalProtocolError(
                    f"correction.add_to: the gradient of {name!r} {said}, and the run asks for {self.name}; "
                    f"name gradients as task.weights does{_there(gradients)}"
                )
        for name, pull in self.pulls.items():
            gradient = gradients[name]
            gradient += pull.gradient(weights[name])
            gradients[name] = gradient  # a number, as of an array without dimensions, is not changed in place

    def gradient(self, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Return the gradient of `term` at these weights, by array name."""
        return {name: pull.gradient(weights[name]) for name, pull in self.pulls.items()}

    def term(self, weights: Mapping[str, Array]) -> float:
        """Return what is added to the local objective, but for a constant."""
        return sum(pull.term(weights[name]) for name, pull in self.pulls.items())

    # --- after it -------------------------------------------------------------------------

    def answer(
        self,
        weights: Mapping[str, Any],
        *,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        gradient: Lazy | None = None,
        fisher: Lazy | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what goes with the update: `task.submit(weights, n, **correction.answer(weights))`.

        Give what your training knows; what the run's strategy does not want is not used. Arrays may
        be functions that return them, called only where they are wanted.

        Args:
            weights: The local model after training.
            num_steps: Optimizer steps taken.
            learning_rate: Of plain gradient descent, the same in all steps.
            gradient: Of the local loss at `task.weights`, over all local data.
            fisher: Diagonal of the Fisher information at `weights`; see `fisher_of`.
            state: Arrays of your own to keep for the next task; None for those that were kept before.

        Returns:
            Arguments of `submit` and `TrainResult`: `num_steps`, `channels` and `state`.

        Raises:
            LocalProtocolError: If something is missing that the strategy wants.
        """
        base = {name: as_computed(self._task.weights[name]) for name in self._task.trained}
        given = Given(self.name, base, weights, num_steps, learning_rate, gradient, fisher)
        found = self._outcome(given)
        kept = {f"{self._prefix}{name}": array for name, array in found.kept.items()}
        own = self._others_state() if state is None else state
        return {
            "num_steps": num_steps,
            "channels": dict(found.channels),
            "state": {**own, **kept} if kept or state is not None else None,
        }

    def _others_state(self) -> dict[str, Array]:
        """Return what was kept, but for what corrections of this name kept in this or another run."""
        kept = self._task.state
        return {name: array for name, array in kept.items() if not name.startswith(f"{self.name} ")}

    def _outcome(self, given: "Given") -> "Outcome":
        """Return what comes of a training beside the weights."""
        return Outcome()

    # --- for the corrections --------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        """Before the names of what is kept: of another run's nothing is found."""
        return f"{self.name} {self._task.run_id} "

    def _zeros(self) -> dict[str, Array]:
        """Return an array of zeros for each that is trained."""
        weights = self._task.weights
        return {name: np.zeros_like(as_computed(weights[name])) for name in self._task.trained}

    def _kept(self, part: str) -> dict[str, Array]:
        """Return what was kept under names that begin with `part/`, by array name."""
        prefix = f"{self._prefix}{part}/"
        return {
            name.removeprefix(prefix): array
            for name, array in self._task.state.items()
            if name.startswith(prefix)
        }

    def _option(self, name: str) -> float:
        """Return an option of the correction that is a number of at least 0."""
        value = self._task.correction.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < np.inf:
            return float(value)
        raise SettingsError(
            f"the run asks for {self.name} with {name}={value!r}, which is not a number from 0"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of a training beside the weights.

    Attributes:
        channels: What is sent, by channel.
        kept: What this agent keeps for its next task, once the update was counted.
    """

    channels: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    kept: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Given:
    """What a training program says of its training; see `Correction.answer`.

    Attributes:
        asker: The correction that wants to know.
        base: The trained arrays of the global model, in the precision that strategies compute in.
    """

    asker: str
    base: Mapping[str, Array]
    weights: Mapping[str, Any]
    num_steps: int | None
    learning_rate: float | None
    gradient: Lazy | None
    fisher: Lazy | None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        if self.num_steps is None or self.num_steps < 1:
            raise self._missing("num_steps, the optimizer steps taken,")
        return self.num_steps

    @property
    def rate(self) -> float:
        """The learning rate."""
        if self.learning_rate is None or not self.learning_rate > 0:
            raise self._missing("learning_rate, that of plain gradient descent,")
        return self.learning_rate

    def local(self) -> dict[str, Array]:
        """Return the trained arrays of the local model."""
        return self._like_base(self.weights, "weights")

    def gradients(self) -> dict[str, Array]:
        """Return the gradient at the global model."""
        return self._called(self.gradient, "gradient")

    def fishers(self) -> dict[str, Array]:
        """Return the diagonal of the Fisher information at the local model."""
        return self._called(self.fisher, "fisher")

    def _called(self, value: Lazy | None, kind: str) -> dict[str, Array]:
        if value is None:
            raise self._missing(f"{kind}, arrays by name or a function that returns them,")
        return self._like_base(value() if callable(value) else value, kind)

    def _like_base(self, values: Mapping[str, Any], kind: str) -> dict[str, Array]:
        """Return those arrays that the base has, in its shapes and types."""
        found = as_arrays({name: values[name] for name in self.base if name in values})
        for name, array in self.base.items():
            if name not in found or found[name].shape != array.shape:
                said = f"has shape {list(found[name].shape)}" if name in found else "is missing"
                wanted = f"the model's has shape {list(array.shape)}"
                raise LayoutMismatchError(f"correction.answer: {kind}: array {name!r} {said}; {wanted}")
        return {name: np.asarray(found[name], array.dtype) for name, array in self.base.items()}

    def _missing(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(f"the run's strategy {self.asker} needs {what} in correction.answer(…)")


def _there(gradients: Mapping[str, Any]) -> str:
    return f" (given: {', '.join(sorted(gradients)[:4])})" if gradients else ""


def as_computed(array: Array) -> Array:
    """Return an array in the precision that strategies compute in; the same one where it has that."""
    return array.astype(dtype_of(array).computed.stored, copy=False)


def fisher_of(gradients: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the diagonal of the empirical Fisher information: the mean of squared gradients.

    Args:
        gradients: Of the log-likelihood of one example each, by array name, at one model.

    Returns:
        One new array per name, float64.

    Raises:
        LocalProtocolError: If there is no gradient.
    """
    sums: dict[str, Array] = {}
    examples = 0
    for gradient in gradients:
        examples += 1
        for name, array in as_arrays(gradient).items():
            sums[name] = sums.get(name, 0.0) + np.square(array, dtype=np.float64)
    if not examples:
        raise LocalProtocolError("the Fisher information needs the gradient of one example at least")
    return {name: total / examples for name, total in sums.items()}
