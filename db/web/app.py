"""The web application over one model database: pages, JSON API, what changes; read-only."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio.to_thread
import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware

from fl_main import __version__
from fl_main.errors import FLError, NotFoundError, SettingsError

from . import api, pages, showing
from .access import SECURITY, Access, Guard
from .bounds import Heavy
from .live import Changes
from .model_api import NotModified
from .source import Source

logger = logging.getLogger("fl_main.db.web")

HERE = Path(__file__).parent
THREADS = 12  # answers that are worked out at once; the rest waits

SUMMARY = "Runs, rounds, agents and models of a model database; read-only."


def create_app(folder: Path | str, *, root_path: str = "", access: Access | None = None) -> FastAPI:
    """Return the application.

    Its state has `source` (the database), `changes` (who hears what moves), `root` (what the path of
    every link begins with, the templates' `root`, too) and `templates`.

    Args:
        folder: Of the model database; it may come later.
        root_path: What the server in front puts before every path, e.g. `/fl`.
        access: Who may look; None: whoever reaches this machine's own address.
    """
    app = FastAPI(
        title="fl_main model database",
        summary=SUMMARY,
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # they load a program from another host
        redoc_url=None,
        lifespan=_lifespan,
        exception_handlers={
            FLError: _told,
            HTTPException: _refused,
            RequestValidationError: _misunderstood,
            NotModified: _known,
            Exception: _broken,
        },
    )
    app.state.root = root_path.rstrip("/")
    app.state.source = Source(folder)
    app.state.heavy = Heavy()
    app.state.changes = Changes(app.state.source)
    app.state.templates = Jinja2Templates(env=_environment(), context_processors=[_context])
    app.add_middleware(Guard, access=access or Access(), root_path=app.state.root)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)
    app.mount("/static", StaticFiles(directory=HERE / "static", check_dir=False), name="static")
    app.include_router(api.router)
    app.include_router(pages.router)
    return app


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(showing.FILTERS)
    return found


def _context(request: Request) -> dict[str, Any]:
    """What every template knows beside its own data."""
    scheme = request.cookies.get("fl_scheme", "")
    return {
        "root": request.app.state.root,
        "version": __version__,
        "scheme": scheme if scheme in ("light", "dark") else "",
    }


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.changes.close()
    app.state.source.close()


# --- what went wrong ---------------------------------------------------------------------


def trouble(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that is one line: as JSON to programs, as a page to people."""
    path = request.scope["path"].removeprefix(request.app.state.root)
    if path.startswith("/api/") and path != "/api/":
        return JSONResponse({"detail": message}, status, headers)
    templates: Jinja2Templates = request.app.state.templates
    context = {
        "status": status,
        "title": HTTPStatus(status).phrase,
        "message": message,
        "is_busy": "Retry-After" in (headers or {}),
    }
    return templates.TemplateResponse(request, "trouble.html", context, status, headers)


async def _told(request: Request, error: Exception) -> Response:
    """The database says what is wrong: an unknown name, a wrong question, or that it cannot be read."""
    status = 404 if isinstance(error, NotFoundError) else 422 if isinstance(error, SettingsError) else 503
    return trouble(request, status, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return trouble(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def _misunderstood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = [f"{'.'.join(map(str, found['loc'][1:]))}: {found['msg']}" for found in error.errors()]
    return trouble(request, 422, "; ".join(wrong))


async def _known(request: Request, error: Exception) -> Response:
    """The visitor has the answer already, as RFC 9110 (15.4.5) tells it."""
    return Response(status_code=304, headers={"ETag": str(error)})


async def _broken(request: Request, error: Exception) -> Response:
    """A row that is not what it should be, or a mistake of ours: the log has all of it.

    Starlette calls this outside of all middleware, so that no guard adds headers to the answer.
    """
    what = f"{type(error).__name__} while this was worked out"
    headers = {**SECURITY, "Cache-Control": "no-store"}
    return trouble(request, 500, f"{what}; is the database intact? `fl db verify` tells", headers)
