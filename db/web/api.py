"""The JSON API: what `ModelDB` answers, as it is; a number that JSON lacks is null."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from fl_main.db.history import Note
from fl_main.db.insight.comparison import Comparison
from fl_main.db.insight.curves import Curve
from fl_main.db.insight.heat import Heat
from fl_main.db.insight.lineage import Lineage
from fl_main.db.insight.ranking import Standing
from fl_main.db.insight.timeline import Timeline
from fl_main.db.insight.usage import Usage
from fl_main.db.records import Agent, Effort, Event, Round, RunFacts, Update
from fl_main.db.runs_and_models import Run
from fl_main.errors import NotFoundError
from fl_main.store import ModelKind

from . import documentation, model_api
from .bounds import MOST_READ_BYTES, Heavy
from .listing import Limit, Number, following, part
from .model_api import ModelFacts
from .source import Database

ROUNDS = 50  # of a timeline or a heat map, where nobody says which
MOST_TASKS = 50_000  # of a timeline
MOST_VALUES = 200_000  # of a heat map
MOST_MODELS = 1000  # of a lineage
MOST_RUNS = 20  # side by side

SAID: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such run or model: `detail` says so."},
    422: {"description": "A value that cannot be: `detail` says which."},
    503: {"description": "The database cannot be read, or too many ask at once: `detail` says why."},
}

router = APIRouter(prefix="/api", responses=SAID)


def _run(database: Database, run: Annotated[str, Path(description="Name or id of a run.")]) -> Run:
    return database.run(run)


OneRun = Annotated[Run, Depends(_run)]
RoundId = Number | None


@dataclass(frozen=True, slots=True)
class RunDetails:
    """A run with what is known of it as a whole.

    Attributes:
        tags: Model ids by tag.
        form: What its updates are, `full` models or a `delta`; empty while there are none; `codec`:
            what they are encoded by.
        size: Bytes of all its updates as they came; `plain_size`: what they would be without a codec.
    """

    facts: RunFacts
    tags: dict[str, str]
    effort: Effort
    form: str
    codec: str
    size: int
    plain_size: int


@router.get("/", include_in_schema=False)
def documented(request: Request) -> HTMLResponse:
    """Show what this API answers."""
    return documentation.page(request)


@router.get("/heads", tags=["database"])
def heads(database: Database) -> list[Note]:
    """Return the head of each run's history, and last that of all (run_id `all`): to be noted elsewhere."""
    return database.heads()


@router.get("/usage", tags=["database"])
def usage(database: Database) -> Usage:
    """Return what the database takes on its disk, and how much of it could go."""
    return database.usage()


@router.get("/runs", tags=["runs"])
def runs(
    request: Request,
    response: Response,
    database: Database,
    limit: Limit = 1000,
    after: Annotated[str | None, Query(description="The `run_id` after which to go on.")] = None,
) -> list[RunFacts]:
    """Return all runs, the oldest first."""

    def key(facts: RunFacts) -> str:
        return facts.run_id

    found = following([run.facts for run in database.runs()], after, key)
    return part(request, response, found, limit, key)


@router.get("/runs/{run}", tags=["runs"])
def one_run(run: OneRun) -> RunDetails:
    """Return a run with its settings, tags, and what became of its agents' time."""
    return RunDetails(run.facts, run.tags(), run.effort(), *run.way(), *run.traffic())


@router.get("/runs/{run}/rounds", tags=["runs"])
def rounds(
    request: Request,
    response: Response,
    run: OneRun,
    limit: Limit = 1000,
    after: Annotated[RoundId, Query(description="The `round_id` after which to go on.")] = None,
) -> list[Round]:
    """Return the rounds of a run in order, each with its counts and mean metrics."""

    def key(entry: Round) -> int:
        return entry.round_id

    return part(request, response, following(run.rounds(), after, key), limit, key)


@router.get("/runs/{run}/agents", tags=["runs"])
def agents(
    request: Request,
    response: Response,
    run: OneRun,
    limit: Limit = 1000,
    after: Annotated[str | None, Query(description="The `agent_id` after which to go on.")] = None,
) -> list[Agent]:
    """Return everyone who ever joined a run, in that order."""

    def key(agent: Agent) -> str:
        return agent.agent_id

    return part(request, response, following(run.agents(), after, key), limit, key)


@router.get("/runs/{run}/updates", tags=["runs"])
def updates(
    request: Request,
    response: Response,
    run: OneRun,
    round_id: Annotated[
        RoundId, Query(alias="round", description="Only those of this round's tasks.")
    ] = None,
    agent: Annotated[str | None, Query(description="Only those of the agent with this id.")] = None,
    limit: Limit = 1000,
    after: Annotated[Number, Query(description="The `update_id` after which to go on.")] = 0,
) -> list[Update]:
    """Return the updates of a run in the order in which they came, those that were refused too."""
    found = run.updates(round_id, agent, after=after, limit=limit + 1)
    return part(request, response, found, limit, lambda update: update.update_id)


@router.get("/runs/{run}/models", tags=["runs"])
def models(
    request: Request,
    response: Response,
    run: OneRun,
    kind: Annotated[ModelKind | None, Query(description="Only models of this kind.")] = None,
    round_id: Annotated[RoundId, Query(alias="round", description="Only models of this round.")] = None,
    agent: Annotated[str | None, Query(description="Only those of the agent with this id.")] = None,
    limit: Limit = 1000,
    after: Annotated[str | None, Query(description="The `model_id` after which to go on.")] = None,
) -> list[ModelFacts]:
    """Return the models of a run, the oldest first."""
    found = run.models(kind, round_id, agent, after=after, limit=limit + 1)
    shown = part(request, response, found, limit, lambda model: model.model_id)
    return [ModelFacts.of(model) for model in shown]


@router.get("/runs/{run}/events", tags=["runs"])
def events(
    request: Request,
    response: Response,
    run: OneRun,
    kind: Annotated[str | None, Query(description="Only events of this kind.")] = None,
    limit: Limit = 1000,
    after: Annotated[Number, Query(description="The `seq` after which to go on.")] = 0,
) -> list[Event]:
    """Return what happened in a run, in order."""
    found = run.events(kind, after=after, limit=limit + 1)
    return part(request, response, found, limit, lambda event: event.seq)


@router.get("/runs/{run}/curves", tags=["at a glance"])
def curves(
    run: OneRun,
    source: Annotated[str | None, Query(description="`train` or `evaluate`; both if it is left out.")] = None,
    agents: Annotated[bool, Query(description="Whether agents are told apart.")] = True,
) -> list[Curve]:
    """Return how each metric went: the mean over agents; up to 20 agents each, or of more their quantiles."""
    return run.curves(source, agents)


@router.get("/runs/{run}/timeline", tags=["at a glance"])
def timeline(run: OneRun, first: RoundId = None, last: RoundId = None) -> Timeline:
    """Return when rounds began and ended, who was asked in them, and when which answer came.

    Without `first`, of the 50 rounds up to `last`, or to the latest. Of more than 50,000 tasks, the latest
    rounds; `left_out` says how many tasks are not among them.
    """
    return run.timeline(_first(run, first, last), last, MOST_TASKS)


def _first(run: Run, first: int | None, last: int | None) -> int:
    if first is not None:
        return first
    return max(0, (run.facts.round_id if last is None else last) - ROUNDS + 1)


@router.get("/runs/{run}/heat", tags=["at a glance"])
def heat(
    request: Request,
    run: OneRun,
    measure: Annotated[str, Query(description="One of the answer's `measures`.")] = "distance",
    first: RoundId = None,
    last: RoundId = None,
) -> Heat:
    """Return one number of each agent's update in each round: one sees who is odd.

    A `distance` or `cosine` that the run's strategy did not note is computed from the stored models;
    what that would take too long for is in `missing`, and may be asked for again. Without `first`, of the
    50 rounds up to `last`, or to the latest. Of more than 200,000 values, the latest rounds; `left_out` says
    how many rounds before them were asked for, too.
    """
    heavy: Heavy = request.app.state.heavy
    begin = _first(run, first, last)
    return heavy.now(lambda: run.heat(measure, begin, last, MOST_READ_BYTES, MOST_VALUES))


@router.get("/runs/{run}/lineage", tags=["at a glance"])
def run_lineage(run: OneRun, most: Annotated[int, Query(ge=1, le=MOST_MODELS)] = 200) -> Lineage:
    """Return the models of a run as a graph; where there are more than `most`, without those of agents."""
    return run.lineage(most)


@router.get("/runs/{run}/standings", tags=["at a glance"])
def standings(
    run: OneRun,
    metric: Annotated[str | None, Query(description="By default what the run chose.")] = None,
    source: Annotated[str | None, Query(description="`train` or `evaluate`.")] = None,
    direction: Annotated[Literal["min", "max"] | None, Query(description="Which way is better.")] = None,
    limit: Limit = 1000,
) -> list[Standing]:
    """Return the global models of a run, the best first, each with since when that is known."""
    return run.standings(metric, source, direction)[:limit]


@router.get("/compare", tags=["runs"])
def compare(
    database: Database,
    runs: Annotated[
        str,
        Query(
            description="Names or ids of two to 20 runs, with commas between them.",
            json_schema_extra={"pattern": f"^[^,]+(,[^,]+){{1,{MOST_RUNS - 1}}}$"},
        ),
    ],
) -> Comparison:
    """Return runs side by side: in which settings they differ, and what came of each."""
    names = runs.split(",")
    if not 2 <= len(names) <= MOST_RUNS:
        raise HTTPException(422, f"runs: name two to {MOST_RUNS} of them, with commas between")
    first, *others = [database.run(name) for name in names]
    return first.compare(*others)


router.include_router(model_api.router)


@router.get("/changes", tags=["database"], response_class=StreamingResponse)
async def changes(request: Request) -> StreamingResponse:
    """Tell what moves, as server-sent events, while a daemon writes.

    First an event `heads`: how far the chain of each run is, by its id. Then, without a name,
    `{"run_id": …, "seq": …}` for each run that moves; `trouble` with a `detail` if the database
    cannot be read, and `heads` again once it can.
    """
    found = request.app.state.changes
    if found.is_full:
        raise HTTPException(503, "too many listen already; ask again later", {"Retry-After": "10"})
    unbuffered = {"X-Accel-Buffering": "no"}  # by nginx
    return StreamingResponse(found.listen(), media_type="text/event-stream", headers=unbuffered)


@router.get("/{rest:path}", include_in_schema=False)
def nothing(rest: str) -> Any:
    """Tell in JSON that there is no such thing."""
    raise NotFoundError(f"there is no /api/{rest}; /api/ lists what there is")
