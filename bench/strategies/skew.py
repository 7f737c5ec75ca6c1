"""Convergence where labels differ from site to site: which strategy gets how far in how many rounds."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.modes import Examples, fleet, probabilities
from bench.rounds.record import begun
from fl_main import TrainResult, run_local
from fl_main.corrections import correction_of
from fl_main.local import LocalRound, LocalTask

SITES, ASKED, ROUNDS, TARGET = 20, 5, 100, 0.85
CONFIG: dict[str, Any] = {"epochs": 5, "batch": 10, "rate": 0.1}
POOLED = "all examples in one place"
LAST = 20  # rounds whose mean and spread tell where a run ended

# Server rates and options are the best of a coarse grid (factors of about 3) with a seed that is not shown.
CASES: dict[str, Any] = {
    "fedavg": "fedavg",
    "fedavgm": [{"fedavgm": {"eta": 1.0, "beta": 0.9}}],
    "fedadagrad": [{"fedadagrad": {"eta": 1.0}}],
    "fedadam": [{"fedadam": {"eta": 0.3}}],
    "fedyogi": [{"fedyogi": {"eta": 0.3}}],
    "fedprox": [{"fedprox": {"mu": 0.1}}],
    "scaffold": ["scaffold"],
    "feddyn": [{"feddyn": {"alpha": 0.1}}],
    "fedcurv": [{"fedcurv": {"lam": 10.0}}],
    "fednova": ["fednova"],
    "qfedavg": [{"qfedavg": {"learning_rate": 0.1, "q": 0.01}}],
}
_SHADES = (
    *("#444444", "#3f6fa8", "#2f8f9d", "#2a8c55", "#8aa63a", "#c77d1e", "#b5392f", "#5b3a8e"),
    *("#9b6b43", "#3f6fa8", "#2a8c55"),
)
COLOURS = dict(zip(CASES, _SHADES, strict=True))

Numbers = NDArray[np.float64]
Model = dict[str, Numbers]


@dataclass(slots=True)
class Record:
    """What a measurement leaves behind.

    Attributes:
        accuracy: By case: for each seed the accuracy after each round.
        pooled: The accuracy for each seed of as many epochs on all examples in one place.
    """

    machine: dict[str, str]
    began: str
    accuracy: dict[str, list[list[float]]] = field(default_factory=dict)
    pooled: list[float] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write it as JSON, a line for each curve."""
        head = asdict(self)
        curves = head.pop("accuracy")
        text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "accuracy": {\n'
        rows = (",\n   ".join(map(json.dumps, curves[case])) for case in curves)
        text += ",\n".join(f'  "{case}": [\n   {row}\n  ]' for case, row in zip(curves, rows, strict=True))
        file.write_text(text + "\n }\n}\n", "utf-8")


def read(file: Path) -> Record:
    """Return a record that was written."""
    return Record(**json.loads(file.read_text("utf-8")))


def measure(seeds: int, tell: Callable[[str], None]) -> Record:
    """Train with every strategy and seed."""
    head = begun()
    record = Record(head.machine, head.began)
    record.pooled = [pooled(seed) for seed in range(seeds)]
    for case, strategy in CASES.items():
        record.accuracy[case] = [curve(strategy, seed) for seed in range(seeds)]
        tell(f"{case}: {seeds} runs of {ROUNDS} rounds are done")
    return record


def curve(strategy: Any, seed: int, rounds: int = ROUNDS) -> list[float]:
    """Return the accuracy on unseen digits after each round; sites hold a few of the ten labels each."""
    sites, unseen = fleet(seed, SITES)
    found: list[float] = []

    def look(made: LocalRound) -> None:
        found.append(round(accuracy(made.weights, unseen), 4))

    run_local(
        train,
        sites,
        start(),
        rounds=rounds,
        config=CONFIG,
        strategy=strategy,
        seed=seed,
        settings={"cohort": {"rule": "number", "number": ASKED}, "round": {"min_updates": ASKED}},
        on_round=look,
    )
    return found


def pooled(seed: int) -> float:
    """Return the accuracy of training on all examples in one place, for as many epochs."""
    sites, unseen = fleet(seed, SITES)
    pixels, labels = (np.concatenate(parts) for parts in zip(*sites.values(), strict=True))
    model, chance = start(), np.random.default_rng(seed)
    for _ in range(ROUNDS * CONFIG["epochs"] * ASKED // SITES):
        descend(model, (pixels, labels), chance, lambda gradients: None)
    return round(accuracy(model, unseen), 4)


def start() -> Model:
    """Return the first model."""
    return {"w": np.zeros((64, 10)), "b": np.zeros(10)}


def accuracy(model: Mapping[str, Numbers], examples: Examples) -> float:
    """Return the part of the labels that a model tells."""
    pixels, labels = examples
    return float((probabilities(model, pixels).argmax(axis=1) == labels).mean())


def train(task: LocalTask) -> TrainResult:
    """Take some epochs of gradient descent, with what the run's strategy asks for."""
    model = {name: array.copy() for name, array in task.weights.items()}
    correction, chance, steps = correction_of(task), np.random.default_rng(task.seed), 0
    for _ in range(CONFIG["epochs"]):
        steps += descend(model, task.data, chance, lambda gradients: correction.add_to(gradients, model))
    answer = correction.answer(
        model, num_steps=steps, learning_rate=CONFIG["rate"], fisher=lambda: fisher(model, task.data)
    )
    before = loss(task.weights, task.data)
    return TrainResult(model, num_examples=len(task.data[1]), metrics={"loss": before}, **answer)


def loss(model: Mapping[str, Numbers], examples: Examples) -> float:
    """Return the mean log loss."""
    pixels, labels = examples
    return float(-np.log(probabilities(model, pixels)[np.arange(len(labels)), labels]).mean())


def fisher(model: Model, examples: Examples) -> Model:
    """Return the diagonal of the empirical Fisher information."""
    pixels, labels = examples
    error = probabilities(model, pixels)
    error[np.arange(len(labels)), labels] -= 1
    return {"w": np.square(pixels).T @ np.square(error) / len(labels), "b": np.square(error).mean(axis=0)}


def descend(
    model: Model, examples: Examples, chance: np.random.Generator, change: Callable[[Model], None]
) -> int:
    """Take one epoch, the model in place; return how many steps it was."""
    pixels, labels = examples
    batches = np.array_split(chance.permutation(len(labels)), max(1, len(labels) // int(CONFIG["batch"])))
    for batch in batches:
        error = probabilities(model, pixels[batch])
        error[np.arange(len(batch)), labels[batch]] -= 1
        gradients = {"w": pixels[batch].T @ error / len(batch), "b": error.mean(axis=0)}
        change(gradients)
        for name, gradient in gradients.items():
            model[name] -= CONFIG["rate"] * gradient
    return len(batches)


# --- how it is told ----------------------------------------------------------------------


def table(record: Record) -> str:
    """Return a line for each strategy: medians over the seeds."""
    lines = [
        f"| strategy | rounds to {TARGET:.0%} | accuracy of the last {LAST} rounds | worst of these |",
        "|---|---|---|---|",
    ]
    for case, curves in record.accuracy.items():
        reached = statistics.median(_reached(one) for one in curves)
        mean = statistics.median(statistics.mean(one[-LAST:]) for one in curves)
        worst = statistics.median(min(one[-LAST:]) for one in curves)
        rounds = f"{reached:.0f}" if reached <= ROUNDS else "not reached"
        lines.append(f"| `{case}` {_options(CASES[case])}| {rounds} | {mean:.1%} | {worst:.1%} |")
    lines.append(f"| {POOLED} | – | {statistics.median(record.pooled):.1%} | – |")
    seeds = len(record.pooled)
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items())
    return "\n".join(lines) + f"\n\nMedians over {seeds} seeds; measured {record.began} UTC on: {machine}."


def _options(strategy: Any) -> str:
    step = strategy[0] if isinstance(strategy, list) else strategy
    options = next(iter(step.values())) if isinstance(step, dict) else {}
    return "".join(f"{name} {value:g}, " for name, value in options.items()).removesuffix(", ") + " " * bool(
        options
    )


def _reached(curve: list[float]) -> int:
    return next((number for number, value in enumerate(curve, start=1) if value >= TARGET), ROUNDS + 1)


def draw(record: Record, file: Path) -> None:
    """Draw accuracy over rounds: medians over the seeds, and the range."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "strategies", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    groups = (
        ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"),
        ("fedavg", "fednova", "qfedavg", "fedprox", "fedcurv", "scaffold", "feddyn"),
    )
    figure, places = pyplot.subplots(1, 2, figsize=(9.2, 3.6), sharey=True)
    for place, cases in zip(places, groups, strict=True):
        for case in cases:
            curves = np.array(record.accuracy[case])
            rounds = np.arange(1, curves.shape[1] + 1)
            place.plot(rounds, np.median(curves, axis=0), color=COLOURS[case], label=case, linewidth=1.2)
            place.fill_between(
                rounds, curves.min(axis=0), curves.max(axis=0), color=COLOURS[case], alpha=0.08, linewidth=0
            )
        pooled_at = statistics.median(record.pooled)
        place.axhline(pooled_at, color="#8a8a8a", linewidth=0.8, linestyle=":", label=POOLED)
        place.set(xlabel="rounds", ylim=(0.4, 1.0))
        place.legend(frameon=False, loc="lower right", fontsize=8)
    places[0].set(ylabel="accuracy on unseen digits", title="server optimizers")
    places[1].set(title="rules, and corrections of local training")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
