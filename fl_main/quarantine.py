"""Who is left out: agents whose updates lie far from what came of all, round after round.

A robust rule measures how far each update is from its result. An update that is more than `factor`
times as far as the median of its round, or as long before a norm bound made it shorter, is an
*outlier*; an agent whose updates are outliers in so many rounds in a row gets no tasks any more until
an operator releases it. All of it is kept in the records: what was measured with each update, and
with each agent how it stands.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fl_main.answers import Answers
from fl_main.events import AgentSteered
from fl_main.store import UpdateRecord
from fl_main.training import Kind

Notes = Mapping[str, float]


def with_outliers(notes: Sequence[Notes], factor: float) -> Sequence[Notes]:
    """Return the notes of a round's updates with `outlier`, 1 or 0, where distances were measured.

    Args:
        notes: What the strategy measured of each.
        factor: Times the median distance from which on an update is an outlier.

    Behind a norm bound all updates look alike: there an update is one by its norm before it was
    scaled, too. An agent that the strategy trusts counts in the median, though it is never left out:
    by it, one of two others is seen to be far off.
    """
    if not notes or any("distance" not in note for note in notes):
        return notes
    facts = [fact for fact in ("distance", "norm") if all(fact in note for note in notes)]
    limits = {fact: factor * _median([note[fact] for note in notes]) for fact in facts}
    return [
        {**note, "outlier": float(not all(note[fact] <= limits[fact] for fact in facts))}  # NaN, too
        for note in notes
    ]


def _median(values: Sequence[float]) -> float:
    """Return the median of those that are finite; infinite if none is."""
    return statistics.median([value for value in values if math.isfinite(value)] or [math.inf])


class Quarantine(Answers):
    """The part of the round machine that leaves agents out."""

    def _look_for_outliers(self, updates: Sequence[UpdateRecord]) -> None:
        """Count in how many rounds in a row each agent's updates were outliers; leave out who has enough."""
        labels, trusted = self._labels(), self.strategy.requires
        judged = [
            update
            for update in updates
            if "outlier" in update.notes and labels[update.agent_id] not in trusted
        ]
        outlying = {update.agent_id for update in judged if update.notes["outlier"]}
        for agent_id in dict.fromkeys(update.agent_id for update in judged):
            record = self.members[agent_id].record
            count = record.outlying + 1 if agent_id in outlying else 0
            if count != record.outlying:
                self._set_agent(agent_id, outlying=count)
            rounds = self.settings.quarantine.rounds
            if rounds and count >= rounds and not record.quarantined:
                self._isolate(agent_id, f"its updates were outliers in {count} rounds in a row")

    def _set_agent(self, agent_id: str, **changes: object) -> None:
        member = self.members[agent_id]
        member.record = replace(member.record, **changes)  # type: ignore[arg-type]
        self._out.records.append(member.record)

    def _isolate(self, agent_id: str, reason: str, actor: str = "aggregator") -> None:
        """Give an agent no more tasks; what it has been asked for or has sent does not count any more."""
        self._set_agent(agent_id, quarantined=reason)
        self._note("agent_quarantined", agent_id=agent_id, actor=actor, reason=reason)
        why = f"its agent is in quarantine: {reason}"
        for task_id, asked in list(self.unanswered.items()):
            if asked == agent_id:
                self._cancel(self.tasks[task_id], why)
        for update in [*self.ready(Kind.STATISTICS), *self.ready(Kind.TRAIN)]:
            if update.agent_id == agent_id and update.task_id not in self.in_fold():
                self._discard_accepted(update, why)

    def _agent_steered(self, event: AgentSteered) -> None:
        record = self.members[event.agent_id].record
        if event.order == "quarantine" and not record.quarantined:
            self._isolate(event.agent_id, f"put there by {event.actor}", event.actor)
        elif event.order == "release" and record.quarantined:
            self._set_agent(event.agent_id, quarantined="", outlying=0)
            self._note("agent_released", agent_id=event.agent_id, actor=event.actor)

    def agents_named(self, name: str) -> list[str]:
        """Return the ids of the agents that have a name, or that id."""
        return [
            agent_id for agent_id, member in self.members.items() if name in (agent_id, member.record.name)
        ]
