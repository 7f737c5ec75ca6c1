"""Why a run stands where it stands: paused, over, waiting for agents, collecting, combining."""

from collections.abc import Iterable, Iterator

from fl_main.ledger import Need
from fl_main.members import NEVER
from fl_main.plan import rounds_wanted
from fl_main.store import Phase, RunStatus, StepRecord, TaskRecord, TaskStatus, Verdict
from fl_main.training import Kind
from fl_main.why.agents import left_because, progress
from fl_main.why.findings import Finding, Standing, Subject, View, plural, seconds, short

AGENTS = 20  # told of one by one in the evidence of a run
FAILURES = 3  # rounds that failed last


def find_run(view: View) -> Finding:
    """Return what a run does, waits for, or ended by."""
    run = view.ledger.run
    if run.status is not RunStatus.RUNNING:
        return _halted(view)
    if run.phase is Phase.AGGREGATING:
        return _combining(view)
    if run.phase is Phase.COLLECTING and view.ledger.step is not None:
        return _collecting(view, view.ledger.step)
    return _waiting(view)


def find_trouble(view: View) -> Iterator[Finding]:
    """Yield what keeps the database from being written, if anything does."""
    if trouble := view.trouble:
        yield Finding(
            Subject.DATABASE,
            "",
            view.name,
            Standing.FAILED,
            f"the model database is in trouble: {trouble.reason}",
            "free space on its disk, or mend what the error names; until then no update is acknowledged "
            "that is not stored; it is tried again every few seconds and goes on by itself",
            trouble.since_at,
            (f"tried in vain for {seconds(view.now - trouble.since_at)}",),
        )


def _found(
    view: View,
    standing: Standing,
    what: str,
    remedy: str,
    evidence: Iterable[str] = (),
    since_at: float | None = None,
    ends_at: float | None = None,
) -> Finding:
    is_going_on = standing in (Standing.WORKING, Standing.WAITING)
    if is_going_on and not view.is_up:
        standing, ends_at = Standing.WAITING, None
        remedy = f"start the aggregator; then: {remedy}"
    facts = [*evidence, *(_outage(view, since_at) if is_going_on else ())]
    return Finding(Subject.RUN, view.name, view.name, standing, what, remedy, since_at, tuple(facts), ends_at)


def _outage(view: View, since_at: float | None) -> Iterator[str]:
    """Yield that the daemon was away meanwhile."""
    if (outage := view.outage) and (since_at is None or outage.to_at >= since_at):
        away, back = seconds(outage.to_at - outage.from_at), seconds(view.now - outage.to_at)
        if outage.is_crash:
            yield f"the aggregator crashed at most {away} before it was started again {back} ago"
        else:
            yield f"the aggregator was stopped for {away} and started again {back} ago"


# --- paused and over -------------------------------------------------------------------------


def _halted(view: View) -> Finding:
    run, ledger = view.ledger.run, view.ledger
    done = f"{plural(run.rounds_done, 'round')} done of {rounds_wanted(run, ledger.settings)}"
    if run.status is RunStatus.PAUSED:
        since = view.last("run_pause")
        return _found(
            view,
            Standing.WAITING,
            run.reason,
            f"fl run resume {view.name}",
            [done, f"{plural(len(ledger.accepted()), 'update')} stored; more are taken meanwhile"],
            since.at if since else None,
        )
    since = view.last("run_ended")
    standing = Standing.DONE if run.status is RunStatus.FINISHED else Standing.FAILED
    remedy = f"nothing to do; its model is {view.name}:final in the database"
    if run.status is not RunStatus.FINISHED:
        cause = "mend what its rounds failed by, then: " if run.status is RunStatus.FAILED else ""
        remedy = f"{cause}fl run resume {view.name}"
    return _found(
        view,
        standing,
        run.reason if run.status is RunStatus.STOPPED else f"{run.status}: {run.reason}",
        remedy,
        [done, *_failures(view, run.failed_rounds)],
        since.at if since else None,
    )


def _failures(view: View, count: int) -> Iterator[str]:
    """Yield the reasons of the rounds that failed last, in a row."""
    failed = [past for past in view.history if past.event.kind == "round_failed"]
    for past in failed[-min(count, FAILURES) :] if count else []:
        ago = seconds(view.now - past.at)
        yield f"round {past.event.round_id} failed {ago} ago: {past.event.details.get('reason')}"


# --- before a step ---------------------------------------------------------------------------


def _waiting(view: View) -> Finding:
    ledger = view.ledger
    need = view.need
    failed = ledger.run.failed_rounds
    evidence = [*_around(view, need), *_failures(view, failed)]
    if failed:
        most = ledger.settings.round.max_failed_rounds
        evidence.append(f"{plural(failed, 'round')} in a row failed; {most} end the run")
    return _found(
        view,
        Standing.WAITING,
        f"waits for {need}",
        _help(need, view.name),
        evidence,
        _waits_since(view),
        _given_up_at(view, need.kind),
    )


def _help(need: Need, run: str) -> str:
    if need.kind is Kind.INITIALISE:
        return "start an agent with initial_weights, or create the run with initial.file or initial.model"
    if need.kind is Kind.EVALUATE:
        return "start an agent with an evaluate function; else the evaluation is skipped"
    count = need.agents - need.eligible
    text = f"start {plural(count, 'more agent')}: fl agent, or your own program"
    if need.unfit:
        text += " (their attributes: fl why AGENT)"
    if need.quarantined:
        text += f"; or release one: fl run release {run} AGENT"
    return f"{text}; or wait for the answers of those that are busy" if need.busy >= count else text


def _around(view: View, need: Need) -> Iterator[str]:
    """Yield who is here, who is here and of no use, and who is not here."""
    members = view.ledger.members
    free = [agent for agent, member in members.items() if member.is_present and member.task_id is None]
    isolated = [agent for agent, member in members.items() if member.record.quarantined]
    free = [agent for agent in free if agent not in isolated]
    able = [agent for agent in free if need.kind in members[agent].record.kinds]
    unable = [agent for agent in free if agent not in able]
    unmeant = [agent for agent in able if need.kind is Kind.TRAIN and not view.ledger.is_meant(agent)]
    able = [agent for agent in able if agent not in unmeant]
    busy = [agent for agent, member in members.items() if member.is_present and member.task_id]
    away = [agent for agent, member in members.items() if not member.is_present]
    if not members:
        yield "no agent ever joined"
    if able:
        yield f"here and free: {view.agents(able)}"
    if unable:
        yield f"here, but without a function for {need.kind}: {view.agents(unable)}"
    if unmeant:
        yield f"here, but not of those that cohort.where wants: {view.agents(unmeant)}"
    if isolated:
        yield f"in quarantine: {view.agents(isolated)}"
    if busy:
        yield f"busy with an earlier task: {view.agents(busy)}"
    yield from (f"away: {view.agent(agent)}, {left_because(view, agent)}" for agent in away[:AGENTS])


def _waits_since(view: View) -> float:
    """Return when the wait began, also if that was before the daemon was started again."""
    since = view.wall(view.ledger.waits_since)
    for past in reversed(view.history):
        if past.event.kind == "step_started":
            break
        if past.event.kind == "waiting_for_agents":
            since = past.at
    return since


def _given_up_at(view: View, kind: Kind) -> float | None:
    """Return when the run goes on, or ends, without what it waits for."""
    ledger, max_s = view.ledger, view.ledger.settings.end.max_s
    times = [max_s] if max_s is not None and kind is Kind.TRAIN else []
    if kind is Kind.EVALUATE:
        able = [agent for agent, member in ledger.members.items() if kind in member.record.kinds]
        times += [max(ledger.rejoin_times(able), default=view.at)]
    return view.wall(min(times)) if times else None


# --- within a step ---------------------------------------------------------------------------


def _combining(view: View) -> Finding:
    ledger, step = view.ledger, view.ledger.step
    frozen = [ledger.updates[task_id] for task_id in step.frozen] if step else []
    closed = view.last("step_closed")
    ended_s = step.ended_s if step else None
    return _found(
        view,
        Standing.WORKING,
        f"combines the {plural(len(frozen), 'update')} of round {ledger.run.round_id}",
        "nothing to do: it ends by itself, and begins again with the same updates after a crash",
        [f"their agents: {view.agents(update.agent_id for update in frozen)}"],
        closed.at if closed else view.wall(ended_s if ended_s is not None else view.at),
    )


def _filling(view: View, step: StepRecord) -> Finding:
    """Return what a run of mode async does: a buffer is filled, and perhaps the last model measured."""
    ledger = view.ledger
    there, enough = len(ledger.ready(Kind.TRAIN)), ledger.buffer()
    at_work = [agent for task, agent in ledger.unanswered.items() if ledger.tasks[task].kind is Kind.TRAIN]
    text = f"train: {there} of the {plural(enough, 'update')} for the next model are there"
    text += f"; at work: {view.agents(at_work)}" if at_work else "; nobody is at work"
    if step.kind is Kind.EVALUATE:
        measured = len(ledger.ready(Kind.EVALUATE))
        text += f"; {plural(measured, 'agent')} measured the model of round {step.round_id} meanwhile"
    started = view.last("step_started", step=str(step.kind))
    rest = f"in {seconds(ledger.deadline() - view.at)} it goes on with what is there, if that is at least "
    return _found(
        view,
        Standing.WAITING,
        text,
        f"their answers; {rest}{plural(ledger.least_of(Kind.TRAIN), 'update')}",
        _of_step(view, step) if step.kind is Kind.TRAIN else [_measuring(view, step)],
        started.at if started else view.wall(step.started_s),
        view.wall(ledger.deadline()),
    )


def _measuring(view: View, step: StepRecord) -> str:
    """Return who measures the last model, beside the training."""
    asked = [task.agent_id for task in view.ledger.tasks_of(step)]
    if not asked:
        return "nobody that can measure the last model is free yet"
    return f"asked to measure the model of round {step.round_id}: {view.agents(asked)}"


def _collecting(view: View, step: StepRecord) -> Finding:
    ledger = view.ledger
    if ledger.is_open_to_all(step.kind):
        return _filling(view, step)
    here = [agent for agent in ledger.asked() if ledger.members[agent].is_present]
    gone = [agent for agent in ledger.asked() if not ledger.members[agent].is_present]
    accepted, least = len(ledger.accepted()), ledger.least()
    text = f"{step.kind}: {accepted} of {len(step.invited)} answered"
    if ledger.settings.mode == "semi-sync" and step.kind is Kind.TRAIN:  # late ones count, too
        answered = ledger.answered(step)
        text = f"{step.kind}: {answered} of {plural(ledger.enough(step), 'update')} are there"
        text += f", and {accepted - answered} of earlier rounds" if accepted > answered else ""
    if here:
        text += f"; waiting for {view.agents(here)}"
    if gone:
        text += f"; not connected: {view.agents(gone)}"
    if not here and accepted < least:
        text += f"; {least} are needed, the round waits for their return"
    if view.is_moving:
        text += f"; at the latest in {max(0.0, ledger.deadline() - view.at):.0f} s"
    ends_s, remedy = _end_of(view, step)
    started = view.last("step_started", step=str(step.kind))
    return _found(
        view,
        Standing.WAITING,
        text,
        remedy,
        _of_step(view, step),
        started.at if started else view.wall(step.started_s),
        view.wall(ends_s),
    )


def _end_of(view: View, step: StepRecord) -> tuple[float, str]:
    """Return when a step ends or changes by itself (run time), and what may end it before."""
    ledger = view.ledger
    if step.quorum_s is not None:
        end = min(step.quorum_s + ledger.settings.round.grace_s, ledger.deadline())
        rest = seconds(end - view.at)
        return end, f"nothing to do: the quorum is there; in {rest} it goes on without the rest"
    if len(ledger.accepted()) >= ledger.least():
        return _end_with_enough(view)
    return ledger.deadline(), _help_to_have_enough(view, step)


def _end_with_enough(view: View) -> tuple[float, str]:
    ledger = view.ledger
    asked, deadline = ledger.asked(), ledger.deadline()
    if not any(ledger.members[agent].is_present for agent in asked):
        end = min(max(ledger.rejoin_times(asked), default=view.at), deadline)
        return end, f"nothing to do: in {seconds(end - view.at)} it goes on without those who are away"
    there = plural(len(ledger.accepted()), "update")
    return (
        deadline,
        f"their answers; in {seconds(deadline - view.at)} it ends with the {there} that are there",
    )


def _help_to_have_enough(view: View, step: StepRecord) -> str:
    ledger, left = view.ledger, seconds(view.ledger.deadline() - view.at)
    then = f"in {left} the deadline is extended once; then the round fails"
    if step.extended:
        is_last = ledger.run.failed_rounds + 1 >= ledger.settings.round.max_failed_rounds
        then = f"in {left} the round fails{', and the run with it' if is_last else '; the next one begins'}"
    missing, asked = ledger.least() - len(ledger.accepted()), ledger.asked()
    more = f"{plural(missing, 'more update')} needed"
    if len(asked) < missing:
        return f"{more} and only {len(asked)} to come: it fails once that is clear; at the latest {then}"
    gone = [agent for agent in asked if not ledger.members[agent].is_present]
    who = f"start again who is away ({view.agents(gone)})" if gone else "their answers"
    return f"{who}: {more}; {then}"


def _of_step(view: View, step: StepRecord) -> Iterator[str]:
    """Yield what is there, and how it stands with each agent that was asked."""
    ledger = view.ledger
    stored, needed, early = len(ledger.accepted()), ledger.least(), ledger.enough(step)
    own = " of this round" if stored > ledger.answered(step) else ""
    yield f"{plural(stored, 'update')} stored; {needed} needed, {early}{own} end it early"
    if step.usual_s is not None:
        usually, deadline = seconds(step.usual_s), seconds(step.deadline_s)
        yield f"its agents usually take {usually}: so its deadline is {deadline}"
    if step.extended:
        yield f"its deadline of {step.deadline_s:g} s was extended once"
    if step.quorum_s is not None:
        yield f"the quorum is there since {view.ago(step.quorum_s)}"
    if ledger.run.failed_rounds:
        yield from _failures(view, ledger.run.failed_rounds)
    told = [fact for task in ledger.tasks_of(step) if (fact := _of_task(view, task))]
    yield from told[:AGENTS]
    if len(told) > AGENTS:
        yield f"and {len(told) - AGENTS} more agents"


def _of_task(view: View, task: TaskRecord) -> str:
    """Return how one agent's answer stands, unless it is stored."""
    ledger, name = view.ledger, f"{view.agent(task.agent_id)}, task {short(task.task_id)}"
    member = ledger.members.get(task.agent_id)
    update = ledger.updates.get(task.task_id)
    if update is not None:
        return "" if update.verdict is Verdict.ACCEPTED else f"{name}: {update.verdict}: {update.reason}"
    if task.status is not TaskStatus.OPEN:
        return f"{name}: {task.status}: {task.reason}"
    given = f"given {seconds(view.now - view.given_at(task))} ago"
    if member is not None and not member.is_present:
        return f"{name}, {given}: away, {left_because(view, task.agent_id)}{_patience(view, member.left_at)}"
    return f"{name}, {given}: {progress(view, task)}"


def _patience(view: View, left_at: float | None) -> str:
    """Return until when an agent whose connection broke is waited for."""
    if left_at is None or left_at == NEVER or not view.is_moving:
        return ""
    left = left_at + view.ledger.settings.round.rejoin_s - view.at
    return (
        f"; it is waited for {seconds(left)} more"
        if left > 0
        else "; no longer waited for if the rest is enough"
    )
