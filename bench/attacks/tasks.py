"""What is trained under attack: handwritten digits and breast cancer, each at twenty sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.attacks.cases import SITES, Arrays, Attack
from bench.codecs.tasks import example, measured, network, trained
from bench.modes import Examples, fleet
from fl_main import TrainResult, run_local
from fl_main.local import LocalTask
from fl_main.plan import derive_seed
from fl_main.testing.attacks import label_flip

Train = Callable[[Arrays, Any, int], Arrays]  # weights, a site's examples, seed


@dataclass(frozen=True, slots=True)
class Federation:
    """One training task, dealt out by one seed.

    Attributes:
        sites: Examples by site.
        flipped: The same with turned labels.
        train: Returns a site's model.
        initial: The first global model.
        accuracy: Measures one on examples that no site has.
        rounds: Of the run.
    """

    sites: dict[str, Any]
    flipped: dict[str, Any]
    train: Train
    initial: dict[str, NDArray[Any]]
    accuracy: Callable[[Arrays], float]
    rounds: int


class Crew:
    """The sites of a federation, of which the last ones attack: they know what honest ones send."""

    def __init__(self, federation: Federation, attack: Attack | None, attackers: int, seed: int) -> None:
        self._of = federation
        self._attack = attack
        names = sorted(federation.sites)
        self._honest, self._attackers = names[: len(names) - attackers], names[len(names) - attackers :]
        self._seed = seed
        self._round = 0
        self._made: dict[str, Arrays] = {}

    def train(self, task: LocalTask) -> TrainResult:
        """Return what a site sends; all say the same number of examples."""
        if task.round_id != self._round:
            self._round, self._made = task.round_id, {}
        if task.site not in self._attackers or self._attack is None:
            return TrainResult(self._model(task.site, task.weights), num_examples=1)
        own = self._model(task.site, task.weights, flips=self._attack.flips)
        if self._attack.forge is None:
            return TrainResult(own, num_examples=1)
        honest = [self._model(name, task.weights) for name in self._honest]
        chance = np.random.default_rng(derive_seed(self._seed, task.round_id, task.site, "forged"))
        forged = self._attack.forge(task.weights, own, honest, len(self._attackers), chance)
        return TrainResult(forged, num_examples=1)

    def _model(self, site: str, weights: Arrays, *, flips: bool = False) -> Arrays:
        if site not in self._made:
            examples = (self._of.flipped if flips else self._of.sites)[site]
            self._made[site] = self._of.train(weights, examples, derive_seed(self._seed, self._round, site))
        return self._made[site]


def attacked(
    federation: Federation, strategy: str | Sequence[Any], attack: Attack | None, attackers: int, seed: int
) -> float:
    """Return the accuracy that training comes to; one that fails keeps what it had before."""
    crew = Crew(federation, attack, attackers, seed)
    done = run_local(
        crew.train,
        dict.fromkeys(federation.sites),
        federation.initial,
        rounds=federation.rounds,
        seed=seed,
        settings={"strategy": strategy},
    )
    return federation.accuracy(done.weights)


# --- digits ------------------------------------------------------------------------------

CLASSES, DIGITS_ROUNDS, EPOCHS = 10, 30, 1


def digits(seed: int, *, is_skewed: bool = False) -> Federation:
    """Deal out scikit-learn's digits: alike to all sites, or a few of the ten digits to each."""
    sites, test = fleet(seed, SITES)
    if not is_skewed:
        sites = _shuffled(sites, seed)
    return Federation(
        sites,
        {name: (pixels, label_flip(labels, CLASSES)) for name, (pixels, labels) in sites.items()},
        lambda weights, examples, own_seed: trained(weights, examples, EPOCHS, own_seed),
        network(seed),
        lambda weights: measured(weights, test)[0],
        DIGITS_ROUNDS,
    )


def _shuffled(sites: dict[str, Examples], seed: int) -> dict[str, Examples]:
    pixels, labels = (np.concatenate(parts) for parts in zip(*sites.values(), strict=True))
    order = np.array_split(np.random.default_rng(seed + 3).permutation(len(labels)), len(sites))
    return {name: (pixels[own], labels[own]) for name, own in zip(sites, order, strict=True)}


# --- breast cancer -----------------------------------------------------------------------

CANCER_ROUNDS = 15


def cancer(seed: int) -> Federation:
    """Deal out the records of `examples/breast_cancer` to twenty sites alike; its model, standardised."""
    data, model = example("data"), example("model")
    hospitals, test = data.split(seed)
    records = data.pooled(hospitals)
    scale = model.scale_of(model.sums(records))
    unit = model.Scale(np.zeros_like(scale.mean), np.ones_like(scale.std))

    def standardised(some: Any) -> Any:
        return data.Records((some.features - scale.mean) / scale.std, some.labels)

    together, unseen = standardised(records), standardised(test)
    order = np.array_split(np.random.default_rng(seed + 3).permutation(len(together)), SITES)
    sites = {
        f"site-{number:02}": data.Records(together.features[own], together.labels[own])
        for number, own in enumerate(order)
    }
    return Federation(
        sites,
        {name: data.Records(own.features, label_flip(own.labels, 2)) for name, own in sites.items()},
        lambda weights, own, own_seed: model.train(weights, own, unit, model.CONFIG, own_seed),
        model.initial_weights(unseen.features.shape[1], seed),
        lambda weights: float(model.measure(weights, unseen)["accuracy"]),
        CANCER_ROUNDS,
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A training that is attacked.

    Attributes:
        words: What it is, for the page.
        deal: Deals out its examples by a seed.
    """

    words: str
    deal: Callable[[int], Federation]


TASKS = {
    "digits": Task(
        f"scikit-learn's digits, {SITES} sites with about 75 examples of all digits each, a network of "
        f"2,410 float32 values, {DIGITS_ROUNDS} rounds",
        digits,
    ),
    "breast cancer": Task(
        f"the Wisconsin breast-cancer data, {SITES} sites with about 16 records each, standardised, a "
        f"logistic regression of 31 float64 values, {CANCER_ROUNDS} rounds",
        cancer,
    ),
    "skewed digits": Task(
        "the same digits, network and rounds, but each site has two or three of the ten digits only",
        lambda seed: digits(seed, is_skewed=True),
    ),
}
