"""The JSON API's answers about one model."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import Field

from fl_main import __version__
from fl_main.db.insight.difference import ArrayDifference
from fl_main.db.insight.lineage import Lineage
from fl_main.db.insight.statistics import ArrayHistogram
from fl_main.db.records import ArrayFacts, Metric, Parent
from fl_main.db.runs_and_models import Model

from .bounds import Heavy, require_size
from .source import Database

MOST_MODELS = 1000  # of a lineage
MOST_STEPS = 1000
MOST_BINS = 200

NOT_STORED: dict[int | str, dict[str, Any]] = {
    410: {"description": "Its file is not stored: `detail` says why."}
}
Name = Annotated[str, Field(max_length=200)]

router = APIRouter(prefix="/models", tags=["models"])


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A stored model, without its arrays.

    Attributes:
        agent_id: Whose it is, if it came from an agent.
        form: `full`, or `delta`: stored is what is added to the model `base_id`.
        codec: What decodes its file; empty: nothing is to be decoded.
        digest: Of its file; identical models share one.
        size: Bytes of its arrays.
        is_stored: Whether its file is kept; `not_stored_reason` says why not.
    """

    model_id: str
    run_id: str
    round_id: int
    kind: str
    agent_id: str | None
    channel: str
    form: str
    codec: str
    base_id: str | None
    digest: str
    size: int
    layout_digest: str
    is_stored: bool
    not_stored_reason: str
    created_at: float

    @classmethod
    def of(cls, model: Model) -> "ModelFacts":
        """Return what is known of a model of the database."""
        return cls(**{name: getattr(model, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A model with what it was made from, and what people call it."""

    facts: ModelFacts
    parents: tuple[Parent, ...]
    tags: tuple[str, ...]


def _model(
    database: Database,
    model: Annotated[
        str,
        Path(description="Id of a model, the beginning of its id or digest, or RUN:12, RUN:best, RUN:last."),
    ],
) -> Model:
    return database.model(model)


OneModel = Annotated[Model, Depends(_model)]


def require_stored(model: Model) -> None:
    """Refuse to look into a model whose file is gone.

    Raises:
        HTTPException: If it is; with the reason.
    """
    if not model.is_stored:
        raise HTTPException(410, f"model {model.model_id} is not stored: {model.not_stored_reason}")


class NotModified(Exception):
    """The visitor has this answer already."""


def to_keep(request: Request, response: Response, *models: Model) -> None:
    """Let a visitor keep an answer that follows from models' values, which never change.

    Raises:
        NotModified: If it has it already.
    """
    ids = [model.model_id for model in models]
    tag = f'"{"-".join(ids)}-{__version__}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"  # a name may lead to another model later
    if [request.path_params["model"], *request.query_params.getlist("other")] == ids:
        response.headers["Cache-Control"] = "private, max-age=86400"
    given = request.headers.get("if-none-match", "")
    if tag in (word.strip().removeprefix("W/") for word in given.split(",")):
        raise NotModified(tag)


@router.get("/{model}")
def one_model(model: OneModel) -> ModelDetails:
    """Return a model, what it was made from with which share, and its tags."""
    return ModelDetails(ModelFacts.of(model), model.parents, model.tags)


@router.get("/{model}/arrays", responses=NOT_STORED)
def arrays(request: Request, response: Response, model: OneModel) -> list[ArrayFacts]:
    """Return the arrays of a model's file in numbers: shapes, norms, ranges, values that are not finite."""
    require_stored(model)
    to_keep(request, response, model)
    require_size(model.size)
    heavy: Heavy = request.app.state.heavy
    return heavy.once(("arrays", model.model_id), model.arrays)


@router.get("/{model}/histograms", responses=NOT_STORED)
def histograms(
    request: Request,
    response: Response,
    model: OneModel,
    bins: Annotated[int, Query(ge=1, le=MOST_BINS, description="Bins of each array.")] = 20,
    array: Annotated[
        list[Name] | None, Query(max_length=20, description="Only this array; again: and that.")
    ] = None,
    as_stored: Annotated[bool, Query(description="Of the arrays of its file: of a delta the delta.")] = False,
) -> list[ArrayHistogram]:
    """Return how the values of a model's arrays are spread; of a delta those of base + delta."""
    require_stored(model)
    to_keep(request, response, model)
    require_size(model.decoded_layout.nbytes)
    heavy: Heavy = request.app.state.heavy
    key = ("histograms", model.model_id, bins, tuple(array or ()), as_stored)
    return heavy.once(key, lambda: model.histograms(bins, array, as_stored))


@router.get("/{model}/difference", responses=NOT_STORED)
def difference(
    request: Request,
    response: Response,
    database: Database,
    model: OneModel,
    other: Annotated[str, Query(description="Another model, named in one of the same ways.")],
) -> list[ArrayDifference]:
    """Return what another model has and this one has not, array by array."""
    second = database.model(other)
    for each in (model, second):
        require_stored(each)
        require_size(each.decoded_layout.nbytes)
    to_keep(request, response, model, second)
    heavy: Heavy = request.app.state.heavy
    key = ("difference", model.model_id, second.model_id)
    return heavy.once(key, lambda: model.difference(second))


@router.get("/{model}/metrics")
def metrics(model: OneModel) -> list[Metric]:
    """Return what was measured of a model: the means over agents, and each agent's values."""
    return model.metrics()


@router.get("/{model}/lineage")
def lineage(
    model: OneModel,
    up: Annotated[int, Query(ge=0, le=MOST_STEPS, description="Steps towards what it was made from.")] = 2,
    down: Annotated[int, Query(ge=0, le=MOST_STEPS, description="Steps towards what became of it.")] = 2,
    most: Annotated[int, Query(ge=1, le=MOST_MODELS, description="Models; the nearest are taken.")] = 200,
) -> Lineage:
    """Return what a model was made from, and what was made from it, as a graph."""
    return model.lineage(up, down, most)
