"""Who takes part in a run: who is here, free, busy, asleep or away, and what their time goes into."""

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from fl_main.cohort import Candidate
from fl_main.messages import Frozen
from fl_main.settings import RunSettings
from fl_main.store import PAST, AgentPast, AgentRecord, RunSnapshot, TaskRecord, TaskStatus
from fl_main.training import Kind
from fl_main.weights import Layout

NEVER = -math.inf  # left for good
MISSED_POLLS = 3  # after which an agent that polls is taken for gone
UNANSWERED = (TaskStatus.OPEN, TaskStatus.LATE)


@dataclass(slots=True)
class Member:
    """An agent that is or was here.

    Attributes:
        layout: Of the model that it can train, if it knows one.
        frozen: What it says of the arrays that the run does not train.
        left_at: Run time at which it was gone; None while it is here.
        hung_up_at: Run time at which it hung up until its next poll; None while it is connected.
        task_id: What it is busy with, even if nobody waits for that any more.
        last_tasks: The last task of each kind that it was given.
        since: Run time since when it is busy, free or away.
        idle_from: Run time from which on it has been idle and that was not added up yet.
        tasks: Training tasks that it was given.
        asked_s: Run time at which it was given the last one.
        took_s: Seconds from a training task to its update, in time or late, of the last ones.
    """

    record: AgentRecord
    layout: Layout | None = None
    frozen: Frozen | None = None
    left_at: float | None = None
    hung_up_at: float | None = None
    task_id: str | None = None
    last_tasks: dict[Kind, str] = field(default_factory=dict)
    since: float = 0.0
    idle_from: float | None = None
    tasks: int = 0
    asked_s: float | None = None
    took_s: deque[float] = field(default_factory=lambda: deque(maxlen=PAST))

    @property
    def is_present(self) -> bool:
        """Whether it takes part: it is connected, or polled not long ago."""
        return self.left_at is None

    @property
    def usual_s(self) -> float | None:
        """Seconds that it usually takes for a training task, if that is known."""
        return statistics.median(self.took_s) if self.took_s else None

    @property
    def gone_at(self) -> float:
        """The run time at which an agent that hung up is taken for gone, unless it polls before."""
        if self.hung_up_at is None or self.record.poll_s is None:
            return math.inf
        return self.hung_up_at + MISSED_POLLS * self.record.poll_s


@dataclass(slots=True)
class Effort:
    """Seconds of the agents' time since the last round ended, all together.

    Attributes:
        busy_s: Spent on updates that were accepted.
        wasted_s: Spent on what came to nothing.
        idle_s: Spent here without a task.
    """

    busy_s: float = 0.0
    wasted_s: float = 0.0
    idle_s: float = 0.0


class Membership:
    """The agents of a run, and the tasks that they work on.

    Attributes:
        members: Agents by id.
        tasks: Those of the current step, and older ones that may still be answered.
        unanswered: Those of `tasks` that are open or late, each with its agent.
        effort: What the agents' time went into.
    """

    def __init__(self, settings: RunSettings, snapshot: RunSnapshot) -> None:
        self.settings = settings
        self.tasks = {task.task_id: task for task in snapshot.tasks}
        self.unanswered = {
            task.task_id: task.agent_id for task in snapshot.tasks if task.status in UNANSWERED
        }
        self.effort = Effort()
        self._at = snapshot.run.run_time_s
        # Indexes: a thousand agents must not be looked through at each word of one of them.
        self._free: dict[str, None] = {}  # present agents without a task
        self._busy = 0  # present agents with one
        self._away: dict[str, None] = {}  # agents whose connection broke, and who may be back
        self._hung_up: dict[str, None] = {}
        self._next_gone_at = math.inf  # not later than the first of those that hung up is gone
        self._known_labels: dict[str, str] | None = None
        self._typical_s: float | None = None
        self.members = {agent.agent_id: self._member_of(agent, snapshot) for agent in snapshot.agents}
        for task in self.tasks.values():
            if (worker := self.members.get(task.agent_id)) is not None:
                worker.last_tasks[task.kind] = task.task_id
                worker.task_id = task.task_id if task.status in UNANSWERED else worker.task_id
        for member in self.members.values():
            self._restore(member)
        self._look_at_speeds()

    def _member_of(self, agent: AgentRecord, snapshot: RunSnapshot) -> Member:
        past = snapshot.past.get(agent.agent_id, AgentPast())
        took_s = deque(past.took_s, PAST)
        return Member(
            agent, left_at=self._at, since=self._at, tasks=past.tasks, asked_s=past.asked_s, took_s=took_s
        )

    def _recall(self, past: Mapping[str, AgentPast]) -> None:
        """Take what agents did before the last start, where that was not read then."""
        for agent_id, did in past.items():
            member = self.members[agent_id]
            if member.tasks < did.tasks:
                member.tasks, member.asked_s = did.tasks, did.asked_s
                member.took_s = deque(did.took_s, PAST)

    def _restore(self, member: Member) -> None:
        """After a restart nobody is connected; an agent that polls comes back within its time."""
        if member.record.poll_s is not None and member.record.is_present:
            self._come(member)
            self._hang_up(member)
        else:
            member.record = replace(member.record, is_present=False)
            self._away[member.record.agent_id] = None

    # --- how they are known ------------------------------------------------------------------

    def _labels(self) -> dict[str, str]:
        """Return the names by which agents are seeded and put in order, by their ids.

        Names, not ids: an id is drawn when an agent's state folder is made, and a run that is
        repeated with fresh folders shall give the same bits. Agents of one name are told apart
        by their ids.
        """
        if self._known_labels is None:
            names = Counter(member.record.name for member in self.members.values())
            self._known_labels = {
                agent_id: member.record.name
                if names[member.record.name] == 1
                else f"{member.record.name}/{agent_id}"
                for agent_id, member in self.members.items()
            }
        return self._known_labels

    def candidate(self, agent_id: str) -> Candidate:
        """Return an agent as the rules of the settings see it."""
        member = self.members[agent_id]
        usual_s = member.usual_s
        slowness = usual_s / self._typical_s if usual_s is not None and self._typical_s else 1.0
        attributes = member.record.attributes
        return Candidate(
            self._labels()[agent_id], attributes, usual_s, slowness, member.asked_s, member.tasks
        )

    def _look_at_speeds(self) -> None:
        """Find out what time is usual for all agents."""
        known = [usual_s for member in self.members.values() if (usual_s := member.usual_s) is not None]
        self._typical_s = statistics.median(known) if known else None

    def rejoin_times(self, agents: Iterable[str]) -> list[float]:
        """Return until when those agents whose connection broke may be back."""
        left = [self.members[agent].left_at for agent in agents]
        return [at + self.settings.round.rejoin_s for at in left if at is not None and at != NEVER]

    # --- coming and going --------------------------------------------------------------------

    def _come(self, member: Member) -> None:
        """An agent takes part from now on."""
        member.left_at, agent_id = None, member.record.agent_id
        self._away.pop(agent_id, None)
        if member.task_id is None:
            self._free[agent_id] = None
            member.idle_from = self._at
        else:
            self._busy += 1

    def _go(self, member: Member, left_at: float) -> None:
        """An agent takes part no more until it comes again."""
        agent_id = member.record.agent_id
        self._stay_connected(member)
        if member.task_id is None:
            self._add_idle(member)
            self._free.pop(agent_id, None)
        else:
            self._busy -= 1
        member.left_at, member.since = left_at, self._at
        if left_at != NEVER:
            self._away[agent_id] = None

    def _hang_up(self, member: Member) -> None:
        """An agent is to be back within its time."""
        member.hung_up_at = self._at
        self._hung_up[member.record.agent_id] = None
        self._next_gone_at = min(self._next_gone_at, member.gone_at)

    def _stay_connected(self, member: Member) -> None:
        member.hung_up_at = None
        self._hung_up.pop(member.record.agent_id, None)

    def _occupy(self, member: Member, task: TaskRecord) -> None:
        """A present agent begins to work on a task."""
        self._add_idle(member)
        del self._free[task.agent_id]
        self._busy += 1
        member.task_id = member.last_tasks[task.kind] = task.task_id
        member.since = self._at
        if task.kind is Kind.TRAIN:
            member.tasks += 1
            member.asked_s = self._at

    def _rest(self, member: Member) -> None:
        """An agent has nothing to work on any more."""
        member.task_id, member.since = None, self._at
        if member.is_present:
            self._busy -= 1
            self._free[member.record.agent_id] = None
            member.idle_from = self._at

    def _free_from(self, agent_id: str, task_id: str, *, is_wasted: bool, is_measured: bool = True) -> None:
        """An agent's work on a task is over; note what its time went into.

        Args:
            agent_id: Whose work.
            task_id: On what.
            is_wasted: Whether it came to nothing.
            is_measured: Whether it tells how long the agent usually takes.
        """
        member = self.members.get(agent_id)
        if member is None or member.task_id != task_id:
            return
        if (task := self.tasks.get(task_id)) is not None:
            took_s = self._at - task.assigned_s
            if is_wasted:
                self.effort.wasted_s += took_s
            else:
                self.effort.busy_s += took_s
            if is_measured and task.kind is Kind.TRAIN:
                member.took_s.append(took_s)
        self._rest(member)

    def _add_idle(self, member: Member) -> None:
        if member.idle_from is not None:
            self.effort.idle_s += self._at - member.idle_from
            member.idle_from = None

    def effort_until(self, at: float) -> dict[str, float]:
        """Return what the agents' time went into since the last round ended, as `fl status` says it."""
        since = (self.members[agent_id].idle_from for agent_id in self._free)
        idle_s = sum(at - idle_from for idle_from in since if idle_from is not None)
        effort = replace(self.effort, idle_s=self.effort.idle_s + idle_s)
        return {name: round(value, 3) for name, value in asdict(effort).items()}

    def _take_effort(self) -> Effort:
        """Return what the agents' time went into since the last call."""
        for agent_id in self._free:
            self._add_idle(member := self.members[agent_id])
            member.idle_from = self._at
        effort, self.effort = self.effort, Effort()
        return effort
