"""Corrections: what a run's strategy asks agents to do to their training, which stays their own.

A program that does what is asked, if anything is, whatever the run's strategy:

    correction = correction_of(task)
    for batch in …:
        gradients = …                              # of your loss, at your weights
        correction.add_to(gradients, weights)      # in place; nothing, if nothing is asked for
        …
    task.submit(weights, n, **correction.answer(weights, num_steps=…, learning_rate=…))
"""

from collections.abc import Mapping

from fl_main.corrections.base import Correction, Pull, fisher_of
from fl_main.corrections.fedcurv import FedCurv
from fl_main.corrections.feddyn import FedDyn
from fl_main.corrections.fedprox import FedProx
from fl_main.corrections.scaffold import Scaffold
from fl_main.errors import SettingsError
from fl_main.training import TrainingTask

__all__ = [
    "CORRECTIONS",
    "Correction",
    "FedCurv",
    "FedDyn",
    "FedProx",
    "Pull",
    "Scaffold",
    "correction_of",
    "fisher_of",
]

CORRECTIONS: Mapping[str, type[Correction]] = {
    "": Correction,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedcurv": FedCurv,
}


def correction_of(task: TrainingTask) -> Correction:
    """Return what the run's strategy asks of this task's training; one that does nothing, if nothing.

    Raises:
        SettingsError: If this version of fl_main does not know it.
    """
    name = task.correction.get("name", "")
    make = CORRECTIONS.get(name) if isinstance(name, str) else None
    if make is None:
        known = ", ".join(filter(None, CORRECTIONS))
        raise SettingsError(
            f"the run asks for the correction {name!r}, which this agent does not know: {known}"
        )
    return make(task)
