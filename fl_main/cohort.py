"""Who is asked, and how: the choice among the agents that could be, and each one's config."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl_main.errors import SettingsError
from fl_main.plugins import imported
from fl_main.settings import CohortSettings, ConfigRule
from fl_main.where import condition

_HOW = {
    "random": "at random",
    "least_recent": "that were not asked for longest",
    "in_turn": "whose turn it is",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that could be asked, as rules see it.

    Attributes:
        label: What it is called and put in order by: its name, where that is the only one.
        attributes: Facts that it stated when it joined.
        usual_s: Seconds that it usually takes for a training task; None if that is not known yet.
        slowness: The same as a multiple of what is usual for all; 1 if it is not known.
        asked_s: Run time at which it was given the last training task, if it ever was.
        tasks: Training tasks that it was given.
    """

    label: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    usual_s: float | None = None
    slowness: float = 1.0
    asked_s: float | None = None
    tasks: int = 0

    def meets(self, where: str) -> bool:
        """Whether it meets a condition of the settings."""
        known = {"name": self.label, "slowness": self.slowness, "usual_s": self.usual_s}
        return bool(condition(where)({**self.attributes, **known}))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Who is asked.

    Attributes:
        labels: Sorted.
        target: How many answers are wanted of them.
        rule: How they were chosen, in words.
    """

    labels: tuple[str, ...]
    target: int
    rule: str


def choose_cohort(
    candidates: Sequence[Candidate], settings: CohortSettings, seed: int, least: int = 1
) -> Cohort:
    """Return who is asked of those who could be.

    Args:
        candidates: In any order.
        settings: The rule.
        seed: Of this round: the same candidates give the same cohort.
        least: Fewest agents to ask, where so many could be: fewer could never be enough.

    Raises:
        SettingsError: If a rule of the user's own fails.
    """
    if ":" in settings.rule:
        return _by_function(candidates, settings.rule, seed, least)
    target = target_of(settings, len(candidates), least)
    count = min(len(candidates), math.ceil(settings.over_selection * target - 1e-9))
    chosen = tuple(sorted(_picked(candidates, settings, seed, count)))
    return Cohort(chosen, target, _in_words(settings, count, target, len(candidates)))


def check_rule(settings: CohortSettings) -> None:
    """Import a rule of the user's own, so that a mistake in its name shows before the first round.

    Raises:
        SettingsError: If it cannot be imported.
    """
    if ":" in settings.rule:
        imported(settings.rule, "cohort.rule")


def target_of(settings: CohortSettings, number: int, least: int = 1) -> int:
    """Return how many of so many agents the rule wants."""
    if settings.rule == "fraction":
        # At least one: McMahan et al. 2017, Algorithm 1, m = max(C·K, 1).
        return min(number, max(1, least, round(settings.fraction * number)))
    if settings.rule == "number":
        return min(number, max(settings.number, least))
    return number


def _picked(
    candidates: Sequence[Candidate], settings: CohortSettings, seed: int, count: int
) -> Iterable[str]:
    if count == len(candidates):
        return [candidate.label for candidate in candidates]
    labels = sorted(candidate.label for candidate in candidates)
    if settings.choose == "random":
        return random.Random(seed).sample(labels, count)
    if settings.choose == "least_recent":
        random.Random(seed).shuffle(labels)  # decides between those who waited as long
    place = {label: number for number, label in enumerate(labels)}
    waited = sorted(candidates, key=lambda agent: (_asked(agent), agent.tasks, place[agent.label]))
    return [candidate.label for candidate in waited[:count]]


def _asked(agent: Candidate) -> float:
    return -math.inf if agent.asked_s is None else agent.asked_s


def _in_words(settings: CohortSettings, count: int, target: int, eligible: int) -> str:
    if settings.rule == "all":
        return "all eligible agents"
    how = _HOW[settings.choose]
    rule = f"{count} of {eligible} eligible agents {how}"
    if settings.rule == "fraction":
        rule = f"{rule}: {settings.fraction:g} of them"
    return rule if count == target else f"{rule}; the first {target} that answer count"


def _by_function(candidates: Sequence[Candidate], rule: str, seed: int, least: int) -> Cohort:
    function = imported(rule, "cohort.rule")
    known = {candidate.label for candidate in candidates}
    try:
        chosen = list(function(candidates, seed))
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise SettingsError(
            f"cohort.rule: {rule} raised {said}; mend it, restart the aggregator, resume the run"
        ) from error
    for label in chosen:
        if not isinstance(label, str) or label not in known:
            raise SettingsError(
                f"cohort.rule: {rule} chose {repr(label)[:60]}, which is not a label of those it was given"
            )
    labels = tuple(sorted(set(chosen)))
    if len(labels) < least:
        raise SettingsError(
            f"cohort.rule: {rule} chose {len(labels)} of {len(candidates)} agents; {least} are needed "
            "(round.min_updates)"
        )
    return Cohort(labels, len(labels), f"{len(labels)} of {len(candidates)} eligible agents by {rule}")


def config_of(candidate: Candidate, rules: Sequence[ConfigRule]) -> dict[str, Any]:
    """Return what differs for an agent from the run's config."""
    changes: dict[str, Any] = {}
    for rule in rules:
        if candidate.meets(rule.where):
            changes |= rule.config
    return changes
