"""Personalization: what of a model stays at its site, and what else a site trains for itself.

Arrays whose role is `private` never leave the agent: it keeps them with each update, as it keeps
`state`, and gives them back with the next model. So FedPer and FedRep (a head of each site's own,
arXiv:1912.00818 and 2102.07078) and FedBN (own normalisation layers, arXiv:2102.07623) are a matter
of naming arrays. `Ditto` is a whole model of each site's own beside the common one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fl_main.corrections.base import Correction
from fl_main.corrections.fedprox import proximal
from fl_main.errors import SettingsError
from fl_main.training import Evaluation, TrainingTask
from fl_main.weights import Array, Role, as_arrays

PERSONAL = "personal_"  # before the names of metrics of a site's own model
_PRIVATE = "private"


class PrivateArrays:
    """Where an agent's private arrays lie among what it keeps.

    Args:
        run_id: Of the run: those of another one are not used.
        first: What there is before any were kept.
    """

    def __init__(self, run_id: str, first: Mapping[str, Array]) -> None:
        self._prefix = f"{_PRIVATE} {run_id} "
        self._first = first

    def of(self, kept: Mapping[str, Array]) -> dict[str, Array]:
        """Return the private arrays by their names in the model."""
        found = {
            name.removeprefix(self._prefix): array
            for name, array in kept.items()
            if name.startswith(self._prefix)
        }
        return {**self._first, **found}

    def others(self, kept: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the program itself, or a correction, has kept."""
        return {name: array for name, array in kept.items() if not name.startswith(f"{_PRIVATE} ")}

    def to_keep(
        self, kept: Mapping[str, Array], private: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> dict[str, Array] | None:
        """Return what to keep with an update; None to let what is kept be.

        Args:
            kept: What is there.
            private: The private arrays of the update; those that it does not have stay as they are.
            state: What the program wants to keep; None for what it kept before.
        """
        if state is None and not private:
            return None
        own = self.others(kept) if state is None else state
        before = {name: array for name, array in kept.items() if name.startswith(self._prefix)}
        given = {f"{self._prefix}{name}": array for name, array in private.items()}
        return as_arrays({**own, **before, **given})


def private_of(values: Mapping[str, Any], roles: Mapping[str, Role]) -> dict[str, Any]:
    """Return the arrays that are private by these roles."""
    return {name: array for name, array in values.items() if roles.get(name) is Role.PRIVATE}


class Ditto(Correction):
    """F_k(v) + λ/2 ||v - x||²: a model v of this site's own that stays near the global one, x.

    Source: Li, Hu, Beirami, Smith: Ditto: Fair and Robust Federated Learning Through
    Personalization, ICML 2021 (arXiv:2012.04221), Algorithm 1. The global model is trained as ever,
    by whatever strategy; v is trained beside it, kept here with each update, and never sent.

        ditto = Ditto(task, 0.1)
        personal = {name: array.copy() for name, array in ditto.weights.items()}
        …                                                 # train it: ditto.add_to(gradients, personal)
        task.submit(weights, n, state=ditto.state(personal))

    Args:
        task: The training task.
        lam: λ, at least 0; 0 is a model of this site alone, a large one the global model.

    Attributes:
        weights: v as it was kept, or the global model before the first time; read-only.

    Raises:
        SettingsError: If λ is no such number.
    """

    name: ClassVar[str] = "ditto"

    def __init__(self, task: TrainingTask, lam: float) -> None:
        super().__init__(task)
        if not 0 <= lam < math.inf:
            raise SettingsError(f"Ditto: lam is {lam!r}, which is not a number of at least 0")
        self.weights: Mapping[str, Array] = {**task.weights, **personal_of(task.state, task.run_id)}
        self.pulls = proximal(task.weights, task.trained, float(lam))

    def state(self, personal: Mapping[str, Any]) -> dict[str, Array]:
        """Return the personal model as what is to be kept."""
        return {f"{self._prefix}{name}": array for name, array in as_arrays(personal).items()}


def personal_of(state: Mapping[str, Array], run_id: str = "") -> dict[str, Array]:
    """Return the personal model of `Ditto` among what a site kept; empty if there is none yet.

    Args:
        state: What was kept, as `task.state` or the `state` of an evaluation.
        run_id: Of the run; of any run if it is empty.
    """
    prefix = f"{Ditto.name} "
    found: dict[str, Array] = {}
    for key, array in state.items():
        if key.startswith(prefix):
            run, _, name = key.removeprefix(prefix).partition(" ")
            if run_id in ("", run):
                found[name] = array
    return found


def side_by_side(
    measure: Callable[[Mapping[str, Array]], Evaluation],
    weights: Mapping[str, Array],
    personal: Mapping[str, Any],
) -> Evaluation:
    """Measure the global and a personal model on the same held-out data.

    Args:
        measure: Measures a model.
        weights: The global model.
        personal: The site's own; if it is empty only the global one is measured.

    Returns:
        The metrics of the global model, and those of the personal one as `personal_…`.
    """
    common = measure(weights)
    if not personal:
        return common
    own = measure({**weights, **as_arrays(personal)})
    named = {f"{PERSONAL}{name}": value for name, value in own.metrics.items()}
    return Evaluation({**common.metrics, **named}, common.num_examples)
