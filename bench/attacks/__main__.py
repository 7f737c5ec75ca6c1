"""`python -m bench.attacks measure`: accuracy of every rule under every attack; `report`: the tables."""

from pathlib import Path

from bench.attacks.measure import measure
from bench.attacks.record import read
from bench.attacks.report import sections, write_page
from bench.commands import commands

DOCS = Path(__file__).parents[2] / "docs"
RECORD, PAGE = DOCS / "records" / "attacks.json", DOCS / "robustness.md"


def _report(file: Path) -> str:
    write_page(read(file), PAGE)
    return f"{PAGE} is"


main = commands(
    "Tell what attacks do to training, and what robust strategies do against them.",
    RECORD,
    measure=("Measure all of it, ten minutes, and print the tables.", measure),
    tables=lambda record: "\n\n".join(sections(record).values()),
    report=("Write the tables of the page from a record.", _report),
)

if __name__ == "__main__":
    main()
