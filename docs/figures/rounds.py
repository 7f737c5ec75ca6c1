#!/usr/bin/env python3
"""Draw the phases of a run from the table in `fl_main/rounds.py`: `python docs/figures/rounds.py`."""

from pathlib import Path

from fl_main.phases import TRANSITIONS
from fl_main.store import Phase

PLACES = {
    Phase.WAITING: (60, 150),
    Phase.COLLECTING: (330, 60),
    Phase.AGGREGATING: (600, 150),
    Phase.ENDED: (330, 280),
}
WIDTH, HEIGHT = 150, 46
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 350" role="img" \
font-family="system-ui, sans-serif" font-size="13">
  <title>Phases of a run and what moves it from one to the next</title>
  <defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0 L10 5 L0 10 z" fill="#3f6fa8"/></marker></defs>
  <rect width="820" height="350" fill="#ffffff"/>
"""


def draw() -> str:
    """Return the figure as SVG."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, trigger), following in TRANSITIONS.items():
        arrows.setdefault((phase, following), []).append(trigger)
    lines = [_arrow(*ends, ", ".join(triggers)) for ends, triggers in arrows.items()]
    return HEAD + "".join(map(_box, PLACES)) + "".join(lines) + "</svg>\n"


def _box(phase: Phase) -> str:
    x, y = PLACES[phase]
    place = f'x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"'
    middle = f'x="{x + WIDTH / 2}" y="{y + 28}" text-anchor="middle"'
    return (
        f'  <rect {place} fill="#eef4fb" stroke="#3f6fa8"/>\n'
        f'  <text {middle} font-weight="600" fill="#1b2a3a">{phase}</text>\n'
    )


def _arrow(start: Phase, end: Phase, label: str) -> str:
    """An arrow between two boxes, bent to its left, so that two opposite ones do not meet."""
    (x1, y1), (x2, y2) = (_middle(start), _middle(end))
    length = max(1.0, ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5)
    bend = 26 / length
    mx, my = (x1 + x2) / 2 + (y2 - y1) * bend, (y1 + y2) / 2 - (x2 - x1) * bend
    (sx, sy), (ex, ey) = _edge(x1, y1, mx, my), _edge(x2, y2, mx, my)
    lx, ly = _along(0.35, sx, mx, ex), _along(0.35, sy, my, ey)
    text = f'x="{lx:.0f}" y="{ly:.0f}" text-anchor="middle"'
    return (
        f'  <path d="M{sx:.0f} {sy:.0f} Q {mx:.0f} {my:.0f} {ex:.0f} {ey:.0f}" fill="none" stroke="#3f6fa8" '
        f'stroke-width="1.6" marker-end="url(#a)"/>\n'
        f'  <text {text} stroke="#ffffff" stroke-width="5">{label}</text>\n'  # keeps the line off the words
        f'  <text {text} fill="#5b3a8e">{label}</text>\n'
    )


def _along(part: float, start: float, control: float, end: float) -> float:
    """Return a coordinate of the point at some part of a quadratic curve."""
    return (1 - part) ** 2 * start + 2 * part * (1 - part) * control + part**2 * end


def _middle(phase: Phase) -> tuple[float, float]:
    x, y = PLACES[phase]
    return x + WIDTH / 2, y + HEIGHT / 2


def _edge(x: float, y: float, tx: float, ty: float) -> tuple[float, float]:
    """Return where the line from a box's middle towards a point leaves the box."""
    dx, dy = tx - x, ty - y
    scale = min(WIDTH / 2 / abs(dx) if dx else 9e9, HEIGHT / 2 / abs(dy) if dy else 9e9)
    return x + dx * scale, y + dy * scale


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), "utf-8")
