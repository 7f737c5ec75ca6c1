"""Figures of a record: time over model size and over agents, memory over agents."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rounds.compare import Size, peak_mib, round_s, size_of
from bench.rounds.contestants import CONTESTANTS
from bench.rounds.record import Record, Run

COLOURS = {
    "floor": "#8a8a8a",
    "ours": "#3f6fa8",
    "ours-keep": "#2a8c55",
    "ours-crowd": "#3f6fa8",
    "flower-grpc": "#c77d1e",
    "flower-superlink": "#b5392f",
    "flare": "#5b3a8e",
}
FILES = ("bench-size.svg", "bench-agents.svg", "bench-memory.svg")

Value = Callable[[Sequence[Run], str, Size, str], float | None]
Lines = dict[str, list[tuple[float, float]]]  # of each contestant: across, up


def draw(record: Record, folder: Path) -> None:
    """Draw all figures into a folder."""
    runs = [run for run in record.runs if run.network == "loopback"]
    sizes = [(f"{agents} agents", "MB of the model", _over_size(runs, agents)) for agents in (2, 10)]
    agents = [
        ("1 MB", "agents", _over_agents(runs, round_s, 1.0)),
        ("100 kB, agents in one process", "agents", _over_agents(runs, round_s, 0.1)),
    ]
    memory = [
        (f"{megabytes:g} MB", "agents", _over_agents(runs, peak_mib, megabytes)) for megabytes in (1.0, 100.0)
    ]
    words = ("seconds a round", "seconds a round", "MiB of the server side")
    for file, word, panels in zip(FILES, words, (sizes, agents, memory), strict=True):
        _figure(folder / file, word, panels)


def _over_size(runs: Sequence[Run], agents: int) -> Lines:
    """Return seconds over megabytes for each contestant, where so many agents took part."""
    sizes = sorted({size for size in map(size_of, runs) if size.agents == agents and size.megabytes >= 1})
    return _lines(runs, round_s, {size: size.megabytes for size in sizes})


def _over_agents(runs: Sequence[Run], value: Value, megabytes: float) -> Lines:
    """Return seconds or memory over the number of agents, for a model of so many megabytes."""
    sizes = sorted({size for size in map(size_of, runs) if size.megabytes == megabytes})
    return _lines(runs, value, {size: size.agents for size in sizes})


def _lines(runs: Sequence[Run], value: Value, places: Mapping[Size, float]) -> Lines:
    found = {
        name: [
            (place, at)
            for size, place in places.items()
            if (at := value(runs, name, size, "loopback")) is not None
        ]
        for name in COLOURS
    }
    return {name: points for name, points in found.items() if points}


def _figure(file: Path, words: str, panels: Sequence[tuple[str, str, Lines]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(panels), figsize=(9.2, 3.6))
    for place, (title, across, lines) in zip(places, panels, strict=True):
        _panel(place, title, across, lines)
    places[0].set_ylabel(words)
    named = {line.get_label(): line for place in places for line in place.get_lines()}
    figure.legend(named.values(), named.keys(), frameon=False, ncols=4, loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _panel(place: Any, title: str, across: str, lines: Lines) -> None:
    for name, points in lines.items():
        place.plot(
            *zip(*points, strict=True),
            color=COLOURS[name],
            label=CONTESTANTS[name].title,
            marker="o",
            markersize=3.5,
            linestyle="--" if name.startswith("floor") else "-",
        )
    ticks = sorted({point[0] for points in lines.values() for point in points})
    place.set(title=title, xlabel=across, xscale="log", yscale="log")
    place.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    place.yaxis.set_major_formatter("{x:g}")
    place.minorticks_off()
    place.grid(axis="y", color="#d5dee8", linewidth=0.7)
