"""The JSON API's answers about one model."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response

from fl_main import __version__
from fl_main.db.insight.lineage import Lineage
from fl_main.db.model_db import Model
from fl_main.db.records import ArrayFacts, Metric, Parent

from .bounds import Heavy, require_size
from .source import Database

MOST_MODELS = 1000  # of a lineage
MOST_STEPS = 1000

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


def of_digest(request: Request, response: Response, model: Model) -> None:
    """Let a visitor keep an answer that follows from a model's file, which never changes.

    Raises:
        NotModified: If it has it already.
    """
    tag = f'"{model.digest}-{__version__}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"  # a name may lead to another model later
    if request.path_params["model"] == model.model_id:
        response.headers["Cache-Control"] = "private, max-age=86400"
    given = request.headers.get("if-none-match", "")
    if tag in (word.strip().removeprefix("W/") for word in given.split(",")):
        raise NotModified(tag)


@router.get("/{model}")
def one_model(model: OneModel) -> ModelDetails:
    """Return a model, what it was made from with which share, and its tags."""
    return ModelDetails(ModelFacts.of(model), model.parents, model.tags)


@router.get("/{model}/arrays", responses={410: {"description": "Its file is not stored: `detail` says why."}})
def arrays(request: Request, response: Response, model: OneModel) -> list[ArrayFacts]:
    """Return the arrays of a model's file in numbers: shapes, norms, ranges, values that are not finite."""
    require_stored(model)
    of_digest(request, response, model)
    require_size(model.size)
    heavy: Heavy = request.app.state.heavy
    return heavy.once(("arrays", model.digest), model.arrays)


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
