"""The laws of `fl_main.strategies.base`, held against any strategy: the table's, or one of your own.

    from fl_main.testing import check_strategy

    def test_my_strategy_keeps_the_laws() -> None:
        check_strategy("hospital.rules:Cautious", {"most": 3})

It folds small models with every kind of array, as the daemon does, and compares bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from fl_main.deltas import subtract
from fl_main.errors import StrategyError
from fl_main.sources import Memory, Source
from fl_main.steps import steps_of
from fl_main.strategies import Contribution, Strategy, compose, options_of
from fl_main.strategies.fold import Answer, fold, state_layout
from fl_main.weights import Array, Layout, Role, pack, views

TOLERANCE = 1e-8  # of float64, times the largest value: what rounding may do where bits may differ
LARGE = 1 << 20  # bytes of a block that holds a whole model
ROUNDS = 4  # of the law of restarts
BASE = 1000  # seed of the global model; those of updates are smaller

Model = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Cohort:
    """The updates of one fold.

    Attributes:
        seeds: From which each local model follows, from 0 to 999, no two alike.
        counts: `num_examples` of each, at least 1.
        chance: What else the laws draw: a factor, how blocks are cut, an order.
    """

    seeds: tuple[int, ...]
    counts: tuple[int, ...]
    chance: int = 0

    @property
    def absent(self) -> int:
        """How many agents of the run may train, and send no update this time."""
        return self.chance % 3

    @property
    def random(self) -> np.random.Generator:
        """What an order is drawn from: the same for every fold of this cohort."""
        return np.random.default_rng(self.chance)

    @classmethod
    def drawn(cls, number: int, strategy: Strategy, least: int = 1) -> "Cohort":
        """Return the number-th of endlessly many that a strategy takes, of at least so many updates."""
        chance = np.random.default_rng(number)
        size = 1 if strategy.in_turn else max(least, strategy.min_updates) + number % 5
        counts = chance.integers(1, 1000, size).tolist()
        return cls(tuple(chance.permutation(100 + size)[:size].tolist()), tuple(counts), number)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fold: the model's arrays, and the strategy's by their names."""

    model: Memory
    state: Mapping[str, Memory]

    @property
    def bits(self) -> list[bytes]:
        """All that is stored."""
        return [bytes(kept.data) for kept in (self.model, *self.state.values())]

    @property
    def arrays(self) -> Model:
        """The model's arrays."""
        return views(self.model.layout, bytes(self.model.data))


@dataclass(frozen=True, slots=True)
class Trial:
    """A strategy, and what its updates report.

    Attributes:
        make: Returns a fresh one.
        num_steps: Of the updates, in turn.
        metrics: Of every update; those that the strategy needs and that are not here are 1.
        agent: Name of an agent that sends one of the updates of every cohort, for rules that name one.
    """

    make: Callable[[], Strategy]
    num_steps: Sequence[int] = (1, 2, 5)
    metrics: Mapping[str, float] = field(default_factory=dict)
    agent: str = ""

    def fold(
        self,
        cohort: Cohort,
        *,
        change: Callable[[Model], Model] = lambda model: model,
        base: Model | None = None,
        models: Sequence[Model] | None = None,
        channels: float | None = None,
        state: Mapping[str, Source] | None = None,
        version: int = 1,
        as_deltas: bool = False,
        wide: bool = False,
        block_bytes: int = LARGE,
    ) -> Outcome:
        """Fold a cohort's updates on a fresh strategy.

        Args:
            cohort: The updates.
            change: Done to the base and every update.
            base: The global model; None for one that follows from a seed.
            models: The local models; None for those that follow from the cohort's seeds.
            channels: What all values of extra channels are; None for random ones.
            state: The strategy's arrays before.
            version: Of the global model that is made.
            as_deltas: Whether updates travel as differences.
            wide: Whether models have no floats but float64.
            block_bytes: How blocks are cut.
        """
        strategy = self.make()
        may_be_late = base is None and strategy.modes != ("sync",)
        start = change(model_of(BASE, wide) if base is None else base)
        layout = Layout.of(start, {name: Role.BUFFER for name in start if name.startswith("mean")})
        answers = []
        for index, seed in enumerate(cohort.seeds):
            late = seed % 4 if may_be_late else 0
            origin = change(model_of(BASE + late, wide)) if late else start
            local = change(model_of(seed, wide) if models is None else models[index])
            sent = subtract(origin, local, layout) if as_deltas else local
            payloads: dict[str, Source] = {"weights": _packed(sent, layout)}
            payloads |= {name: _channel(layout, seed, channels) for name in strategy.up}
            answers.append(
                Answer(
                    self._facts(strategy, cohort, index, late), payloads, _packed(origin, layout), as_deltas
                )
            )
        sink = Memory(layout)
        after = {name: Memory(state_layout(layout)) for name in strategy.state}
        fold(
            strategy,
            answers,
            _packed(start, layout),
            state or {},
            sink,
            after,
            version=version,
            agents=len(cohort.seeds) + cohort.absent,
            block_bytes=block_bytes,
        )
        return Outcome(sink, after)

    def _facts(self, strategy: Strategy, cohort: Cohort, index: int, late: int) -> Contribution:
        seed = cohort.seeds[index]
        needed = dict.fromkeys((need for need in strategy.needs if need != "num_steps"), 1.0)
        is_named = self.agent and seed == min(cohort.seeds)
        return Contribution(
            self.agent if is_named else f"agent-{seed:03}",
            cohort.counts[index],
            self.num_steps[seed % len(self.num_steps)],
            late,
            needed | dict(self.metrics),
            discount=2.0**-late,
        )


def model_of(seed: int, wide: bool = False) -> Model:
    """Return a model that follows from a seed, with every kind of array."""
    chance = np.random.default_rng(seed)
    model: Model = {"f8": chance.normal(0, 10, (3, 4)), "mean-f8": chance.normal(0, 1, 3)}
    model |= {"i8": chance.integers(-99, 99, (2, 2)), "u1": chance.integers(0, 255, 5, np.uint8)}
    model |= {"bool": chance.normal(size=3) > 0, "none": np.zeros(0, "f4")}
    if wide:
        return model
    model |= {name: chance.normal(0, 10, 7).astype(name) for name in ("f4", "f2")}
    model |= {"mean-f4": chance.normal(0, 1, 5).astype("f4")}
    if (bfloat16 := _bfloat16()) is not None:
        model["bf16"] = chance.normal(0, 10, 5).astype(bfloat16)
    return model


def _bfloat16() -> np.dtype[Any] | None:
    """Return NumPy's type of bfloat16, where `ml_dtypes` is installed."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        return None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def _packed(model: Model, layout: Layout) -> Memory:
    return Memory(layout, pack(model, layout))


def _channel(layout: Layout, seed: int, value: float | None) -> Memory:
    kept, chance = state_layout(layout), np.random.default_rng(seed)
    arrays = {
        spec.name: (chance.normal(size=spec.shape) if value is None else np.full(spec.shape, value)).astype(
            spec.dtype.stored
        )
        for spec in kept.arrays
    }
    return Memory(kept, pack(arrays, kept))


# --- the laws ----------------------------------------------------------------------------


def _order(trial: Trial, cohort: Cohort) -> None:
    """The order in which updates stand changes nothing but the last bits."""
    plain, places = trial.fold(cohort, wide=True), np.arange(len(cohort.seeds))
    # Turned around, what stands in the middle stays there: a rule that takes it needs another order.
    for order in (places[::-1], np.roll(places, 1), cohort.random.permutation(places)):
        seeds, counts = (tuple(of[place] for place in order) for of in (cohort.seeds, cohort.counts))
        turned = Cohort(seeds, counts, cohort.chance)
        _check_close(plain, trial.fold(turned, wide=True).arrays["f8"])


def _unchanged(trial: Trial, cohort: Cohort) -> None:
    """A model that no update changes stays, bit for bit."""
    model = model_of(BASE)
    found = trial.fold(cohort, base=model, models=[model] * len(cohort.seeds), channels=0.0)
    _check_equal(found.bits[:1], [bytes(_packed(model, found.model.layout).data)])


def _equal(trial: Trial, cohort: Cohort) -> None:
    """Of updates that are all the same model, the result is that model, bit for bit."""
    model = model_of(cohort.seeds[0])
    found = trial.fold(cohort, models=[model] * len(cohort.seeds), channels=0.0)
    _check_equal(found.bits[:1], [bytes(_packed(model, found.model.layout).data)])


def _form(trial: Trial, cohort: Cohort) -> None:
    """Whether updates travel as models or as differences changes nothing but the last bits."""
    _check_close(trial.fold(cohort, wide=True), trial.fold(cohort, wide=True, as_deltas=True).arrays["f8"])


def _examples(trial: Trial, cohort: Cohort) -> None:
    """So many times the examples behind every update change nothing, bit for bit."""
    factor = 2 + cohort.chance % 999
    more = replace(cohort, counts=tuple(count * factor for count in cohort.counts))
    _check_equal(trial.fold(cohort).bits, trial.fold(more).bits)


def _scale(trial: Trial, cohort: Cohort) -> None:
    """Of a base and updates times a number, the result is times that number."""
    factor = 0.5 + cohort.chance % 7

    def scaled(model: Model) -> Model:
        return model | {"f8": model["f8"] * factor}

    plain = trial.fold(cohort, wide=True, channels=0.0)
    _check_close(trial.fold(cohort, change=scaled, wide=True, channels=0.0), plain.arrays["f8"] * factor)


def _translation(trial: Trial, cohort: Cohort) -> None:
    """Of a base and updates plus a model, the result is plus that model."""
    shift = model_of(BASE - 1)["f8"]

    def moved(model: Model) -> Model:
        return model | {"f8": model["f8"] + shift}

    plain = trial.fold(cohort, wide=True, channels=0.0)
    _check_close(trial.fold(cohort, change=moved, wide=True, channels=0.0), plain.arrays["f8"] + shift)


def _blocks(trial: Trial, cohort: Cohort) -> None:
    """Many blocks give the bits of one."""
    whole = trial.fold(cohort)
    _check_equal(trial.fold(cohort, block_bytes=1 + cohort.chance % 100).bits, whole.bits)


def _again(trial: Trial, cohort: Cohort) -> None:
    """A second fold of the same updates, as after a crash, gives the same bits."""
    _check_equal(trial.fold(cohort).bits, trial.fold(cohort).bits)


def _restart(trial: Trial, cohort: Cohort) -> None:
    """Rounds that go on from what was stored give the bits of rounds that were not interrupted."""
    rounds = [trial.fold(cohort)]
    for _ in range(ROUNDS - 1):
        rounds.append(_next(trial, cohort, rounds[-1], len(rounds) + 1))
    resumed = rounds[0]  # after folds of later rounds in the same process
    for version, before in enumerate(rounds[1:], start=2):
        resumed = _next(trial, cohort, resumed, version)
        _check_equal(resumed.bits, before.bits)


def _next(trial: Trial, cohort: Cohort, before: Outcome, version: int) -> Outcome:
    other = replace(cohort, seeds=tuple((seed + 100 * version) % BASE for seed in cohort.seeds))
    return trial.fold(other, base=before.arrays, state=before.state, version=version)


def _check_equal(found: list[bytes], expected: list[bytes]) -> None:
    if found != expected:
        raise StrategyError("the bits differ")


def _check_close(found: Outcome, expected: Array) -> None:
    largest = float(np.abs(found.arrays["f8"] - expected).max())
    if not largest <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise StrategyError(f"a value of float64 differs by {largest:g}")


LAWS: Mapping[str, Callable[[Trial, Cohort], None]] = {
    "order": _order,
    "unchanged": _unchanged,
    "equal": _equal,
    "form": _form,
    "examples": _examples,
    "scale": _scale,
    "translation": _translation,
    "blocks": _blocks,
    "again": _again,
    "restart": _restart,
}
ALWAYS = ("blocks", "again", "restart")  # no paper can ask for an exception


def check_strategy(
    strategy: str | list[Any],
    options: Mapping[str, Any] | None = None,
    *,
    least: int = 1,
    num_steps: Sequence[int] = (1, 2, 5),
    metrics: Mapping[str, float] | None = None,
    agent: str = "",
    trials: int = 10,
) -> dict[str, str]:
    """Hold a strategy against every law, but those that it makes an exception of.

    Args:
        strategy: As in a run's settings: a name, `package.module:Class`, or a list of steps.
        options: Those of one name. Where a strategy has an option `seed` that is not given, it gets one:
            what is drawn anew in every fold can be held against no law.
        least: Fewest updates to try it with; never fewer than it says in `min_updates`.
        num_steps: What the updates report, in turn.
        metrics: What every update reports; what is needed and not here is 1.
        agent: Name of an agent that takes part in every round, for rules that name one.
        trials: Cohorts to try each law with.

    Returns:
        The exceptions: the reason for each law that it does not claim.

    Raises:
        StrategyError: If it breaks a law: which, and with which cohort.
        SettingsError: If there is no such strategy, or it does not take these options.
        UpdateRejectedError: If it combines none of these updates: say `least`, or what they report.
    """
    make = _maker(strategy, options or {})
    made, trial = make(), Trial(make, num_steps, metrics or {}, agent)
    for law in LAWS:
        if law in ALWAYS or law not in made.exceptions:
            for number in range(trials):
                check_law(law, trial, Cohort.drawn(number, made, least))
    return dict(made.exceptions)


def _maker(strategy: str | list[Any], options: Mapping[str, Any]) -> Callable[[], Strategy]:
    """Return what makes the strategy, drawing from a seed if it draws."""
    if isinstance(strategy, str):
        return partial(compose, strategy, _seeded(strategy, options))
    return partial(compose, [{name: _seeded(name, own)} for name, own in steps_of(strategy)])


def _seeded(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's options with a seed, where it takes one."""
    if options.get("seed") is None and "seed" in options_of(name):
        return {**options, "seed": BASE}
    return dict(options)


def check_law(law: str, trial: Trial, cohort: Cohort) -> None:
    """Hold a strategy against one law with one cohort.

    Raises:
        StrategyError: If it breaks it.
    """
    try:
        LAWS[law](trial, cohort)
    except StrategyError as error:
        said = " ".join((LAWS[law].__doc__ or "").split())
        raise StrategyError(f"the law '{law}' is broken with {cohort}: {said} But {error}") from error
