"""The JSON API: what `ModelDB` answers, as it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import StreamingResponse

from fl_main.db.model_db import Run
from fl_main.db.records import Agent, Round, RunFacts
from fl_main.errors import NotFoundError

from .source import Database

router = APIRouter(prefix="/api")


def _run(database: Database, run: Annotated[str, Path(description="Name or id of a run.")]) -> Run:
    return database.run(run)


OneRun = Annotated[Run, Depends(_run)]


@router.get("/runs")
def runs(database: Database) -> list[RunFacts]:
    """Return all runs, the oldest first."""
    return [run.facts for run in database.runs()]


@router.get("/runs/{run}/rounds")
def rounds(run: OneRun) -> list[Round]:
    """Return the rounds of a run in order."""
    return run.rounds()


@router.get("/runs/{run}/agents")
def agents(run: OneRun) -> list[Agent]:
    """Return everyone who ever joined a run, in that order."""
    return run.agents()


@router.get("/changes", response_class=StreamingResponse)
async def changes(request: Request) -> StreamingResponse:
    """Tell what moves, as server-sent events.

    First an event `heads`: how far the chain of each run is, by its id. Then, without a name,
    `{"run_id": …, "seq": …}` for each run that moves; `trouble` with a `detail` if the database
    cannot be read, and `heads` again once it can.
    """
    found = request.app.state.changes
    if found.is_full:
        raise HTTPException(503, "too many pages listen; ask again later", {"Retry-After": "10"})
    return StreamingResponse(found.listen(), media_type="text/event-stream")


@router.get("/{rest:path}", include_in_schema=False)
def nothing(rest: str) -> Any:
    """Tell in JSON that there is no such thing."""
    raise NotFoundError(f"there is no /api/{rest}; see /api/openapi.json")
