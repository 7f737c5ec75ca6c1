"""Tables and the figure of a record, and the page that they stand on."""

import statistics
from pathlib import Path
from typing import Any

from bench.codecs.cases import CASES, PLAIN, POOLED
from bench.codecs.record import Record
from bench.codecs.tasks import TASKS, Outcome
from bench.page import filled

COLOURS = {
    PLAIN: "#444444",
    "float16": "#3f6fa8",
    "bfloat16": "#2f8f9d",
    "int8": "#2a8c55",
    "qsgd": "#5b3a8e",
    "top-k": "#c77d1e",
    "random-k": "#b5392f",
}


def sections(record: Record) -> dict[str, str]:
    """Return the text of every section of the page, by name."""
    found = {"codecs machine": _machine(record), "codecs cost": cost_table(record)}
    return found | {f"codecs {task}": task_table(record, task) for task in TASKS}


def write_page(record: Record, page: Path) -> None:
    """Fill the page's places with the record's tables."""
    page.write_text(filled(page.read_text("utf-8"), sections(record)), "utf-8")


def cost_table(record: Record) -> str:
    """Return what every codec costs."""
    lines = ["| updates | bytes | encode | decode |", "|---|---|---|---|"]
    lines += [
        f"| {one.case} | {one.part:.1%} | {one.encode:.0f} | {one.decode:.1f} |" for one in record.costs
    ]
    return "\n".join(lines)


def task_table(record: Record, task: str) -> str:
    """Return what came of training with every codec: medians over the seeds, and the range."""
    plain = _median(record, task, PLAIN, "bytes_up")
    words = TASKS[task].words
    lines = [
        f"{words[0].upper()}{words[1:]}; medians over {_seeds(record)} seeds (least and most).",
        "",
        "| updates | up | down | of the bytes up | accuracy | log loss |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        up, down = (_median(record, task, case, name) for name in ("bytes_up", "bytes_down"))
        lines.append(
            f"| {case} | {up:,.0f} | {down:,.0f} | {up / plain:.1%} | {_quality(record, task, case)} |"
        )
    lines.append(f"| all examples in one place | – | – | – | {_quality(record, task, POOLED)} |")
    return "\n".join(lines)


def _quality(record: Record, task: str, case: str) -> str:
    """Return the cells of accuracy and log loss."""
    return " | ".join(
        f"{form(statistics.median(values))} ({form(min(values))}–{form(max(values))})"
        for values, form in (
            (_values(record, task, case, "accuracy"), "{:.1%}".format),
            (_values(record, task, case, "loss"), "{:.2f}".format),
        )
    )


def _machine(record: Record) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items())
    return f"Measured {record.began} UTC on: {machine}."


def _of(record: Record, task: str, case: str) -> list[Outcome]:
    return [one.outcome for one in record.trainings if (one.task, one.case) == (task, case)]


def _values(record: Record, task: str, case: str, name: str) -> list[float]:
    return [getattr(outcome, name) for outcome in _of(record, task, case)]


def _median(record: Record, task: str, case: str, name: str) -> float:
    return statistics.median(_values(record, task, case, name))


def _seeds(record: Record) -> int:
    return len({one.seed for one in record.trainings})


# --- the figure --------------------------------------------------------------------------


def draw(record: Record, file: Path) -> None:
    """Draw accuracy over bytes, a panel for each task."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "codecs", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(TASKS), figsize=(9.2, 4.4))
    for place, task in zip(places, TASKS, strict=True):
        _panel(place, record, task)
    places[0].set_ylabel("accuracy on unseen examples")
    figure.legend(
        *places[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="lower center", fontsize=8
    )
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _panel(place: Any, record: Record, task: str) -> None:
    seen: dict[str, int] = {}
    for case, compression in CASES.items():
        if "download" in compression:  # what sites send is no other than without
            continue
        codec = case.partition(",")[0]
        marker = "osD"[seen.setdefault(codec, 0)]
        seen[codec] += 1
        heights = _values(record, task, case, "accuracy")
        middle = statistics.median(heights)
        reach = [[middle - min(heights)], [max(heights) - middle]]
        across = _median(record, task, case, "bytes_up")
        place.errorbar(
            across, middle, reach, color=COLOURS[codec], fmt=marker, markersize=4.5, linewidth=0.8, label=case
        )
    pooled = _median(record, task, POOLED, "accuracy")
    place.axhline(pooled, color="#8a8a8a", linewidth=0.8, linestyle=":", label="all examples in one place")
    place.set(title=task, xlabel="bytes that a site sends in a round", xscale="log")
    place.grid(axis="y", color="#d5dee8", linewidth=0.7)
