"""Accuracy over virtual time in the three modes, on a fleet of slow and fast sites: `make modes`.

Fifty sites hold handwritten digits (scikit-learn's), a few of the ten labels each. How long a
site takes for a task is heavy-tailed: most are quick, some take ten to a hundred times as long.
The round machine, strategies and fold are the daemon's own; only time is virtual, so the same
seeds give the same figure on every machine.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from fl_main import TrainResult, run_local
from fl_main.local import LocalRound, LocalTask

SITES, TEST_EXAMPLES, SHARDS_EACH = 50, 297, 2
CONFIG = {"epochs": 2, "batch": 10, "rate": 0.1}
TARGET = 0.90
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "modes.svg"

SMALL = {"min_agents": 2, "min_updates": 2}
MODES: dict[str, dict[str, Any]] = {
    "sync, all 50": {"round": SMALL},
    "sync, 20 of 26 asked": {
        "round": SMALL,
        "cohort": {"rule": "number", "number": 20, "over_selection": 1.3},
    },
    "semi-sync, K = 10": {"mode": "semi-sync", "round": {**SMALL, "buffer": 10}},
    "async (FedBuff), K = 10": {"mode": "async", "round": {**SMALL, "buffer": 10}},
}
COLOURS = dict(zip(MODES, ("#8a8a8a", "#3f6fa8", "#c77d1e", "#2a8c55"), strict=True))

Arrays = Mapping[str, NDArray[np.float64]]
Examples = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(slots=True)
class Story:
    """What came of one run.

    Attributes:
        curve: Virtual seconds and accuracy of each global model.
        effort: Agent-seconds that were busy, wasted and idle.
    """

    curve: list[tuple[float, float]] = field(default_factory=list)
    effort: dict[str, float] = field(default_factory=lambda: {"busy": 0.0, "wasted": 0.0, "idle": 0.0})
    staleness: list[int] = field(default_factory=list)

    def reached_s(self, target: float) -> float | None:
        """Return when the accuracy was first as good as the target, if it ever was."""
        return next((time_s for time_s, accuracy in self.curve if accuracy >= target), None)


# --- the fleet ---------------------------------------------------------------------------


def fleet(seed: int, number: int = SITES) -> tuple[dict[str, Examples], Examples]:
    """Return the examples of so many sites, a few labels each, and examples that no site has."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels, labels = pixels[order] / 16, labels[order]
    rest = np.argsort(labels[TEST_EXAMPLES:], kind="stable") + TEST_EXAMPLES
    shards = np.array_split(rest, number * SHARDS_EACH)
    dealt = np.random.default_rng(seed + 1).permutation(len(shards)).reshape(number, SHARDS_EACH)
    owned = (np.concatenate([shards[shard] for shard in own]) for own in dealt)
    sites = {f"site-{place:02}": (pixels[own], labels[own]) for place, own in enumerate(owned)}
    return sites, (pixels[:TEST_EXAMPLES], labels[:TEST_EXAMPLES])


def speeds(sites: Mapping[str, Examples], seed: int) -> Callable[[str, int], float]:
    """Return what says how long a site takes: Pareto-distributed over sites, a little different each time."""
    usual = 10 + 10 * np.random.default_rng(seed + 2).pareto(1.2, len(sites))
    places = {name: number for number, name in enumerate(sites)}

    def seconds(site: str, number: int) -> float:
        noise = np.random.default_rng([seed, places[site], number]).lognormal(0.0, 0.3)
        return float(usual[places[site]] * noise)

    return seconds


def probabilities(weights: Arrays, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of a linear model, shape (examples, 10)."""
    scores = pixels @ weights["w"] + weights["b"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def train(task: LocalTask) -> TrainResult:
    """Take some epochs of stochastic gradient descent on the site's examples."""
    (pixels, labels), config = task.data, task.config
    w, b = task.weights["w"].copy(), task.weights["b"].copy()
    chance = np.random.default_rng(task.seed)
    for _ in range(config["epochs"]):
        parts = max(1, len(labels) // config["batch"])
        for batch in np.array_split(chance.permutation(len(labels)), parts):
            error = probabilities({"w": w, "b": b}, pixels[batch])
            error[np.arange(len(batch)), labels[batch]] -= 1
            w -= config["rate"] * pixels[batch].T @ error / len(batch)
            b -= config["rate"] * error.mean(axis=0)
    return TrainResult({"w": w, "b": b}, num_examples=len(labels))


# --- the runs ----------------------------------------------------------------------------


def run(settings: Mapping[str, Any], seed: int, horizon_s: float) -> Story:
    """Train in one mode for so many virtual seconds."""
    sites, (pixels, labels) = fleet(seed)
    story = Story()

    def look(made: LocalRound) -> None:
        right = probabilities(made.weights, pixels).argmax(axis=1) == labels
        story.curve.append((made.time_s, float(right.mean())))
        story.staleness += made.staleness
        for what in story.effort:
            story.effort[what] += getattr(made, f"{what}_s")

    run_local(
        train,
        sites,
        {"w": np.zeros((64, 10)), "b": np.zeros(10)},
        config=CONFIG,
        seed=seed,
        settings={**settings, "end": {"rounds": 1_000_000, "max_s": horizon_s}},
        seconds=speeds(sites, seed),
        on_round=look,
    )
    return story


def table(stories: Mapping[str, list[Story]]) -> Iterator[str]:
    """Yield a line for each mode: medians over the seeds."""
    yield (
        f"{'':<24} {f's to {TARGET:.0%}':>9} {'sooner':>7} {'models':>7} {'busy':>6} {'idle':>6} "
        f"{'wasted':>7} {'staleness':>10}"
    )
    first = _reached(next(iter(stories.values())))
    for mode, told in stories.items():
        reached, total = _reached(told), {what: _median_effort(told, what) for what in told[0].effort}
        share = {what: value / sum(total.values()) for what, value in total.items()}
        late = statistics.median(statistics.mean(story.staleness) for story in told)
        models = statistics.median(len(story.curve) for story in told)
        yield (
            f"{mode:<24} {reached:>9.0f} {first / reached:>6.1f}x {models:>7.0f} {share['busy']:>6.0%} "
            f"{share['idle']:>6.0%} {share['wasted']:>7.0%} {late:>10.1f}"
        )


def _reached(told: list[Story]) -> float:
    return statistics.median(story.reached_s(TARGET) or float("inf") for story in told)


def _median_effort(told: list[Story], what: str) -> float:
    return statistics.median(story.effort[what] for story in told)


# --- the figure --------------------------------------------------------------------------


def draw(stories: Mapping[str, list[Story]], horizon_s: float, file: Path) -> None:
    """Draw accuracy over time, and what the sites' time went into."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "modes", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, (curves, bars) = pyplot.subplots(1, 2, figsize=(9.2, 3.4), width_ratios=(1.7, 1))
    times = np.geomspace(10, horizon_s, 300)
    for mode, told in stories.items():
        heights = np.array([_accuracy_at(story, times) for story in told])
        low, middle, high = np.quantile(heights, (0.0, 0.5, 1.0), axis=0)
        curves.plot(times, middle, color=COLOURS[mode], label=mode)
        curves.fill_between(times, low, high, color=COLOURS[mode], alpha=0.15, linewidth=0)
    curves.axhline(TARGET, color="#444444", linewidth=0.7, linestyle=":")
    curves.set(xscale="log", xlabel="virtual seconds", xlim=(10, horizon_s))
    curves.set_ylabel("accuracy on unseen digits")
    curves.legend(frameon=False, loc="lower right", fontsize=8)
    _draw_effort(bars, stories)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def _accuracy_at(story: Story, times: NDArray[np.float64]) -> NDArray[np.float64]:
    made = np.array([time_s for time_s, _ in story.curve])
    accuracy = np.array([0.1, *(value for _, value in story.curve)])
    return np.asarray(accuracy[np.searchsorted(made, times, side="right")])


def _draw_effort(bars: Any, stories: Mapping[str, list[Story]]) -> None:
    shades = {"busy": "#2a8c55", "wasted": "#b5392f", "idle": "#d5d9de"}
    for row, told in enumerate(stories.values()):
        total = {what: _median_effort(told, what) for what in shades}
        left = 0.0
        for what, value in total.items():
            share = value / sum(total.values())
            bars.barh(row, share, left=left, color=shades[what], label=what if row == 0 else None)
            left += share
    bars.set_yticks(range(len(stories)), [mode.replace(", ", ",\n") for mode in stories])
    bars.invert_yaxis()
    bars.set(xlabel="share of the sites' time", xlim=(0, 1))
    bars.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)


def main() -> None:
    """Run every mode with every seed, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--horizon", type=float, default=6000.0, help="virtual seconds")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    stories: dict[str, list[Story]] = {}
    for mode, settings in MODES.items():
        stories[mode] = [run(settings, seed, given.horizon) for seed in range(given.seeds)]
        print(f"{mode}: {given.seeds} runs of {given.horizon:g} virtual seconds are done", flush=True)
    print("\n".join(table(stories)))
    draw(stories, given.horizon, given.figure)
    print(f"the figure is {given.figure}")


if __name__ == "__main__":
    main()
