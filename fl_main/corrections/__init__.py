"""Corrections: what a run's strategy asks agents to do to their training, which stays their own.

correction = correction_of(task)
for batch in …:
gradients = …                                  # of your loss, at your weights
correction.add_to(gradients, weights)          # in place; nothing, if nothing is asked for
…
task.submit(weights, n, **correction.answer(weights, num_steps=…, learning_rate=…))
"""

from collections.abc import Mapping
from typing import Any

from fl_main.corrections.base import Correction, Pull, fisher_of
from fl_main.corrections.fedcurv import FedCurv
from fl_main.corrections.feddyn import FedDyn
from fl_main.corrections.fedprox import FedProx
from fl_main.corrections.scaffold import Scaffold
from fl_main.errors import LocalProtocolError, SettingsError
from fl_main.training import TrainingTask

__all__ = [
    "CORRECTIONS",
    "Correction",
    "FedCurv",
    "FedDyn",
    "FedProx",
    "Pull",
    "Scaffold",
    "check_heeded",
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


def check_heeded(asked: Mapping[str, Any], kept: Mapping[str, Any] | None) -> None:
    """Refuse an update that comes without what its correction has to keep, where only the agent can tell.

    Its program did not look at what it was asked for, and the run would go where no formula leads,
    without a word. Of others the aggregator misses what they send.

    Args:
        asked: What the run's strategy asks for, as in `task.correction`.
        kept: What the program keeps with its update.

    Raises:
        LocalProtocolError: If nothing of the correction's own is kept.
    """
    name = asked.get("name", "")
    correction = CORRECTIONS.get(name) if isinstance(name, str) else None
    if correction is None or not correction.is_silent:
        return
    if not any(key.startswith(f"{name} ") for key in kept or ()):
        raise LocalProtocolError(
            f"the run's strategy asks for {name}, and this update comes without what is kept for it: train "
            "with correction_of(task), and submit(weights, num_examples, **correction.answer(weights, …))"
        )
