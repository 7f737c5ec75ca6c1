"""What `fl why` answers with: of each thing what it is, since when, on what evidence, and what helps.

`fl_main.why` finds them in a `View`: a run's ledger and what its surroundings know of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from fl_main.ledger import Ledger, Need
from fl_main.members import Member
from fl_main.plan import next_step
from fl_main.store import PastEvent, RunStatus, TaskRecord

MEGABYTE = 1_000_000


class Subject(StrEnum):
    """What a finding is about."""

    RUN = "run"
    AGENT = "agent"
    TASK = "task"
    UPDATE = "update"
    DATABASE = "database"
    AGGREGATOR = "aggregator"


class Standing(StrEnum):
    """How it goes: what waits and what failed is told without being asked for."""

    WORKING = "working"
    WAITING = "waiting"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        name: Whose it is: a run's or agent's name, a task's id.
        run: The run it belongs to, if to one.
        what: One sentence.
        remedy: What would unblock it, and what happens if nothing is done.
        since_at: Since when (Unix seconds), as far as that is known.
        evidence: Short facts that it follows from.
        ends_at: When it ends by itself at the latest (Unix seconds), if it does.
    """

    subject: Subject
    name: str
    run: str
    standing: Standing
    what: str
    remedy: str
    since_at: float | None = None
    evidence: tuple[str, ...] = ()
    ends_at: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return it as JSON and msgpack can hold it."""
        return {**asdict(self), "evidence": list(self.evidence)}

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> "Finding":
        """Return the finding that `to_wire` wrote."""
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        return cls(
            **known
            | {
                "subject": Subject(fields["subject"]),
                "standing": Standing(fields["standing"]),
                "evidence": tuple(fields["evidence"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way to or from an agent.

    Attributes:
        way: `in` for an update, `out` for a model.
        place: Bytes that are through, of `size`.
        silent_s: Seconds since the last of them.
        held: Why none are asked for at the moment, or an empty text.
    """

    way: Literal["in", "out"]
    place: int = 0
    size: int = 0
    silent_s: float = 0.0
    held: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The database cannot be written."""

    reason: str
    since_at: float


@dataclass(frozen=True, slots=True)
class Outage:
    """The last time that no daemon was up.

    Attributes:
        from_at: When it was stopped; after a crash, when the last fact before it was stored.
        is_crash: Whether it ended without having been told to.
    """

    from_at: float
    to_at: float
    is_crash: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An agent that was not let in."""

    agent_id: str
    name: str
    run: str
    code: str
    reason: str
    at: float
    times: int = 1


@dataclass(frozen=True)
class View:
    """A run as it is looked at: what it knows, and what its surroundings know of it.

    Attributes:
        ledger: The run: a live one, or one that was made anew from the database.
        at: Run time, in seconds.
        now: Wall time, Unix seconds.
        history: The run's latest events, the oldest first.
        transfers: By agent id.
        trouble: What keeps the database from being written.
        outage: When the daemon was last away, if this is known.
        is_up: Whether a daemon works for the run.
        still_since: When the run time came to stand still (Unix seconds), if it does.
    """

    ledger: Ledger
    at: float
    now: float = 0.0
    history: Sequence[PastEvent] = ()
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    trouble: Trouble | None = None
    outage: Outage | None = None
    is_up: bool = True
    still_since: float | None = None

    @property
    def name(self) -> str:
        """The run's."""
        return self.ledger.run.name

    @cached_property
    def need(self) -> Need:
        """What the next step needs to begin; counted once for all agents that are asked about."""
        return self.ledger.need(next_step(self.ledger.run, self.ledger.settings).kind)

    @cached_property
    def eligible(self) -> frozenset[str]:
        """The agents that could have been asked in the current step."""
        return frozenset(self.ledger.step.eligible if self.ledger.step else ())

    def agent(self, agent_id: str) -> str:
        """Return how people name an agent."""
        member = self.ledger.members.get(agent_id)
        return member.record.name if member else agent_id

    def agents(self, agent_ids: Iterable[str]) -> str:
        """Return how people name several agents."""
        return listed([self.agent(agent_id) for agent_id in agent_ids])

    def wall(self, at: float) -> float:
        """Return the wall time of a run time, exact as long as the run did not stand still since."""
        return (self.now if self.still_since is None else self.still_since) - (self.at - at)

    def ago(self, at: float) -> str:
        """Return how long a run time is past, in words."""
        return seconds(self.now - self.wall(at))

    @property
    def is_moving(self) -> bool:
        """Whether the run time passes, so that deadlines come nearer."""
        return self.is_up and self.ledger.run.status is RunStatus.RUNNING

    def given_at(self, task: TaskRecord) -> float:
        """Return the wall time at which a task was given."""
        if self.ledger.is_async:  # given when its agent came free, not when a step began
            return self.wall(task.assigned_s)
        past = self.last("step_started", round_id=task.round_id, step=str(task.kind))
        return past.at if past else self.wall(task.assigned_s)

    def visits(self, member: Member) -> str:
        """Return how an agent that does not stay connected is to be met, or an empty text."""
        if (poll_s := member.record.poll_s) is None:
            return ""
        if member.hung_up_at is None:
            return f"it polls every {seconds(poll_s)}, and is connected now"
        return f"it polls every {seconds(poll_s)}, the last time {self.ago(member.hung_up_at)} ago"

    def last(
        self, *kinds: str, agent_id: str | None = None, round_id: int | None = None, **details: object
    ) -> PastEvent | None:
        """Return the latest event of some kinds; of an agent, a round, with details where given."""
        for past in reversed(self.history if agent_id is None else self._of_agents.get(agent_id, ())):
            event = past.event
            is_meant = event.kind in kinds and round_id in (None, event.round_id)
            if is_meant and details.items() <= event.details.items():
                return past
        return None

    @cached_property
    def _of_agents(self) -> dict[str, list[PastEvent]]:
        found: dict[str, list[PastEvent]] = {}
        for past in self.history:
            found.setdefault(past.event.agent_id or "", []).append(past)
        return found


def seconds(count: float) -> str:
    """Return a duration in words."""
    if count < 600:
        return f"{max(0.0, count):.0f} s"
    return f"{count / 60:.0f} min" if count < 7200 else f"{count / 3600:.1f} h"


def megabytes(place: int, size: int) -> str:
    """Return how far a transfer is, in words."""
    unit, name = (MEGABYTE, "MB") if size >= MEGABYTE // 10 else (1000, "kB")
    return f"{place / unit:.1f} of {size / unit:.1f} {name}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in one line, however many there are."""
    text = ", ".join(names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def plural(count: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short(task_id: str) -> str:
    """Return enough of a task's id to tell it from others, and to ask for it."""
    return task_id[:12]
