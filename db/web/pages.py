"""The page of all runs; those of one run and of models are beside it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from fl_main.db import sqlite
from fl_main.db.model_db import ModelDB
from fl_main.db.records import RunFacts
from fl_main.store import RunStatus

from . import charts, drawing, looking, model_pages, run_pages, showing
from .rendering import Number, address, page_of, settings_of
from .source import Source

RUNS = 50  # on one page

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
router.include_router(run_pages.router)
router.include_router(model_pages.router)


@router.get("/")
def start(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    status: str = "",
    page: Number = 0,
) -> Response:
    """Show all runs; of an empty or unknown status, as the form sends it for `any`, those of each."""
    source: Source = request.app.state.source
    wanted_status = RunStatus(status) if status in list(RunStatus) else None
    context = {
        "place": "runs",
        "q": q,
        "status": wanted_status,
        "statuses": list(RunStatus),
        "folder": source.folder,
    }
    if not (source.folder / sqlite.FILE).exists():
        return page_of(
            request, "start.html", total=0, rows=[], summary="There is no model database yet.", **context
        )
    database = source.database()
    runs = sorted((run.facts for run in database.runs()), key=lambda run: run.changed_at, reverse=True)
    wanted = q.casefold()
    chosen = [
        run
        for run in runs
        if wanted in f"{run.name} {run.run_id}".casefold() and wanted_status in (None, run.status)
    ]
    shown = chosen[page * RUNS : (page + 1) * RUNS]
    return page_of(
        request,
        "start.html",
        total=len(runs),
        rows=_run_rows(database, shown),
        summary=_summary(runs),
        newer=address(request, page=page - 1) if page else "",
        older=address(request, page=page + 1) if len(chosen) > (page + 1) * RUNS else "",
        words=f"{page * RUNS + 1} to {page * RUNS + len(shown)} of {showing.count(len(chosen), 'run')}",
        **context,
    )


def _summary(runs: list[RunFacts]) -> str:
    counts = {status: sum(run.status is status for run in runs) for status in RunStatus}
    told = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    return f"{showing.count(len(runs), 'run')}: {told}." if runs else "No run yet."


def _run_rows(database: ModelDB, runs: list[RunFacts]) -> list[dict[str, Any]]:
    settings = {run.run_id: settings_of(run) for run in runs}
    best = {run_id: found.best for run_id, found in settings.items()}
    with database.connect() as connection:
        courses = looking.courses(connection, [(key, each.source, each.metric) for key, each in best.items()])
    return [
        {
            "run_id": run.run_id,
            "name": run.name,
            "status": run.status,
            "rounds_done": run.rounds_done,
            "asked": run.rounds_wanted or settings[run.run_id].end.rounds,
            "agents": run.agents,
            "best": run.best_value,
            "best_round": run.best_round,
            "metric": charts.named(best[run.run_id].source, best[run.run_id].metric),
            "spark": drawing.spark(courses[run.run_id]),
            "words": f"{showing.text(best[run.run_id].metric)}: {_told(courses[run.run_id])}",
            "changed_at": run.changed_at,
        }
        for run in runs
    ]


def _told(course: list[float | None]) -> str:
    return charts.told(range(1, len(course) + 1), course)
