"""What a person wants to know of a run first: how is it going, is somebody odd, which model to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fl_main.db.records import Agent, RunFacts
from fl_main.settings import RunSettings
from fl_main.store import Phase, RunStatus

from .showing import count, duration, number, text

LATELY = 10  # rounds that tell who is often late or refused
OFTEN = 3  # of them
SILENT_S = 900.0  # without anything stored, after which a run that is under way seems to have stopped
_NAMED = 5  # agents in one sentence


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three answers.

    Attributes:
        tone: `good`, `warn`, `bad`, or empty.
        first: The answer in short; `more`: sentences that it follows from.
        model: The model that it tells to take, as `fl db` names it.
    """

    first: str
    more: tuple[str, ...] = ()
    tone: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The three answers."""

    going: Part
    odd: Part
    take: Part


@dataclass(frozen=True, slots=True)
class Missed:
    """What went wrong with an agent's updates lately: how many were late, and refused; of the last, why."""

    late: int = 0
    refused: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Far:
    """In how many of the last rounds an agent's updates were outliers, of how many that count one of it.

    Attributes:
        last: How many of these were the latest, one after the other.
    """

    rounds: int
    of: int
    last: int


@dataclass(frozen=True, slots=True)
class Known:
    """What an answer follows from.

    Attributes:
        came: Updates of the current round that were accepted, and how many were asked for.
        measured: How many agents measured the best model, and on how many examples.
        missed: By agent, of the last `LATELY` rounds.
        far: Outliers of these, by agent; None: it was not measured how far updates lie apart.
        tags: Model ids by tag.
        waits: Ids of the agents whose updates are not there yet.
        silent_s: Seconds for which nothing was stored of it.
    """

    run: RunFacts
    settings: RunSettings
    agents: Sequence[Agent]
    came: tuple[int, int] = (0, 0)
    measured: tuple[int, int] = (0, 0)
    missed: Mapping[str, Missed] = field(default_factory=dict)
    far: Mapping[str, Far] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    waits: Sequence[str] = ()
    silent_s: float = 0.0


def answer(known: Known) -> Answer:
    """Return the three answers."""
    return Answer(_going(known), _odd(known), _take(known))


# --- how is it going ------------------------------------------------------------------------


def _going(known: Known) -> Part:
    run, asked = known.run, known.run.rounds_wanted or known.settings.end.rounds
    done = f"{run.rounds_done} of {count(asked, 'round')}"
    more = [*_silent(known), *_reason(run), *_here(known), *_best(known), *_waits(known)]
    if run.status is RunStatus.FAILED:
        return Part(f"Failed after {done}", tuple(more), "bad")
    if run.status is RunStatus.STOPPED:
        return Part(f"Stopped after {done}", tuple(more), "warn")
    if run.status is RunStatus.FINISHED:
        took = f"in {duration(run.run_time_s)} of run time" if run.run_time_s else ""
        return Part(f"Finished: {count(run.rounds_done, 'round')} {took}".strip(), tuple(more), "good")
    if run.failed_rounds:
        more.insert(0, f"The last {count(run.failed_rounds, 'round')} failed.")
    is_well = not (run.failed_rounds or run.status is RunStatus.PAUSED or _silent(known))
    tone = "" if is_well else "warn"
    return Part(_under_way(known, asked), tuple(more), tone)


def _under_way(known: Known, asked: int) -> str:
    run = known.run
    if run.status is RunStatus.PAUSED:
        return f"Paused in {_round(run, asked)}"
    if run.phase is Phase.COLLECTING and known.came[1]:
        came, invited = known.came
        return f"{_round(run, asked).capitalize()}: {came} of {count(invited, 'update')} here"
    if run.phase is Phase.AGGREGATING:
        return f"{_round(run, asked).capitalize()}: making its model"
    if run.rounds_done == 0 and not any(agent.is_present for agent in known.agents):
        return "Waiting for its first agents"
    return f"{run.rounds_done} of {count(asked, 'round')} done, waiting"


def _round(run: RunFacts, asked: int) -> str:
    """Name the current round; its number says nothing of how many are done if some failed or were undone."""
    is_plain = run.round_id <= run.rounds_done + 1
    return f"round {run.round_id}" + (f" of {asked}" if is_plain else f", {run.rounds_done} of {asked} done")


def _reason(run: RunFacts) -> list[str]:
    return [_sentence(run.reason)] if run.reason else []


def _silent(known: Known) -> list[str]:
    """Ask whether the aggregator is up, where a run stands still for longer than any round takes."""
    longest = max(SILENT_S, 2 * known.settings.round.deadline_s)
    if known.run.status is not RunStatus.RUNNING or known.silent_s <= longest:
        return []
    return [f"Nothing happened for {duration(known.silent_s)}: `fl why` tells whether its aggregator is up."]


def _here(known: Known) -> list[str]:
    if known.run.status.is_over or not known.agents:
        return []
    here = sum(agent.is_present for agent in known.agents)
    are = "is" if len(known.agents) == 1 else "are"
    return [f"{here} of {count(len(known.agents), 'agent')} {are} here."]


def _waits(known: Known) -> list[str]:
    run = known.run
    if run.status is not RunStatus.RUNNING:
        return []
    if run.phase is Phase.WAITING:
        here, least = sum(agent.is_present for agent in known.agents), known.settings.round.min_agents
        return (
            [f"A round needs {count(least, 'agent')}: waits for {least - here} more."] if here < least else []
        )
    names = {agent.agent_id: agent.name for agent in known.agents}
    return (
        [f"Waits for {_listed([names.get(agent, agent) for agent in known.waits])}."] if known.waits else []
    )


def _best(known: Known) -> list[str]:
    run, best = known.run, known.settings.best
    if run.best_value is None:
        return []
    where = "on held-out data" if best.source == "evaluate" else "in training"
    return [f"Best {text(best.metric)} {number(run.best_value)} {where}, in round {run.best_round}."]


# --- is somebody odd ------------------------------------------------------------------------


def _odd(known: Known) -> Part:
    names = {agent.agent_id: agent.name for agent in known.agents}
    bad = {
        agent.agent_id: f"gets no more tasks: {text(agent.quarantined)}."
        for agent in known.agents
        if agent.quarantined
    }
    for agent_id, where in _outliers(known).items():
        bad.setdefault(agent_id, f"was an outlier in {where}.")
    warned = {agent_id: what for agent_id, missed in known.missed.items() if (what := _missed(missed))}
    if not bad and not warned:
        return _nobody(known)
    said = [f"{text(names.get(key, key))} {what}" for found in (bad, warned) for key, what in found.items()]
    listed = _listed([names.get(key, key) for key in {**bad, **warned}])
    return Part(listed, tuple(said[:_NAMED]), "bad" if bad else "warn")


def _outliers(known: Known) -> dict[str, str]:
    """Say by agent in which of the last rounds it was an outlier, of those who were so often."""
    found = {agent.agent_id: _lately(agent.outlying) for agent in known.agents if agent.outlying}
    for agent_id, it in (known.far or {}).items():
        if agent_id not in found and 0 < min(OFTEN, it.of) <= it.rounds:
            is_all_last = it.last == it.rounds
            found[agent_id] = _lately(it.last) if is_all_last else f"{it.rounds} of the last {it.of} rounds"
    return found


def _nobody(known: Known) -> Part:
    if not known.run.rounds_done:
        return Part("Too early to say")
    if known.far is None:
        unknown = "How far updates lie apart was not measured; the heat map of its agents does."
        return Part("Nobody was late or refused", (unknown,))
    calm = f"In the last {LATELY} rounds nobody was an outlier or late often, and nobody was refused."
    return Part("Nobody", (calm,), "good")


def _listed(names: Sequence[str]) -> str:
    shown = [text(name) for name in names]
    if len(shown) > _NAMED:
        return ", ".join(shown[: _NAMED - 1]) + f" and {len(shown) - _NAMED + 1} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


def far(outliers: Sequence[bool]) -> Far:
    """Count in which of its rounds, in order, an agent was an outlier."""
    last = 0
    for is_odd in reversed(outliers):
        if not is_odd:
            break
        last += 1
    return Far(sum(outliers), len(outliers), last)


def _lately(rounds: int) -> str:
    return "the last round" if rounds == 1 else f"the last {rounds} rounds"


def _missed(missed: Missed) -> str:
    """Say what is wrong with an agent that is often late, or was refused."""
    said = []
    if missed.late >= OFTEN:
        said.append(f"was late {missed.late} times in the last {LATELY} rounds")
    if missed.refused:
        times = "once" if missed.refused == 1 else f"{missed.refused} times"
        why = f" ({text(missed.reason)})" if missed.reason else ""
        said.append(f"was refused {times} in the last {LATELY} rounds{why}")
    return ", and ".join(said) + "." if said else ""


# --- which model to take --------------------------------------------------------------------


def _take(known: Known) -> Part:
    run, name = known.run, text(known.run.name)
    if run.best_model_id is not None:
        way = "lowest" if known.settings.best.direction == "min" else "highest"
        best = f"the {way} {text(known.settings.best.metric)}, {number(run.best_value)}"
        why = f"Of round {run.best_round}: {best}."
        return Part(f"{name}:best", (why, *_held_by(known)), model=run.best_model_id)
    if tagged := known.tags.get("final"):
        return Part(f"{name}:final", ("It is tagged as final; none was measured.",), model=tagged)
    if run.model_id is not None and run.rounds_done:
        why = "It is the last one; none was measured, so that nothing says which is best."
        return Part(f"{name}:last", (why,), model=run.model_id)
    return Part("None yet", ("The first global model comes with the first round that is done.",))


def _held_by(known: Known) -> list[str]:
    """Tell how many agents stand behind the measurement."""
    agents, examples = known.measured
    return [f"Measured by {count(agents, 'agent')} on {count(examples, 'example')}."] if agents else []


def _sentence(reason: str) -> str:
    shown = text(reason)
    return shown[:1].upper() + shown[1:] + ("" if shown.endswith((".", "…")) else ".")
