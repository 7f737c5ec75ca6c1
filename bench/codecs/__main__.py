"""`python -m bench.codecs measure`: bytes, time, accuracy with every codec; `report`: tables and figure."""

from pathlib import Path

from bench.codecs.measure import measure
from bench.codecs.record import read
from bench.codecs.report import draw, sections, write_page
from bench.commands import commands

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE, FIGURE = (
    DOCS / "records" / "codecs.json",
    DOCS / "compression.md",
    DOCS / "figures" / "codecs.svg",
)


def _report(file: Path) -> str:
    record = read(file)
    write_page(record, PAGE)
    draw(record, FIGURE)
    return f"{PAGE} and {FIGURE} are"


main = commands(
    "Tell what codecs save, what they cost, and what they do to accuracy.",
    RECORD,
    measure=("Measure all of it, a few minutes, and print the tables.", measure),
    tables=lambda record: "\n\n".join(sections(record).values()),
    report=("Write the tables of the page, and the figure, from a record.", _report),
)

if __name__ == "__main__":
    main()
