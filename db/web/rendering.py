"""What every page is made with: a template, a run's settings, the address of another part of the same."""

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError

from fl_main.db.records import RunFacts
from fl_main.settings import RunSettings

Number = Annotated[int, Query(ge=0, le=2**53)]  # in a page's address


def page_of(request: Request, template: str, **context: Any) -> Response:
    """Return a page."""
    templates: Jinja2Templates = request.app.state.templates
    return templates.TemplateResponse(request, template, context)


def address(request: Request, **changes: object) -> str:
    """Return the query of the page that is asked for, with some of it changed."""
    return f"?{request.url.include_query_params(**changes).query}"


def settings_of(facts: RunFacts) -> RunSettings:
    """Return a run's settings, or the defaults in place of those that this version cannot read."""
    try:
        return RunSettings.stored(facts.settings)
    except ValidationError:
        return RunSettings(name="unknown")
