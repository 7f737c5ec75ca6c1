"""The phases of a run: a table of what moves it from one to the next."""

from fl_main.errors import InvalidTransitionError
from fl_main.store import Phase

# Phases and what moves a run from one to the next. `retry`: a failed step is tried again.
TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.WAITING, "started"): Phase.COLLECTING,
    (Phase.COLLECTING, "enough"): Phase.AGGREGATING,
    (Phase.COLLECTING, "deadline"): Phase.AGGREGATING,
    (Phase.COLLECTING, "retry"): Phase.WAITING,
    (Phase.AGGREGATING, "published"): Phase.WAITING,
    (Phase.AGGREGATING, "retry"): Phase.WAITING,
    (Phase.WAITING, "ended"): Phase.ENDED,
    (Phase.COLLECTING, "ended"): Phase.ENDED,
    (Phase.AGGREGATING, "ended"): Phase.ENDED,
    (Phase.ENDED, "reopened"): Phase.WAITING,
}


def next_phase(phase: Phase, trigger: str) -> Phase:
    """Return the phase after trigger.

    Raises:
        InvalidTransitionError: If there is none.
    """
    try:
        return TRANSITIONS[phase, trigger]
    except KeyError:
        raise InvalidTransitionError(f"{trigger!r} in phase {phase.value}") from None
