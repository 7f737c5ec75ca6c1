"""Why something does not move: `fl why`, the line in `fl status`, and what idle agents are told.

The same functions answer in the daemon, of its live runs, and without one, of ledgers that were
made anew from the database.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fl_main.answers import LATE
from fl_main.errors import UnknownNameError
from fl_main.store import TaskRecord, TaskStatus, UpdateRecord, Verdict
from fl_main.why.agents import find_agent, find_refusal, find_task, find_update
from fl_main.why.findings import Finding, Refusal, Standing, View, listed, short
from fl_main.why.runs import find_run, find_trouble

HISTORY = 500  # events of a run that are looked at
MOST = 200  # findings of one answer: it must fit a frame, and a screen
BEGINNING = 4  # characters of a task's id that may stand for it
FACTS = 5  # of several agents that are told of as one
NAMES = 20  # in an error


def waiting_for(view: View) -> str:
    """Return in one sentence what a run does or waits for: the first thing that `fl why` says of it."""
    return next(find_trouble(view), find_run(view)).what


def everything(views: Iterable[View], refusals: Iterable[Refusal] = (), now: float = 0.0) -> list[Finding]:
    """Return what waits or failed, of all runs."""
    found = [finding for view in views for finding in of_run(view)]
    found += [find_refusal(refusal, now) for refusal in refusals]
    return [finding for finding in found if finding.standing in (Standing.WAITING, Standing.FAILED)]


def of_run(view: View) -> list[Finding]:
    """Return all that can be said of a run: what keeps it from being stored, itself, its agents."""
    agents = {agent_id: find_agent(view, agent_id) for agent_id in view.ledger.members}
    failed = {agent_id for agent_id, finding in agents.items() if finding.standing is Standing.FAILED}
    return [*find_trouble(view), find_run(view), *_together(agents.values()), *_untold(view, failed)]


def _untold(view: View, failed: set[str]) -> Iterator[Finding]:
    """Yield what failed of agents that meanwhile do something else, and updates for a later round."""
    ledger = view.ledger
    for task in ledger.tasks.values():
        if task.status in (TaskStatus.DECLINED, TaskStatus.FAILED) and task.agent_id not in failed:
            yield find_task(view, task)
    for update in ledger.updates.values():
        is_bad = update.verdict is not Verdict.ACCEPTED and update.agent_id not in failed
        if is_bad or (update.reason == LATE and update.counted_in is None):
            yield find_update(view, update)


def _together(agents: Iterable[Finding]) -> Iterator[Finding]:
    """Say once what can be said of several agents."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in agents:
        groups.setdefault((finding.standing, finding.what, finding.remedy), []).append(finding)
    return (_as_one(group) if len(group) > 1 else group[0] for group in groups.values())


def _as_one(group: list[Finding]) -> Finding:
    since = [finding.since_at for finding in group if finding.since_at is not None]
    ends = [finding.ends_at for finding in group if finding.ends_at is not None]
    facts = [f"{finding.name}: {fact}" for finding in group for fact in finding.evidence]
    return replace(
        group[0],
        name=listed([finding.name for finding in group]),
        since_at=min(since, default=None),
        evidence=(*facts[:FACTS], *([f"and {len(facts) - FACTS} more"] if len(facts) > FACTS else ())),
        ends_at=max(ends, default=None),
    )


# --- what a name stands for ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a name may stand for.

    Attributes:
        label: For an error that lists several.
        is_exact: Whether the name is its whole id.
    """

    label: str
    is_exact: bool
    findings: list[Finding]


def about(
    name: str,
    views: Sequence[View],
    stored: Iterable[tuple[TaskRecord, UpdateRecord | None]] = (),
    refusals: Iterable[Refusal] = (),
    now: float = 0.0,
) -> list[Finding]:
    """Return what can be said of a run, an agent or a task.

    Args:
        name: A run's or agent's name or id, or a task's id or its beginning.
        views: The runs.
        stored: Tasks of the database whose ids begin so.
        refusals: Agents that were not let in.
        now: Wall time, Unix seconds.

    Raises:
        UnknownNameError: If it names nothing, or several things.
    """
    meanings = [
        *_runs(name, views),
        *_agents(name, views, list(refusals), now),
        *_tasks(name, views, {task.task_id: (task, update) for task, update in stored}),
    ]
    exact = [meaning for meaning in meanings if meaning.is_exact]
    chosen = exact if len(exact) == 1 else meanings
    if not chosen:
        raise UnknownNameError(_unknown(name, views))
    if len(chosen) > 1:
        labels = listed([meaning.label for meaning in chosen], NAMES)
        raise UnknownNameError(f"{name!r} may be {labels}; give the whole id")
    return chosen[0].findings


def _runs(name: str, views: Sequence[View]) -> Iterator[_Meaning]:
    for view in views:
        if name in (view.name, run_id := view.ledger.run.run_id):
            yield _Meaning(f"run {view.name} ({run_id})", name == run_id, of_run(view))


def _agents(name: str, views: Sequence[View], refusals: list[Refusal], now: float) -> Iterator[_Meaning]:
    """Yield each agent of that name or id, with all runs in which it is or wanted to be."""
    known = {refusal.agent_id: refusal.name for refusal in refusals}
    known |= {key: member.record.name for view in views for key, member in view.ledger.members.items()}
    for agent_id, its_name in known.items():
        if name in (its_name, agent_id):
            found = [find_refusal(refusal, now) for refusal in refusals if refusal.agent_id == agent_id]
            found += [finding for view in views for finding in _of_agent(view, agent_id)]
            yield _Meaning(f"agent {its_name} ({agent_id})", name == agent_id, found)


def _of_agent(view: View, agent_id: str) -> Iterator[Finding]:
    ledger = view.ledger
    if agent_id not in ledger.members:
        return
    yield find_agent(view, agent_id)
    yield from (find_task(view, task) for task in ledger.tasks.values() if task.agent_id == agent_id)
    yield from (
        find_update(view, update) for update in ledger.updates.values() if update.agent_id == agent_id
    )
    yield from find_trouble(view)


def _tasks(
    name: str, views: Sequence[View], stored: dict[str, tuple[TaskRecord, UpdateRecord | None]]
) -> Iterator[_Meaning]:
    if len(name) < BEGINNING:
        return
    for view in views:
        ledger = view.ledger
        live = {key: (task, ledger.updates.get(key)) for key, task in ledger.tasks.items()}
        ours = {key: pair for key, pair in stored.items() if pair[0].run_id == ledger.run.run_id}
        for task_id, (task, update) in (ours | live).items():
            if task_id.startswith(name):
                found = [find_task(view, task), *([find_update(view, update)] if update else [])]
                yield _Meaning(f"task {short(task_id)} of run {view.name}", name == task_id, found)


def _unknown(name: str, views: Sequence[View]) -> str:
    runs = [view.name for view in views]
    agents = {member.record.name: None for view in views for member in view.ledger.members.values()}
    return (
        f"there is no run, agent or task {name!r} (runs: {listed(runs, NAMES) or 'none yet'}; "
        f"agents: {listed(list(agents), NAMES) or 'none yet'}; "
        f"of a task at least the first {BEGINNING} characters of its id)"
    )
