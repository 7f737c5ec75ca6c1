"""Why an agent waits, and what became of a task and of the update that answered it."""

from fl_main.members import NEVER, Member
from fl_main.store import (
    Phase,
    RunStatus,
    StepRecord,
    TaskRecord,
    TaskStatus,
    UpdateRecord,
    Verdict,
)
from fl_main.training import Kind
from fl_main.why.findings import Finding, Refusal, Standing, Subject, View, megabytes, seconds, short

WORK = {
    Kind.INITIALISE: "making the initial model",
    Kind.STATISTICS: "summing up its data",
    Kind.TRAIN: "training",
    Kind.EVALUATE: "evaluating",
}
NOTHING = "nothing to do"


# --- agents ----------------------------------------------------------------------------------


def find_agent(view: View, agent_id: str) -> Finding:
    """Return what an agent does or waits for."""
    member = view.ledger.members[agent_id]
    if not member.is_present:
        return _away(view, member)
    if member.record.quarantined:
        return _quarantined(view, member)
    task = view.ledger.tasks.get(member.task_id or "")
    if task is not None and task.status is TaskStatus.OPEN:
        what = f"{progress(view, task)}, round {task.round_id}"
        return _agent(view, member, Standing.WORKING, what, f"its answer; {_patience(view, task)}", task)
    if member.task_id is not None:
        return _overdue(view, member, task)
    return _idle(view, member)


def _quarantined(view: View, member: Member) -> Finding:
    """An agent is left out until an operator releases it."""
    name, run = member.record.name, view.name
    remedy = f"look at its updates: fl db updates {run} --agent {name}; then: fl run release {run} {name}"
    what = f"in quarantine, {member.record.quarantined}; it gets no tasks until an operator releases it"
    return _agent(view, member, Standing.FAILED, what, remedy)


def _patience(view: View, task: TaskRecord) -> str:
    """Return how long the answer to a task is waited for."""
    if view.ledger.is_async and task.kind is Kind.TRAIN:
        return "nobody waits for it, it counts whenever it comes"
    return f"the round waits for it for {seconds(view.ledger.deadline() - view.at)} at most"


def _agent(
    view: View, member: Member, standing: Standing, what: str, remedy: str, task: TaskRecord | None = None
) -> Finding:
    evidence = (
        [f"task {short(task.task_id)}, given {seconds(view.now - view.given_at(task))} ago"] if task else []
    )
    evidence += [visits] if (visits := view.visits(member)) else []
    if view.ledger.settings.cohort.where:
        stated = ", ".join(f"{name}: {value}" for name, value in member.record.attributes.items())
        evidence.append(f"its attributes are {stated}" if stated else "it states no attributes")
    since_at = view.given_at(task) if task else view.wall(member.since)
    return Finding(
        Subject.AGENT,
        member.record.name,
        view.name,
        standing,
        what,
        remedy,
        since_at,
        tuple(evidence) or _came(view, member),
    )


def _came(view: View, member: Member) -> tuple[str, ...]:
    joined = view.last("agent_joined", agent_id=member.record.agent_id)
    when = f"joined {seconds(view.now - joined.at)} ago" if joined else "joined"
    return (f"{when} with {', '.join(member.record.kinds)}",)


def progress(view: View, task: TaskRecord) -> str:
    """Return what an agent that is here does for a task, as far as its transfers tell."""
    transfer = view.transfers.get(task.agent_id)
    hung_up_at = view.ledger.members[task.agent_id].hung_up_at
    if hung_up_at is not None and hung_up_at <= task.assigned_s:
        return f"asleep until its next poll, when it hears of {task.kind}"
    if transfer is None:
        return WORK[task.kind]
    if transfer.way == "out":
        return "fetching the model"
    sent = f"sending its update, {megabytes(transfer.place, transfer.size)}"
    if transfer.held:
        return f"{sent}, held up: {transfer.held}"
    return f"{sent}, last bytes {seconds(transfer.silent_s)} ago"


def left_because(view: View, agent_id: str) -> str:
    """Return when and why an agent was last here."""
    past = view.last("agent_left", "agent_joined", agent_id=agent_id)
    if past is None:
        return f"since {view.ago(view.ledger.members[agent_id].since)}"
    if past.event.kind == "agent_joined":
        return "it was here when the aggregator ended, and has not come back"
    reason = past.event.details.get("reason") or "the connection broke"
    return f"{seconds(view.now - past.at)} ago: {reason}"


def _away(view: View, member: Member) -> Finding:
    agent_id, ledger = member.record.agent_id, view.ledger
    task = ledger.tasks.get(member.task_id or "")
    is_asked = task is not None and task.status is TaskStatus.OPEN
    past = view.last("agent_left", "agent_joined", agent_id=agent_id)
    left = past if past and past.event.kind == "agent_left" else None
    is_gone = member.left_at == NEVER or bool(left and left.event.details.get("for_good"))
    evidence = [f"left {left_because(view, agent_id)}"] if left else [left_because(view, agent_id)]
    if task is not None:
        evidence.append(f"task {short(task.task_id)} of round {task.round_id} is {task.status}")
    if member.record.quarantined:
        evidence.append(f"in quarantine, {member.record.quarantined}: fl run release {view.name}")
    outlives = ledger.is_async and task is not None and task.kind is Kind.TRAIN
    is_awaited = is_asked and not is_gone and view.is_moving and not outlives
    ends_s = ledger.rejoin_times([agent_id]) if is_awaited else []
    over = ledger.run.status.is_over or (is_gone and not is_asked)
    return Finding(
        Subject.AGENT,
        member.record.name,
        view.name,
        Standing.DONE if over else Standing.WAITING,
        "left for good" if is_gone else "away",
        NOTHING if over else _return(view, "it", is_asked),
        left.at if left else view.wall(member.since),
        tuple(evidence),
        max((view.wall(end) for end in ends_s if end > view.at), default=None),
    )


def _return(view: View, who: str, is_asked: bool) -> str:
    if not view.is_up:
        return "start the aggregator: agents that still run come back by themselves"
    return f"start {who} again" + (", it goes on with its task" if is_asked else "")


def _overdue(view: View, member: Member, task: TaskRecord | None) -> Finding:
    """An agent is still at work on what nobody waits for."""
    is_over = view.ledger.run.status.is_over
    if task is not None and task.status is TaskStatus.LATE and not is_over:
        what = f"still at work on round {task.round_id}, which is over; its update may count in a later one"
    else:
        what = "still at work on a task that nobody waits for any more"
    rest = NOTHING if is_over else "its answer: it is asked again after that"
    return _agent(view, member, Standing.WORKING, what, rest, task)


def _idle(view: View, member: Member) -> Finding:
    standing, what, remedy = _idle_because(view, member)
    return _agent(view, member, standing, f"idle: {what}", remedy)


def _idle_because(view: View, member: Member) -> tuple[Standing, str, str]:
    ledger, run = view.ledger, view.ledger.run
    if run.status.is_over:
        return Standing.DONE, f"the run is {run.status}", NOTHING
    if run.status is RunStatus.PAUSED:
        return Standing.WAITING, f"the run is {run.reason}", f"fl run resume {view.name}"
    if run.phase is Phase.AGGREGATING:
        return Standing.WAITING, "the updates are being combined", NOTHING
    if run.phase is Phase.COLLECTING and ledger.step is not None:
        return _spared(view, member, ledger.step)
    need = view.need
    if need.kind is Kind.TRAIN and not ledger.is_meant(member.record.agent_id):
        return _unmeant(view)
    if need.kind not in member.record.kinds:
        return Standing.WAITING, f"it has no function for {need.kind}", f"give it a function for {need.kind}"
    return Standing.WAITING, f"the run waits for {need}", f"what helps the run: fl why {view.name}"


def _unmeant(view: View) -> tuple[Standing, str, str]:
    where = view.ledger.settings.cohort.where
    remedy = "start it with other attributes, or create a run with another condition"
    return Standing.WAITING, f"it does not meet cohort.where: {where}", remedy


def _spared(view: View, member: Member, step: StepRecord) -> tuple[Standing, str, str]:
    """Say why an agent has nothing to do while others are at work."""
    agent_id = member.record.agent_id
    if step.kind is Kind.TRAIN and not view.ledger.is_meant(agent_id):
        return _unmeant(view)
    task = view.ledger.task_of(step, agent_id)
    if task is not None:
        return _after_its_task(view, task)
    soon = f"the next step; this one ends in {seconds(view.ledger.deadline() - view.at)} at the latest"
    if step.kind not in member.record.kinds:
        return Standing.WAITING, f"it has no function for {step.kind}", f"give it a function for {step.kind}"
    if view.ledger.is_async and step.kind is Kind.TRAIN:
        return Standing.WAITING, "as many as wanted are at work, or none like it is", "its turn: see cohort"
    if agent_id in view.eligible:
        return Standing.WAITING, f"not chosen for round {step.round_id}: {step.rule}", soon
    return Standing.WAITING, f"round {step.round_id} began before it came or was free", soon


def _after_its_task(view: View, task: TaskRecord) -> tuple[Standing, str, str]:
    update = view.ledger.updates.get(task.task_id)
    others = f"the answers of the others: fl why {view.name}"
    if update is not None and update.verdict is Verdict.ACCEPTED:
        return Standing.WAITING, f"its answer is stored; round {task.round_id} waits for the others", others
    reason = f"{update.verdict}: {update.reason}" if update is not None else f"{task.status}: {task.reason}"
    cured = "mend its program; it is asked again in the next round"
    return Standing.FAILED, f"its task of round {task.round_id}: {reason}", cured


def find_refusal(refusal: Refusal, now: float) -> Finding:
    """Return why an agent was not let in."""
    return Finding(
        Subject.AGENT,
        refusal.name,
        refusal.run,
        Standing.FAILED,
        f"was refused ({refusal.code}): {refusal.reason}",
        "correct what the reason names, then start it again",
        refusal.at,
        (f"agent id {refusal.agent_id}; {refusal.times} times, the last {seconds(now - refusal.at)} ago",),
    )


# --- tasks and updates -----------------------------------------------------------------------

_ENDED = {
    TaskStatus.DECLINED: "its agent declined it",
    TaskStatus.FAILED: "its agent's program failed",
    TaskStatus.CANCELLED: "nobody waits for it any more",
    TaskStatus.ANSWERED: "it was answered",
}


def find_task(view: View, task: TaskRecord) -> Finding:
    """Return how it stands with a task."""
    standing, what, remedy = _task(view, task)
    given_at = view.given_at(task)
    given = f"given to {view.agent(task.agent_id)} {seconds(view.now - given_at)} ago"
    evidence = [f"{task.kind}, round {task.round_id}, {given}"]
    if task.reason and task.reason not in what:
        evidence.append(task.reason)
    ended = view.last(f"task_{task.status}", agent_id=task.agent_id, task_id=task.task_id)
    since_at = ended.at if ended else given_at
    return Finding(Subject.TASK, task.task_id, view.name, standing, what, remedy, since_at, tuple(evidence))


def _task(view: View, task: TaskRecord) -> tuple[Standing, str, str]:
    name = view.agent(task.agent_id)
    if task.status is TaskStatus.OPEN:
        return _open_task(view, task, name)
    if task.status is TaskStatus.LATE:
        run = view.ledger.run
        if run.status.is_over:
            return Standing.DONE, f"late: its round is over, and the run is {run.status}", NOTHING
        rest = "its answer; nobody waits for it"
        return Standing.WORKING, "late: its round is over; an update may count in a later one", rest
    what = f"{_ENDED[task.status]}{f': {task.reason}' if task.reason else ''}"
    if task.status in (TaskStatus.DECLINED, TaskStatus.FAILED):
        return Standing.FAILED, what, f"mend the cause at {name}; it is asked again in the next round"
    return Standing.DONE, what, NOTHING


def _open_task(view: View, task: TaskRecord, name: str) -> tuple[Standing, str, str]:
    end = _patience(view, task)
    if view.ledger.members[task.agent_id].is_present:
        return Standing.WORKING, f"{name} has it: {progress(view, task)}", f"its answer; {end}"
    away = f"{name} has it and is away: {left_because(view, task.agent_id)}"
    return Standing.WAITING, away, f"{_return(view, name, True)}; {end}"


def find_update(view: View, update: UpdateRecord) -> Finding:
    """Return what became of an update."""
    standing, what, remedy = _update(view, update)
    size = f", {megabytes(update.size, update.size).partition(' of ')[2]}" if update.size else ""
    evidence = [f"from {view.agent(update.agent_id)}: {update.num_examples} examples{size}"]
    if update.seconds:
        evidence.append(f"its work took {seconds(update.seconds)}")
    past = view.last(f"update_{update.verdict}", agent_id=update.agent_id, task_id=update.task_id)
    return Finding(
        Subject.UPDATE,
        update.task_id,
        view.name,
        standing,
        what,
        remedy,
        past.at if past else None,
        tuple(evidence),
    )


def _update(view: View, update: UpdateRecord) -> tuple[Standing, str, str]:
    if update.verdict is Verdict.REJECTED:
        cured = f"mend the program of {view.agent(update.agent_id)}; it is asked again in the next round"
        return Standing.FAILED, f"rejected: {update.reason}", cured
    if update.verdict is Verdict.DISCARDED:
        return (
            Standing.FAILED,
            f"discarded: {update.reason}",
            "nothing to do: it is asked again in a later round",
        )
    if update.counted_in is not None:
        share = f" with a share of {update.share:.3g}" if update.share is not None else ""
        return Standing.DONE, f"counted in round {update.counted_in}{share}", NOTHING
    if update.kind is Kind.EVALUATE:
        return Standing.DONE, "stored: its metrics are part of the round's mean", NOTHING
    return _uncounted(view, update)


def _uncounted(view: View, update: UpdateRecord) -> tuple[Standing, str, str]:
    ledger, step = view.ledger, view.ledger.step
    remedy = f"what helps the run: fl why {view.name}"
    if step is not None and update.task_id in step.frozen and ledger.run.phase is Phase.AGGREGATING:
        return Standing.WAITING, f"stored; it is being combined in round {step.round_id}", NOTHING
    is_current = ledger.run.phase is Phase.COLLECTING and step is not None and step.kind is update.kind
    following = step.round_id if is_current and step else ledger.run.round_id + 1
    if following == update.round_id:
        return Standing.WAITING, f"stored; it counts when round {following} closes", remedy
    return Standing.WAITING, f"stored late; it counts when round {following} closes", remedy
