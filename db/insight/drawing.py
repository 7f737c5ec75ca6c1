"""A lineage as a drawing: SVG that stands alone, or DOT for Graphviz; and as lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from fl_main.printable import printable

from . import layout
from .lineage import Edge, Lineage, Node, Origin

_LETTERS = 20  # of a line in a box


def described(node: Node) -> str:
    """Say what a model is: `local model of st-mary, round 3 of hearts; not stored, because …`."""
    whose = f" of {node.agent}" if node.agent else ""
    words = f"{node.kind} model{whose}, round {node.round_id} of {node.run}"
    if node.tags:
        words += f", tagged {', '.join(node.tags)}"
    if not node.is_stored:
        words += f"; not stored, because {node.why_not}"
    return printable(words)


def place_in(node: Node, home: str) -> str:
    """Return the round of a model as a box says it; of other runs than `home` with their names."""
    return f"round {node.round_id}" if node.run == home else f"{node.run}:{node.round_id}"


def percent(share: float | None) -> str:
    """Return a share as people read it; of none an empty text."""
    return "" if share is None else f"{100 * share:.3g}%"


# --- DOT ---------------------------------------------------------------------------------------


def as_dot(lineage: Lineage) -> str:
    """Return a lineage in the language of Graphviz (graphviz.org/doc/info/lang.html)."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for node in lineage.nodes:
        label = _quoted(f"{node.model_id}\n{described(node)}")
        style = "" if node.is_stored else ', style="rounded,dashed"'
        lines.append(f"  {_quoted(node.model_id)} [label={label}{style}];")
    for edge in lineage.edges:
        label = f" [label={_quoted(percent(edge.share))}]" if edge.share is not None else " [style=dashed]"
        lines.append(f"  {_quoted(edge.parent)} -> {_quoted(edge.child)}{label};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# --- SVG ---------------------------------------------------------------------------------------

_STYLE = """
  svg { background: #fff; font: 12px system-ui, sans-serif; }
  text { fill: #1b1f24; }
  .second { fill: #57606a; }
  rect { fill: #f6f8fa; stroke: #57606a; }
  .global rect { fill: #ddf4ff; stroke: #0969da; }
  .initial rect { fill: #dafbe1; stroke: #1a7f37; }
  .gone rect { stroke-dasharray: 4 3; }
  path { fill: none; stroke: #8c959f; }
  .begun { stroke-dasharray: 4 3; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #e6edf3; }
    .second { fill: #9198a1; }
    rect { fill: #161b22; stroke: #9198a1; }
    .global rect { fill: #0c2d6b; stroke: #4493f8; }
    .initial rect { fill: #033a16; stroke: #3fb950; }
    path { stroke: #6e7681; }
  }
"""


def as_svg(lineage: Lineage, title: str, home: str) -> str:
    """Return a lineage as an SVG file of its own: parents left of what was made from them.

    It has a light and a dark look, and asks for nothing from anywhere.
    """
    edges = [(edge.parent, edge.child, edge.share) for edge in lineage.edges]
    placed = layout.graph([node.model_id for node in lineage.nodes], edges)
    size = f'width="{placed.width:.0f}" height="{placed.height:.0f}"'
    view = f'viewBox="0 0 {placed.width:.0f} {placed.height:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img" aria-label="{_safe(title)}">',
        f"  <title>{_safe(title)}</title>",
        f"  <style>{_STYLE}  </style>",
        *_paths(placed, lineage.edges),
        *(
            line
            for box, node in zip(placed.boxes, lineage.nodes, strict=True)
            for line in _box(box, node, home)
        ),
    ]
    return "\n".join([*lines, "</svg>", ""])


def _paths(placed: layout.Graph, edges: Sequence[Edge]) -> Iterator[str]:
    for line, edge in zip(placed.lines, edges, strict=True):
        begun = ' class="begun"' if edge.share is None else ""
        words = _safe(f"{edge.parent} → {edge.child} {percent(edge.share)}".rstrip())
        yield f'  <path d="{line.path}" stroke-width="{line.width}"{begun}><title>{words}</title></path>'


def _box(box: layout.Box, node: Node, home: str) -> Iterator[str]:
    second = place_in(node, home) + (f" · {', '.join(node.tags)}" if node.tags else "")
    looks = f"{node.kind} gone" if not node.is_stored else node.kind
    yield f'  <g class="{_safe(looks)}" transform="translate({box.x:.0f} {box.y:.0f})">'
    yield f"    <title>{_safe(f'{node.model_id}: {described(node)}')}</title>"
    yield f'    <rect width="{layout.BOX_WIDTH}" height="{layout.BOX_HEIGHT}" rx="6"/>'
    yield f'    <text x="8" y="16">{_safe(_short(node.agent or f"{node.kind} model"))}</text>'
    yield f'    <text x="8" y="32" class="second">{_safe(_short(second))}</text>'
    yield "  </g>"


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def _safe(text: str) -> str:
    return escape(printable(text))


# --- text --------------------------------------------------------------------------------------


def as_tree(lineage: Lineage, model_id: str) -> Iterator[str]:
    """Yield lines: a model, by what it was made; below it what it was made from, and what was made from it.

    A model that has its line already is named where it comes again.
    """
    nodes = {node.model_id: node for node in lineage.nodes}
    yield f"{model_id}  {described(nodes[model_id])}"
    for origin in lineage.origins:
        if len(lineage.origins) == 1 or origin.run == nodes[model_id].run:
            yield from _made_by(origin)
    up: dict[str, list[tuple[str, float | None]]] = {}
    down: dict[str, list[tuple[str, float | None]]] = {}
    for edge in lineage.edges:
        up.setdefault(edge.child, []).append((edge.parent, edge.share))
        down.setdefault(edge.parent, []).append((edge.child, edge.share))
    for title, ways in (("made from", up), ("became part of", down)):
        if model_id in ways:
            yield f"\n{title}"
            yield from _branches(model_id, ways, nodes)
    yield from _left_out(lineage)


def _made_by(origin: Origin) -> Iterator[str]:
    """Yield lines about a run: strategy, settings, versions."""
    agents = ", ".join(f"{software} ({number})" for software, number in origin.agents.items())
    facts = {
        "strategy": origin.strategy,
        "settings": f"{origin.settings_digest} (fl db show {origin.run})",
        "daemon": ", ".join(origin.daemon),
        "agents": agents,
    }
    for name, words in facts.items():
        if words:
            yield f"{name:8}  {printable(words)}"


def _left_out(lineage: Lineage) -> Iterator[str]:
    if lineage.left_out:
        yield f"\n{lineage.left_out} more left out; --most shows them"


def _branches(
    top: str, ways: Mapping[str, Sequence[tuple[str, float | None]]], nodes: Mapping[str, Node]
) -> Iterator[str]:
    """Yield the lines below a model; without recursion, as a run may have thousands of rounds."""
    seen = {top}
    stack = [("", other, share, place == len(ways[top])) for place, (other, share) in enumerate(ways[top], 1)]
    stack.reverse()
    while stack:
        indent, model_id, share, is_last = stack.pop()
        branch = "└─ " if is_last else "├─ "
        words = f"{percent(share)} " if share is not None else ""
        if model_id in seen:
            yield f"{indent}{branch}{words}{model_id}  (above)"
            continue
        seen.add(model_id)
        below = ways.get(model_id, [])
        again = [other for other, _ in below if other in seen]
        if below and len(again) == len(below):
            yield f"{indent}{branch}{words}{model_id}  {described(nodes[model_id])} ← {', '.join(again)}"
            continue
        yield f"{indent}{branch}{words}{model_id}  {described(nodes[model_id])}"
        inner = indent + ("   " if is_last else "│  ")
        stack.extend(reversed([(inner, *other, place == len(below)) for place, other in enumerate(below, 1)]))


def as_list(lineage: Lineage) -> Iterator[str]:
    """Yield lines: the models that came from no agent, the newest first, each with what it was made from.

    Before them, of each run, by what they were made.
    """
    nodes = {node.model_id: node for node in lineage.nodes}
    made: dict[str, list[Edge]] = {}
    for edge in lineage.edges:
        made.setdefault(edge.child, []).append(edge)
    for origin in lineage.origins:
        yield f"run {printable(origin.run)}"
        yield from _made_by(origin)
        yield ""
    for node in reversed(lineage.nodes):
        if not node.agent:
            yield from _made_from(node, made.get(node.model_id, []), nodes)
    yield from _left_out(lineage)


def _made_from(node: Node, edges: Sequence[Edge], nodes: Mapping[str, Node]) -> Iterator[str]:
    if len(edges) == 1 and edges[0].share is None:  # its updates are not in the graph
        yield f"{node.model_id}  {described(node)} ← {edges[0].parent}"
        return
    yield f"{node.model_id}  {described(node)}"
    for place, edge in enumerate(edges, 1):
        branch = "└─ " if place == len(edges) else "├─ "
        share = f"{percent(edge.share)} " if edge.share is not None else ""
        yield f"{branch}{share}{edge.parent}  {described(nodes[edge.parent])}"
