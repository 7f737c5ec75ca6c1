"""The pages of one model, and of two beside each other."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response

from fl_main.db.insight import layout
from fl_main.db.insight.comparison import Line
from fl_main.db.insight.difference import total
from fl_main.db.insight.drawing import place_in
from fl_main.db.insight.lineage import Lineage, Node
from fl_main.db.model_db import ModelDB
from fl_main.db.runs_and_models import Model, Run
from fl_main.errors import StoreError
from fl_main.weights import ArraySpec

from . import bounds, charts, drawing, showing
from .bounds import Heavy
from .rendering import page_of
from .source import Database

BINS = 24
ARRAYS = 200  # in one table
MOST_BYTES = 32_000_000  # of one model that a page reads
CHOICES = 200  # runs that are offered for a comparison

SUMS = {  # of a comparison of runs: what each line is, and how it is shown
    "run_time_s": ("run time", showing.duration),
    "busy_s": ("agents busy", showing.duration),
    "wasted_s": ("agents' work wasted", showing.duration),
    "idle_s": ("agents without a task", showing.duration),
    "bytes": ("received", showing.size),
    "plain_bytes": ("without a codec", showing.size),
    "created_at": ("begun (UTC)", showing.moment),
    "best": ("best value", showing.number),
    "best_round": ("in round", showing.whole),
    "counted": ("updates in its models", showing.whole),
    "staleness": ("mean staleness", showing.number),
}

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/models/{name:path}")
def model(request: Request, database: Database, name: str) -> Response:
    """Show what is known of a model: facts, parents, metrics, arrays, where it comes from."""
    found = database.model(name)
    run = database.run(found.run_id)
    names = run.agent_names()
    reference = _reference(found, run.name)
    arrays, trouble, left_out = _arrays(found, request.app.state.heavy)
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
        arrays=arrays,
        more_arrays=left_out,
        trouble=trouble,
        graph=graph_of(lineage, run.name),
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


def _arrays(found: Model, heavy: Heavy) -> tuple[list[dict[str, Any]], str, int]:
    """Return its first arrays in numbers and bars, why there are no numbers, and how many are left out."""
    specs = found.decoded_layout.arrays
    chosen = _first(specs)
    plain = [
        {"name": each.name, "dtype": each.dtype, "shape": each.shape, "role": each.role} for each in chosen
    ]
    left_out = len(specs) - len(chosen)
    if not found.is_stored:
        return plain, f"not stored, because {found.not_stored_reason}", left_out
    if chosen and chosen[0].nbytes > bounds.MOST_BYTES:
        size = showing.size(chosen[0].nbytes)
        return plain, f"its first array has {size}, too much for a page to read; `fl db stats` does", left_out
    try:
        chosen_names = tuple(spec.name for spec in chosen)
        key = ("histograms", found.model_id, BINS, chosen_names, False)
        facts = heavy.once(key, lambda: found.histograms(BINS, chosen_names))
    except StoreError as error:
        return plain, str(error), left_out
    except HTTPException as error:  # others read models just now; the rest of the page needs none
        return plain, str(error.detail), left_out
    told = [
        {**each, "facts": fact, "bars": drawing.bars(fact.counts)}
        for each, fact in zip(plain, facts, strict=True)
    ]
    return told, "", left_out


def _first(specs: Sequence[ArraySpec]) -> list[ArraySpec]:
    """Return the first arrays, within what a page can read; the very first always."""
    chosen: list[ArraySpec] = []
    left = MOST_BYTES
    for spec in specs[:ARRAYS]:
        left -= spec.nbytes
        if chosen and left < 0:
            break
        chosen.append(spec)
    return chosen


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


def graph_of(lineage: Lineage, home: str) -> Drawn:
    """Lay out a lineage, as seen from the run `home`: models of other runs say which."""
    made: dict[str, list[tuple[str, float | None]]] = {}
    for edge in lineage.edges:
        made.setdefault(edge.child, []).append((edge.parent, edge.share))
    placed = layout.graph(
        [node.model_id for node in lineage.nodes],
        [(edge.parent, edge.child, edge.share) for edge in lineage.edges],
    )
    nodes = [
        (box, {**_labels(node, home), "parents": made.get(node.model_id, [])})
        for box, node in zip(placed.boxes, lineage.nodes, strict=True)
    ]
    labels = {node["model_id"]: f"{node['first']}, {node['second']}" for _, node in nodes}
    return Drawn(placed.width, placed.height, placed.lines, nodes, labels)


def _labels(node: Node, home: str) -> dict[str, Any]:
    """Return what a box says."""
    first = showing.text(node.agent) if node.agent else f"{node.kind} model"
    second = showing.text(place_in(node, home)) + (
        f" · {', '.join(map(showing.text, node.tags))}" if node.tags else ""
    )
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


# --- two beside each other -------------------------------------------------------------------


@router.get("/compare")
def compare(
    request: Request,
    database: Database,
    a: Annotated[str, Query(max_length=500)] = "",
    b: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """Compare two runs, or two models."""
    runs = database.runs()
    names = sorted({run.name for run in runs[-CHOICES:]})
    context: dict[str, Any] = {"place": "compare", "a": a, "b": b, "names": names, "trouble": ""}
    if not a or not b:
        return page_of(request, "compare/ask.html", **context)
    try:
        first, second = database.find_run(a), database.find_run(b)
        if first is not None and second is not None:
            return page_of(request, "compare/runs.html", **context, **_two_runs(first, second))
        return page_of(
            request, "compare/models.html", **context, **_two_models(database, request.app.state.heavy, a, b)
        )
    except StoreError as error:
        return page_of(request, "compare/ask.html", **{**context, "trouble": str(error)})


def _two_runs(first: Run, second: Run) -> dict[str, Any]:
    found = first.compare(second)
    metrics = [(line.source, line.name) for line in found.metrics]
    return {
        "runs": [first.facts, second.facts],
        "facts": [_told_fact(line) for line in found.facts],
        "settings": [(line.name, line.values) for line in found.settings],
        "metrics": [(charts.named(line.source, line.name), line) for line in found.metrics],
        "charts": charts.beside(first.curves(agents=False), second.curves(agents=False), metrics),
    }


def _told_fact(line: Line) -> tuple[str, list[str]]:
    name, shown = SUMS.get(line.name, (line.name.replace("_", " "), str))
    return name, [showing.NONE if value is None else shown(value) for value in line.values]


def _two_models(database: ModelDB, heavy: Heavy, a: str, b: str) -> dict[str, Any]:
    models = [database.model(a), database.model(b)]
    runs = [database.run(found.run_id) for found in models]
    titles = [_title(found, run.agent_names()) for found, run in zip(models, runs, strict=True)]
    if max(found.decoded_layout.nbytes for found in models) > MOST_BYTES:
        quoted = " ".join(shlex.quote(found.model_id) for found in models)
        raise StoreError(f"these models are too large to be compared while a page waits: fl db diff {quoted}")
    key = ("difference", *(found.model_id for found in models))
    arrays = heavy.once(key, lambda: models[0].difference(models[1]))
    pairs = [
        {"model": found, "run": run.facts, "title": title}
        for found, run, title in zip(models, runs, titles, strict=True)
    ]
    return {
        "pairs": pairs,
        "arrays": arrays[:ARRAYS],
        "more_arrays": len(arrays[ARRAYS:]),
        "total": total(arrays),
    }
