"""The figure of a soak: memory, descriptors and rounds per minute of the daemon over time."""

import math
from collections.abc import Sequence

from bench.soak.gauge import Sample

PANELS = {
    "rss_mib": "memory of the daemon, MiB",
    "descriptors": "open descriptors of the daemon",
    "rounds_per_min": "rounds per minute, of the last minute",
}
LEFT, WIDTH, TOP, HEIGHT, GAP = 70, 690, 60, 130, 50
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {height}" role="img" \
font-family="system-ui, sans-serif" font-size="13">
  <title>{title}</title>
  <rect width="820" height="{height}" fill="#ffffff"/>
  <text x="{left}" y="28" font-size="15" font-weight="600" fill="#1b2a3a">{title}</text>
"""


def draw(samples: Sequence[Sample], title: str) -> str:
    """Return the figure as SVG.

    Args:
        samples: At least one.
        title: What was soaked, in a few words.
    """
    minutes = [sample.elapsed_s / 60 for sample in samples]
    parts = [
        _panel(TOP + index * (HEIGHT + GAP), words, minutes, [getattr(sample, name) for sample in samples])
        for index, (name, words) in enumerate(PANELS.items())
    ]
    height = TOP + len(PANELS) * (HEIGHT + GAP)
    return HEAD.format(height=height, title=title, left=LEFT) + "".join(parts) + "</svg>\n"


def _panel(top: float, words: str, minutes: Sequence[float], values: Sequence[float]) -> str:
    """Draw one number over time; the axis begins at 0, so that a trend is as large as it looks."""
    across, up = _step(minutes[-1]), _step(max(values))
    last, most = minutes[-1], max(up, up * -(-max(values) // up))
    points = " ".join(
        f"{LEFT + WIDTH * minute / last:.1f},{top + HEIGHT * (1 - value / most):.1f}"
        for minute, value in zip(minutes, values, strict=True)
    )
    lines = [f'  <text x="{LEFT}" y="{top - 8}" fill="#1b2a3a">{words}</text>\n']
    lines += [_level(top + HEIGHT * (1 - value / most), value) for value in _ticks(up, most)]
    lines += [_minute(LEFT + WIDTH * value / last, top + HEIGHT, value) for value in _ticks(across, last)]
    lines += [f'  <polyline points="{points}" fill="none" stroke="#3f6fa8" stroke-width="1.6"/>\n']
    return "".join(lines)


def _level(y: float, value: float) -> str:
    return (
        f'  <path d="M{LEFT} {y:.1f} H{LEFT + WIDTH}" stroke="#d5dee8"/>\n'
        f'  <text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5a6b7b">{value:g}</text>\n'
    )


def _minute(x: float, y: float, value: float) -> str:
    return f'  <text x="{x:.1f}" y="{y + 17}" text-anchor="middle" fill="#5a6b7b">{value:g} min</text>\n'


def _ticks(step: float, end: float) -> list[float]:
    return [step * index for index in range(int(end / step + 1e-9) + 1)]


def _step(most: float) -> float:
    """Return a round number that goes into a number two to five times."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(part * power for part in (5, 2, 1, 0.5) if most >= 2 * part * power)
