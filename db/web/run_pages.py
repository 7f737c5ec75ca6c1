"""The pages of one run: what a person wants to know first, its rounds, agents, models, events, settings."""

from time import time as wall_time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from fl_main.db.insight.timeline import Mark, Timeline
from fl_main.db.records import Round
from fl_main.db.runs_and_models import Run
from fl_main.errors import StoreError
from fl_main.settings import RunSettings
from fl_main.steps import strategy_in_words
from fl_main.store import ModelKind

from . import answer, charts, drawing, looking, model_pages, showing
from .rendering import Number, address, page_of, settings_of
from .source import Database

ROUNDS = 20  # on one page
TASKS = 20_000  # of them, on a timeline: a second
LANES = 40  # agents in one timeline
MARKS = 200  # updates in one table, the last ones
AGENTS = 100  # in one table
MODELS = 200
LINEAGE = 120  # models in one drawing
EVENTS = 100
MOST_EVENTS = 100_000  # that can be paged through; `fl db events` has all
HEAT_CELLS = 5_000  # in one heat map
HEAT_ROUNDS = 100
MOST_VALUES = 20_000  # agents times rounds up to which the tables beside curves tell agents apart
LOOKED_AT_BYTES = 16_000_000  # of models that are read to answer whether somebody is odd
METRICS = 4  # columns of the table of rounds

VIEWS = [
    ("Overview", ""),
    ("Rounds", "/rounds"),
    ("Agents", "/agents"),
    ("Models", "/models"),
    ("Lineage", "/lineage"),
    ("Events", "/events"),
    ("Settings", "/settings"),
]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def _run_page(request: Request, run: Run, view: str, **context: Any) -> Response:
    purpose = run.facts.settings.get("purpose", "")
    name = f"run/{view.lower() or 'overview'}.html"
    return page_of(request, name, run=run.facts, view=view, views=VIEWS, purpose=purpose, **context)


@router.get("/runs/{run}")
def overview(request: Request, database: Database, run: str) -> Response:
    """Answer first what a person wants to know of a run; then its curves and sums."""
    found = database.run(run)
    settings, agents = settings_of(found.facts), found.agents()
    best = settings.best
    with database.connect() as connection:
        came = looking.came(connection, found.run_id, found.facts.round_id)
        measured = looking.measured(connection, found.facts, best.source, best.metric)
        missed = looking.missed(connection, found.run_id, found.facts.round_id)
        waits = [] if found.status.is_over else looking.waited_for(connection, found.run_id)
    are_told_apart = len(agents) * found.facts.rounds_done <= MOST_VALUES
    far = _far(found) if are_told_apart else None
    silent_s = max(0.0, wall_time() - found.facts.changed_at)
    tags = found.tags()
    known = answer.Known(found.facts, settings, agents, came, measured, missed, far, tags, waits, silent_s)
    curves = [
        (source, title, charts.charts(found.curves(source, are_told_apart), best.metric, len(agents)))
        for source, title in (("evaluate", "On held-out data"), ("train", "In training"))
    ]
    return _run_page(
        request, found, "", answer=answer.answer(known), curves=curves, facts=_facts(found, settings)
    )


def _far(run: Run) -> dict[str, answer.Far] | None:
    """Return who was an outlier in the last rounds; None where that is not known and not quickly measured."""
    last = run.facts.round_id
    try:
        heat = run.heat("distance", max(1, last - answer.LATELY + 1), last, most_bytes=LOOKED_AT_BYTES)
    except StoreError:
        return None
    if heat.missing or not heat.rounds:
        return None
    ids = {name: agent_id for agent_id, name in run.agent_names().items()}
    odd = set(heat.outliers)
    found = {}
    for i, (name, values) in enumerate(zip(heat.agents, heat.values, strict=True)):
        found[ids[name]] = answer.far([(i, j) in odd for j, value in enumerate(values) if value is not None])
    return found


def _facts(run: Run, settings: RunSettings) -> list[tuple[str, str]]:
    """Return a run's sums, those that say something."""
    effort, (size, plain), (form, codec) = run.effort(), run.traffic(), run.way()
    spent = effort.busy_s + effort.wasted_s + effort.idle_s
    parts = [("busy", effort.busy_s), ("without a task", effort.idle_s), ("wasted", effort.wasted_s)]
    found = [
        ("strategy", strategy_in_words(run.facts.settings.get("strategy", settings.strategy))),
        ("mode", str(settings.mode)),
        ("run time", showing.duration(run.facts.run_time_s)),
        ("updates in its models", showing.whole(effort.counted)),
        (
            "received",
            showing.size(size) + (f" ({showing.size(plain)} without a codec)" if plain > size else ""),
        ),
        ("updates come as", ", ".join(filter(None, (form, codec)))),
        (
            "agents' time",
            ", ".join(f"{showing.percent(s / spent)} {name}" for name, s in parts if s) if spent else "",
        ),
        (
            "staleness",
            f"{effort.staleness:.1f} on average, at most {effort.max_staleness}"
            if effort.max_staleness
            else "",
        ),
        ("run id", run.run_id),
    ]
    return [(label, value) for label, value in found if value]


# --- rounds --------------------------------------------------------------------------------


@router.get("/runs/{run}/rounds")
def rounds(
    request: Request, database: Database, run: str, until: Number | None = None, lanes: Number = 0
) -> Response:
    """Show when what happened in some rounds, up to round `until`, and what came of each."""
    found = database.run(run)
    every = [entry for entry in found.rounds() if entry.round_id > 0]
    upto = [entry for entry in every if until is None or entry.round_id <= until]
    shown = upto[-ROUNDS:]
    if not shown:
        return _run_page(request, found, "Rounds", rows=[])
    first, last = shown[0].round_id, shown[-1].round_id
    timeline = found.timeline(first, last, TASKS)
    chosen = timeline.agents[lanes : lanes + LANES]
    wrong = [mark for mark in timeline.updates if _became(mark)[0] in ("late", "bad")]
    newest = every[-1].round_id
    return _run_page(
        request,
        found,
        "Rounds",
        rows=shown[::-1],
        any_reason=any(entry.reason for entry in shown),
        metrics=_metrics(shown, settings_of(found.facts)),
        lanes=drawing.lanes(chosen, _stretches(timeline), _slots(timeline)),
        words=_words(timeline),
        more_agents=f"Agents {lanes + 1} to {lanes + len(chosen)} of {len(timeline.agents)}."
        if len(chosen) < len(timeline.agents)
        else "",
        next_lanes=address(request, lanes=lanes + LANES) if len(timeline.agents) > lanes + LANES else "",
        marks=[_told_mark(mark) for mark in timeline.updates[: -MARKS - 1 : -1]],
        wrong=[_told_mark(mark) for mark in wrong[: -MARKS - 1 : -1]],
        more_wrong=max(0, len(wrong) - MARKS),
        newer=address(request, until=min(last + ROUNDS, newest)) if last < newest else "",
        older=address(request, until=first - 1) if len(upto) > ROUNDS else "",
        pages=f"Rounds {first} to {last} of {showing.whole(newest)}",
    )


def _metrics(rounds: list[Round], settings: RunSettings) -> list[tuple[str, str]]:
    """Return which metrics the table shows: the run's own first."""
    best = (settings.best.source, settings.best.metric)
    named = [
        (source, name)
        for source, of in (("evaluate", "evaluate"), ("train", "train"))
        for name in sorted({name for entry in rounds for name in getattr(entry, of)})
    ]
    return sorted(named, key=lambda key: key != best)[:METRICS]


def _stretches(timeline: Timeline) -> list[drawing.Stretch]:
    return [
        drawing.Stretch(
            span.round_id, span.started_s, timeline.run_time_s if span.ended_s is None else span.ended_s
        )
        for span in timeline.rounds
    ]


def _slots(timeline: Timeline) -> list[drawing.Slot]:
    ended = {span.round_id: span.ended_s for span in timeline.rounds}
    slots = []
    for mark in timeline.updates:
        end = mark.received_s
        if end is None:
            until = ended.get(mark.round_id)
            end = timeline.run_time_s if mark.status == "open" or until is None else until
        tone, became = _became(mark)
        words = f"{showing.text(mark.agent)}, round {mark.round_id}, {mark.kind}: {became}"
        if mark.received_s is not None:
            words += f" after {showing.duration(mark.received_s - mark.assigned_s)}"
        if mark.reason:
            words += f", because {showing.text(mark.reason)}"
        href = f"/models/{mark.model_id}" if mark.model_id else ""
        slots.append(drawing.Slot(mark.agent, mark.assigned_s, max(end, mark.assigned_s), tone, words, href))
    return slots


def _became(mark: Mark) -> tuple[str, str]:
    """Return a mark's tone, and in words what became of the task."""
    if mark.verdict is None:
        if mark.status in ("open", "late"):
            return ("late", "late, still waited for") if mark.is_late else ("open", "waited for")
        return ("bad" if mark.status == "failed" else "idle", mark.status)
    if mark.verdict == "rejected":
        return "bad", "rejected"
    if mark.is_late:
        counted = f", counted in round {mark.counted_in}" if mark.counted_in is not None else ""
        return "late", f"late, {mark.verdict}{counted}"
    if mark.verdict == "discarded":
        return "idle", "discarded"
    if mark.kind == "train" and mark.counted_in is not None and mark.counted_in != mark.round_id:
        return "good", f"accepted, counted in round {mark.counted_in}"
    return "good", "accepted"


def _told_mark(mark: Mark) -> dict[str, Any]:
    return {
        "round_id": mark.round_id,
        "agent": mark.agent,
        "kind": mark.kind,
        "assigned_s": mark.assigned_s,
        "received_s": mark.received_s,
        "model_id": mark.model_id,
        "reason": mark.reason,
        "became": _became(mark)[1],
    }


def _words(timeline: Timeline) -> str:
    first, last = timeline.rounds[0].round_id, timeline.rounds[-1].round_id
    tasks = showing.count(len(timeline.updates), "task")
    cut = f"; {showing.count(timeline.left_out, 'task')} more are left out" if timeline.left_out else ""
    agents = showing.count(len(timeline.agents), "agent")
    return f"Rounds {first} to {last}: {tasks} of {agents}, over run time{cut}"


# --- agents --------------------------------------------------------------------------------


@router.get("/runs/{run}/agents")
def agents(
    request: Request, database: Database, run: str, until: Number | None = None, after: Number = 0
) -> Response:
    """Show a heat map of agents and rounds, and who they are."""
    found = database.run(run)
    members = found.agents()
    newest = found.facts.round_id
    last = newest if until is None else min(until, newest)
    number = max(10, min(HEAT_ROUNDS, HEAT_CELLS // max(1, len(members))))
    first = max(1, last - number + 1)
    shown = members[after : after + AGENTS]
    return _run_page(
        request,
        found,
        "Agents",
        agents=shown,
        agents_before=address(request, after=max(0, after - AGENTS)) if after else "",
        agents_after=address(request, after=after + AGENTS) if len(members) > after + AGENTS else "",
        agents_words=f"{after + 1} to {after + len(shown)} of {showing.count(len(members), 'agent')}",
        first=first,
        last=max(first, last),
        version=f"{found.facts.rounds_done}.{last}",
        newer=address(request, until=min(last + number, newest)) if last < newest else "",
        older=address(request, until=first - 1) if first > 1 else "",
    )


@router.get("/runs/{run}/lineage")
def lineage(request: Request, database: Database, run: str) -> Response:
    """Show where a run's models come from."""
    found = database.run(run)
    shown = found.lineage(LINEAGE)
    return _run_page(
        request,
        found,
        "Lineage",
        graph=model_pages.graph_of(shown, found.name),
        words=model_pages.lineage_in_words(shown),
    )


# --- models, events, settings --------------------------------------------------------------


@router.get("/runs/{run}/models")
def models(request: Request, database: Database, run: str, kind: str = "", round: str = "") -> Response:
    """List the latest models of a run."""
    found = database.run(run)
    chosen = ModelKind(kind) if kind in list(ModelKind) else None
    round_id = int(round) if round.isascii() and round.isdigit() and len(round) < 16 else None
    shown = found.models(chosen, round_id, last=MODELS)[::-1]
    tags: dict[str, list[str]] = {}
    for tag, model_id in found.tags().items():
        tags.setdefault(model_id, []).append(tag)
    return _run_page(
        request,
        found,
        "Models",
        models=shown,
        names=found.agent_names(),
        tags=tags,
        kinds=list(ModelKind),
        kind=chosen,
        round_id=round_id,
        words=f"The last {showing.count(len(shown), 'model')} of this choice"
        if len(shown) == MODELS
        else showing.count(len(shown), "model"),
    )


@router.get("/runs/{run}/events")
def events(request: Request, database: Database, run: str, page: Number = 0) -> Response:
    """Show what happened, the last first."""
    found = database.run(run)
    latest = found.events(last=min((page + 1) * EVENTS + 1, MOST_EVENTS))[::-1]
    shown = latest[page * EVENTS : (page + 1) * EVENTS]
    return _run_page(
        request,
        found,
        "Events",
        events=shown,
        names=found.agent_names(),
        newer=address(request, page=page - 1) if page else "",
        older=address(request, page=page + 1) if len(latest) > (page + 1) * EVENTS else "",
        words=f"Events {page * EVENTS + 1} to {page * EVENTS + len(shown)}, the last first",
    )


@router.get("/runs/{run}/settings")
def settings(request: Request, database: Database, run: str) -> Response:
    """Show what the run was created with, and what of it differs from the defaults."""
    found = database.run(run)
    usual = showing.flat(RunSettings(name="run").model_dump(mode="json"))
    rows = [
        (key, value, key not in ("name", "purpose") and value != usual.get(key))
        for key, value in sorted(showing.flat(found.facts.settings).items())
    ]
    return _run_page(request, found, "Settings", settings=rows, changed=sum(row[2] for row in rows))
