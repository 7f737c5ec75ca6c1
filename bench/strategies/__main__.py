"""`python -m bench.strategies`: the page of strategies from docstrings, and convergence under label skew."""

from pathlib import Path

from bench.commands import commands
from bench.page import filled
from bench.strategies import pages
from bench.strategies.skew import Record, draw, measure, read, table

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE, FIGURE = (
    DOCS / "records" / "strategies.json",
    DOCS / "strategies.md",
    DOCS / "figures" / "strategies.svg",
)


def sections(record: Record) -> dict[str, str]:
    """Return the generated texts of the page, by name."""
    return {**pages.sections(), "strategies skew": table(record)}


def _report(file: Path) -> str:
    record = read(file)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), sections(record)), "utf-8")
    draw(record, FIGURE)
    return f"{PAGE} and {FIGURE} are"


main = commands(
    "Write the page of strategies.",
    RECORD,
    measure=("Train with every strategy where labels differ from site to site, about a minute.", measure),
    tables=table,
    report=("Write the page's generated parts, and the figure, from docstrings and a record.", _report),
)

if __name__ == "__main__":
    main()
