"""Tables of a record, and the page that they stand on."""

import statistics
from pathlib import Path

from bench.attacks.cases import ATTACKERS, ATTACKS, NONE, RULES, SITES
from bench.attacks.record import Record
from bench.attacks.tasks import TASKS
from bench.page import filled
from fl_main.strategies import compose


def sections(record: Record) -> dict[str, str]:
    """Return the text of every section of the page, by name."""
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items())
    found = {"attacks machine": f"Measured {record.began} UTC on: {machine}."}
    return found | {f"attacks {task}": task_table(record, task) for task in TASKS}


def write_page(record: Record, page: Path) -> None:
    """Fill the page's places with the record's tables."""
    page.write_text(filled(page.read_text("utf-8"), sections(record)), "utf-8")


def task_table(record: Record, task: str) -> str:
    """Return the accuracy of every rule under every attack: medians over the seeds, in per cent."""
    words = TASKS[task].words
    seeds = len({one.seed for one in record.trainings})
    found: dict[tuple[str, str, int], list[float]] = {}
    for one in record.trainings:
        if one.task == task:
            found.setdefault((one.rule, one.attack, one.attackers), []).append(one.accuracy)
    lines = [
        f"{words[0].upper()}{words[1:]}; medians over {seeds} seeds.",
        "",
        f"| strategy | bears | no attack | {' | '.join(ATTACKS)} |",
        f"|---|---|---|{'---|' * len(ATTACKS)}",
    ]
    for rule in RULES:
        calm = f"{statistics.median(found[rule, NONE, 0]):.0%}"
        cells = [
            " · ".join(
                f"{100 * statistics.median(found[rule, attack, attackers]):.0f}" for attackers in ATTACKERS
            )
            for attack in ATTACKS
        ]
        lines.append(f"| `{rule}` | {borne(rule)} | {calm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def borne(rule: str) -> str:
    """Return how many of the sites may be faulty, by the rule's paper."""
    count = compose(RULES[rule]).bears(SITES)
    return f"{count} of {SITES}" if count else "–"
