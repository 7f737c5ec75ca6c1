"""The pages of one model, and of two beside each other."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from fl_main.db.insight import layout
from fl_main.db.insight.lineage import Lineage, Node
from fl_main.db.model_db import Model
from fl_main.errors import StoreError

from . import showing
from .rendering import page_of
from .source import Database

ARRAYS = 200  # in one table

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/models/{name:path}")
def model(request: Request, database: Database, name: str) -> Response:
    """Show what is known of a model: facts, parents, metrics, arrays, where it comes from."""
    found = database.model(name)
    run = database.run(found.run_id)
    names = run.agent_names()
    reference = _reference(found, run.name)
    arrays, trouble = _arrays(found)
    lineage = found.lineage(2, 1, most=60)
    return page_of(
        request,
        "model.html",
        model=found,
        run=run.facts,
        agent=names.get(found.agent_id or "", found.agent_id),
        title=_title(found, names),
        quoted=shlex.quote(reference),
        spoken=json.dumps(reference, ensure_ascii=False),
        folder=json.dumps(str(database.folder), ensure_ascii=False),
        other=f"{run.name}:{found.round_id - 1}" if found.kind == "global" and found.round_id > 1 else "",
        metrics=[
            (
                metric,
                names.get(metric.agent_id or "", metric.agent_id) if metric.agent_id else "mean over agents",
            )
            for metric in found.metrics()
        ],
        arrays=arrays[:ARRAYS],
        more_arrays=max(0, len(arrays) - ARRAYS),
        trouble=trouble,
        graph=graph_of(lineage),
        words=lineage_in_words(lineage),
    )


def _title(found: Model, names: dict[str, str]) -> str:
    if found.kind == "global":
        return f"Global model of round {found.round_id}"
    if found.kind == "initial":
        return "Initial model"
    whose = f" of {showing.text(names.get(found.agent_id, found.agent_id))}" if found.agent_id else ""
    what = "Update" if found.kind == "local" else str(found.kind).capitalize()
    return f"{what}{whose}, round {found.round_id}"


def _reference(found: Model, run: str) -> str:
    """Return how commands name it in the shortest lasting way."""
    return f"{run}:{found.round_id}" if found.kind == "global" else found.model_id


def _arrays(found: Model) -> tuple[list[dict[str, Any]], str]:
    """Return its arrays in numbers and bars; or without them, and why."""
    plain = [
        {
            "name": spec.name,
            "dtype": str(spec.dtype),
            "shape": spec.shape,
            "role": str(spec.role),
            "facts": None,
        }
        for spec in found.layout.arrays
    ]
    if not found.is_stored:
        return plain, f"not stored, because {found.not_stored_reason}"
    try:
        facts = found.arrays()
    except StoreError as error:
        return plain, str(error)
    return [
        {
            "name": each.name,
            "dtype": each.dtype,
            "shape": each.shape,
            "role": each.role,
            "facts": each,
        }
        for each in facts
    ], ""


# --- lineage ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawn:
    """A lineage with its places.

    Attributes:
        nodes: Each with its box.
        labels: What a model is called, by its id.
    """

    width: float
    height: float
    lines: list[layout.Line]
    nodes: list[tuple[layout.Box, dict[str, Any]]]
    labels: dict[str, str]


def graph_of(lineage: Lineage) -> Drawn:
    """Lay out a lineage."""
    made: dict[str, list[tuple[str, float | None]]] = {}
    for edge in lineage.edges:
        made.setdefault(edge.child, []).append((edge.parent, edge.share))
    placed = layout.graph(
        [node.model_id for node in lineage.nodes],
        [(edge.parent, edge.child, edge.share) for edge in lineage.edges],
    )
    nodes = [
        (box, {**_labels(node), "parents": made.get(node.model_id, [])})
        for box, node in zip(placed.boxes, lineage.nodes, strict=True)
    ]
    labels = {node["model_id"]: f"{node['first']}, {node['second']}" for _, node in nodes}
    return Drawn(placed.width, placed.height, placed.lines, nodes, labels)


def _labels(node: Node) -> dict[str, Any]:
    """Return what a box says."""
    first = showing.text(node.agent) if node.agent else f"{node.kind} model"
    second = f"round {node.round_id}" + (f" · {', '.join(map(showing.text, node.tags))}" if node.tags else "")
    gone = "" if node.is_stored else f", not stored, because {showing.text(node.why_not)}"
    tags = f", tagged {', '.join(map(showing.text, node.tags))}" if node.tags else ""
    whose = f" of {showing.text(node.agent)}" if node.agent else ""
    return {
        "model_id": node.model_id,
        "kind": node.kind,
        "is_stored": node.is_stored,
        "first": first,
        "second": second,
        "words": f"{node.kind} model{whose}, {showing.text(node.run)}, round {node.round_id}{tags}{gone}",
    }


def lineage_in_words(lineage: Lineage) -> str:
    """Say how many models a drawing has, and how many it lacks."""
    shown = f"{showing.count(len(lineage.nodes), 'model')}, each left of what was made from it"
    left_out = f"; {showing.count(lineage.left_out, 'more model')} left out" if lineage.left_out else ""
    return shown + left_out
