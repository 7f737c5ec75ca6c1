"""SCAFFOLD at the agent: control variates that take out the drift of local steps.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging
for Federated Learning, ICML 2020 (arXiv:1910.06378), Algorithm 1.
"""

from typing import ClassVar

from fl_main.corrections.base import Correction, Given, Outcome, Pull
from fl_main.errors import SettingsError
from fl_main.training import TrainingTask
from fl_main.weights import Array

CONTROL = "control"  # the channel of c on its way down, and of the change of c_k on its way up


class Scaffold(Correction):
    """y ← y - lr (g_k(y) - c_k + c), with c_k this agent's control variate and c the run's.

    After training c_k becomes, by the run's option, I: ∇F_k(x), or II: c_k - c + (x - y)/(K lr),
    which costs nothing. Its change is sent; c_k is kept here.
    """

    name: ClassVar[str] = "scaffold"

    def __init__(self, task: TrainingTask) -> None:
        super().__init__(task)
        self._is_second = task.correction.get("option") == 2
        if not self._is_second and task.correction.get("option") != 1:
            raise SettingsError(
                f"the run asks for option {task.correction.get('option')!r} of scaffold: 1 or 2"
            )
        self._own: dict[str, Array] = {**self._zeros(), **self._kept(CONTROL)}
        self._all: dict[str, Array] = {**self._zeros(), **task.channels.get(CONTROL, {})}
        self.pulls = {name: Pull(slope=self._all[name] - self._own[name]) for name in task.trained}

    def _outcome(self, given: Given) -> Outcome:
        new = self._second(given) if self._is_second else given.gradients()
        change = {name: array - self._own[name] for name, array in new.items()}
        return Outcome({CONTROL: change}, {f"{CONTROL}/{name}": array for name, array in new.items()})

    def _second(self, given: Given) -> dict[str, Array]:
        """Return c_k by option II."""
        way, local = given.steps * given.rate, given.local()
        return {
            name: self._own[name] - self._all[name] + (x - local[name]) / way
            for name, x in given.base.items()
        }
