"""Lists in parts: `limit` and `after`, and a link to the next part."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query, Request, Response
from pydantic import Field
from starlette.datastructures import URL

MOST = 10_000

_T = TypeVar("_T")

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many at most.")]
Number = Annotated[int, Field(ge=0, lt=2**63)]


def part(
    request: Request, response: Response, found: Sequence[_T], limit: int, key: Callable[[_T], object]
) -> list[_T]:
    """Return at most `limit` of what was found; where there is more, a header `Link` leads there (RFC 8288).

    Args:
        found: At most one more than `limit`.
        key: What `after` is of an entry.
    """
    shown = list(found[:limit])
    if len(found) > limit:
        query = URL(scope=request.scope).include_query_params(after=str(key(shown[-1]))).query
        response.headers["Link"] = f'<?{query}>; rel="next"'
    return shown


def following(found: Sequence[_T], after: object, key: Callable[[_T], object]) -> Sequence[_T]:
    """Return what follows an entry; all if `after` is None, nothing if there is no such entry."""
    if after is None:
        return found
    places = (place for place, entry in enumerate(found) if key(entry) == after)
    return found[next(places, len(found)) + 1 :]
