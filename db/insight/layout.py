"""Where the models of a graph stand in a drawing of it: in columns, each right of all its parents."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOX_WIDTH, BOX_HEIGHT = 132, 40
GAP_X, GAP_Y = 56, 12


@dataclass(frozen=True, slots=True)
class Box:
    """A model's place."""

    model_id: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """An edge from a parent to a child."""

    path: str
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Boxes in columns, each right of all its parents."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]


def graph(nodes: Sequence[str], edges: Sequence[tuple[str, str, float | None]]) -> Graph:
    """Lay out models and the edges (parent, child, share) between them.

    Args:
        nodes: In the order in which those of one column are to stand.
    """
    columns = _columns(nodes, edges)
    most = max((len(column) for column in columns), default=0)
    height = most * (BOX_HEIGHT + GAP_Y) + GAP_Y
    place: dict[str, tuple[float, float]] = {}
    for i, column in enumerate(columns):
        top = (height - len(column) * (BOX_HEIGHT + GAP_Y) + GAP_Y) / 2
        for j, node in enumerate(column):
            place[node] = (8 + i * (BOX_WIDTH + GAP_X), top + j * (BOX_HEIGHT + GAP_Y))
    return Graph(
        16 + len(columns) * (BOX_WIDTH + GAP_X) - GAP_X if columns else 0,
        height,
        [Box(node, *place[node]) for node in nodes],
        [_line(place[a], place[b], share) for a, b, share in edges if a in place and b in place],
    )


def _columns(nodes: Sequence[str], edges: Sequence[tuple[str, str, float | None]]) -> list[list[str]]:
    """Put each node into the column after the last of its parents."""
    parents: Mapping[str, list[str]] = defaultdict(list)
    known = set(nodes)
    for parent, child, _ in edges:
        if parent in known and child in known and parent != child:
            parents[child].append(parent)
    depth: dict[str, int] = {}
    for node in nodes:
        _measure(node, parents, depth)
    columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in nodes:
        columns[depth[node]].append(node)
    return columns


def _measure(node: str, parents: Mapping[str, list[str]], depth: dict[str, int]) -> None:
    """Find the longest way to a node; without recursion, as a run may have thousands of rounds."""
    under_way, stack = set[str](), [node]
    while stack:
        current = stack[-1]
        if current in depth:
            stack.pop()
            continue
        waits = [parent for parent in parents[current] if parent not in depth and parent not in under_way]
        under_way.add(current)
        if waits:
            stack.extend(waits)
            continue
        depth[current] = 1 + max(
            (depth[parent] for parent in parents[current] if parent in depth), default=-1
        )
        stack.pop()


def _line(start: tuple[float, float], end: tuple[float, float], share: float | None) -> Line:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT / 2
    middle = (x1 + x2) / 2
    path = f"M{x1:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return Line(path, round(1 + 4 * (share or 0), 2), "" if share is None else f"{100 * share:.1f} %")
