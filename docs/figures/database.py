#!/usr/bin/env python3
"""Draw the tables of the model database, and list their columns and those of its views.

From `db/schema.py` and `db/insight/views.py`: `python docs/figures/database.py` writes the figure and the
lists in docs/database.md.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Column, PrimaryKeyConstraint, Table, UniqueConstraint

from fl_main.db.insight.views import VIEWS, View
from fl_main.db.schema import ORDER, metadata

PAGE = Path(__file__).parent.parent / "database.md"
COLUMNS = (
    ("runs", "rounds", "steps", "tasks", "updates", "agents"),
    ("models", "files", "layouts"),
    ("parents", "metrics", "tags", "events", "meta", "migrations"),
)
WIDTH, BETWEEN, LETTERS, LINE, EDGE = 270, 90, 39, 15, 20
NOTES = (
    "An arrow: names a row of that table.",
    "Each run_id names a row of runs.",
    "Bold: what tells rows apart.",
)
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
font-family="system-ui, sans-serif" font-size="12">
  <title>Tables of the model database and how their rows refer to each other</title>
  <defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0 L10 5 L0 10 z" fill="#3f6fa8"/></marker></defs>
  <rect width="{width}" height="{height}" fill="#ffffff"/>
"""


class Box:
    """A table in its place."""

    def __init__(self, table: Table, x: int, y: int) -> None:
        self.table, self.x, self.y = table, x, y
        keys = keys_of(table)
        others = [column.name for column in table.columns if column.name not in keys]
        self.about = textwrap.wrap(_sentence(table.comment), LETTERS + 2)
        self.keys = textwrap.wrap(", ".join(keys), LETTERS - 2)
        self.others = textwrap.wrap(", ".join(others), LETTERS)
        self.height = 34 + LINE * (len(self.about) + len(self.keys) + len(self.others)) + 6

    @property
    def middle(self) -> int:
        return self.y + self.height // 2

    def draw(self) -> Iterator[str]:
        place = f'x="{self.x}" y="{self.y}" width="{WIDTH}" height="{self.height}" rx="8"'
        yield f'  <rect {place} fill="#eef4fb" stroke="#3f6fa8"/>'
        y = self.y + 22
        style = 'font-weight="600" font-size="14" fill="#1b2a3a"'
        yield f'  <text x="{self.x + 12}" y="{y}" {style}>{self.table.name}</text>'
        styles = (
            (self.about, 'fill="#5b3a8e" font-style="italic" font-size="11"'),
            (self.keys, 'fill="#1b2a3a" font-weight="600"'),
            (self.others, 'fill="#33475b"'),
        )
        for lines, style in styles:
            for line in lines:
                y += LINE
                yield f'  <text x="{self.x + 12}" y="{y}" {style}>{line}</text>'


def keys_of(table: Table) -> list[str]:
    """Return the columns that tell the rows of a table apart."""
    for kind in (UniqueConstraint, PrimaryKeyConstraint):
        for constraint in table.constraints:
            if isinstance(constraint, kind) and len(constraint.columns):
                return [column.name for column in constraint.columns]
    return []


def boxes() -> dict[str, Box]:
    found: dict[str, Box] = {}
    for number, names in enumerate(COLUMNS):
        y = EDGE
        for name in names:
            box = found[name] = Box(metadata.tables[name], EDGE + number * (WIDTH + BETWEEN), y)
            y += box.height + 16
    return found


def draw() -> str:
    """Return the figure as SVG."""
    found = boxes()
    height = max(box.y + box.height for box in found.values()) + EDGE
    width = 2 * EDGE + len(COLUMNS) * WIDTH + (len(COLUMNS) - 1) * BETWEEN
    lines = [HEAD.format(width=width, height=height)]
    lines += [f"{arrow}\n" for arrow in _arrows(found)]
    lines += [f"{line}\n" for box in found.values() for line in box.draw()]
    lines += [f"{line}\n" for line in _notes(found[COLUMNS[1][-1]])]
    return "".join(lines) + "</svg>\n"


def _notes(above: Box) -> Iterator[str]:
    for number, note in enumerate(NOTES, 2):
        y = above.y + above.height + 16 * number
        yield f'  <text x="{above.x + 12}" y="{y}" fill="#33475b">{note}</text>'


def _arrows(found: dict[str, Box]) -> Iterator[str]:
    """Yield an arrow for each table that another refers to; to `runs` almost all do, by `run_id`."""
    into: dict[str, int] = {}
    for box in found.values():
        for target in dict.fromkeys(_targets(box.table)):
            into[target] = into.get(target, 0) + 1
            yield _arrow(box, found[target], into[target])


def _targets(table: Table) -> Iterator[str]:
    for column in table.columns:
        for key in column.foreign_keys:
            target = key.column.table.name
            if target not in ("runs", table.name):
                yield target


def _arrow(start: Box, end: Box, number: int) -> str:
    y2 = end.y + 22 + 11 * number
    if start.x == end.x:  # one below the other
        x = start.x + WIDTH - 30 * number
        path = f"M{x} {start.y + start.height} L{x} {end.y}"
        if end.y - start.y > start.height + 20:  # around the one between
            x = start.x + WIDTH
            path = f"M{x} {start.middle} C {x + 40} {start.middle} {x + 40} {end.middle} {x} {end.middle}"
    elif start.x < end.x:
        x1, x2 = start.x + WIDTH, end.x
        path = f"M{x1} {start.middle} C {x1 + 50} {start.middle} {x2 - 50} {y2} {x2} {y2}"
    else:
        x1, x2 = start.x, end.x + WIDTH
        path = f"M{x1} {start.middle} C {x1 - 50} {start.middle} {x2 + 50} {y2} {x2} {y2}"
    return f'  <path d="{path}" fill="none" stroke="#3f6fa8" stroke-width="1.4" marker-end="url(#a)"/>'


# --- the lists ------------------------------------------------------------------------------


def tables() -> str:
    """Return the columns of all tables in Markdown."""
    return "\n".join(f"{_heading(table)}\n{_columns(table)}" for table in ORDER)


def _heading(table: Table) -> str:
    keys = ", ".join(f"`{name}`" for name in keys_of(table))
    return f"### `{table.name}`\n\n{_sentence(table.comment)}. Key: {keys}.\n"


def _columns(table: Table) -> str:
    lines = ["| column | type | is |", "|---|---|---|"]
    lines += [f"| `{c.name}` | {_type(c)} | {c.comment}{_refers(c)} |" for c in table.columns]
    return "\n".join(lines) + "\n"


def _type(column: Column[object]) -> str:
    kind = {"TEXT": "text", "INTEGER": "integer", "FLOAT": "number"}[str(column.type)]
    return f"{kind}, may be empty" if column.nullable and not column.primary_key else kind


def _refers(column: Column[object]) -> str:
    targets = [key.column for key in column.foreign_keys]
    return "".join(f" (→ `{target.table.name}`)" for target in targets)


def views() -> str:
    """Return the columns of all views in Markdown."""
    return "\n".join(f"### `{view.name}`\n\n{_sentence(view.about)}.\n\n{_view(view)}" for view in VIEWS)


def _view(view: View) -> str:
    lines = ["| column | is |", "|---|---|"]
    lines += [f"| `{name}` | {said(view, name)} |" for name in view.columns]
    return "\n".join(lines) + "\n"


def said(view: View, name: str) -> str:
    """Return what a column of a view is: in its own words, or in those of the table's column."""
    own = view.said(name)
    if own is not None:
        return own
    table, _, column = view.expression(name).partition(".")
    return str(metadata.tables[table].columns[column].comment)


def _sentence(text: str | None) -> str:
    return (text or "")[:1].upper() + (text or "")[1:]


def page(text: str) -> str:
    """Return the page with its lists as they should be."""
    for name, made in (("tables", tables()), ("views", views())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text, found = re.subn(pattern, lambda match: f"{match[1]}\n{made}\n{match[2]}", text, flags=re.DOTALL)  # noqa: B023
        assert found == 1, f"{PAGE} has no place for its {name}"
    return text


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
