"""Pipelines: steps that make one strategy, such as norm bound → trimmed mean → FedAdam.

The steps stand in this order, each but the rule at will:

1. *scaling* steps give each update a factor, from what they measured of it;
2. a *selecting* rule leaves updates out;
3. one *rule* makes a model of what is left: FedAvg, if none is named;
4. a server *optimizer* takes what the rule found, minus the base, as a step;
5. *noise* is added to what is published.

Each step is a strategy of its own and sees blocks as those before it leave them. What makes no
sense is refused when the settings are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from fl_main.errors import SettingsError, StrategyError, UpdateRejectedError
from fl_main.strategies.base import Block, Contribution, Strategy, Values
from fl_main.strategies.fedavg import FedAvg

Form = Literal["models", "deltas"]
MOST_UPDATES = 10_000  # of one fold, up to which steps must have enough

Named = tuple[str, Strategy]  # a step, and what the settings call it

_ORDER = ("scaling", "rule", "optimizer", "noise")
_PLACE = {
    "scaling": "it scales updates, so it goes before the rule that combines them",
    "rule": "it combines updates, so it goes before what works on its result",
    "optimizer": "it takes what the rule found as a step, so it goes after the rule and before noise",
}
_ONCE = {
    "optimizer": "a round is one step of one server optimizer; leave one of them out",
    "noise": "noise is added once; give one whose variance is their sum",
}


class Pipeline(Strategy):
    """Several steps as one strategy.

    Args:
        steps: Fresh strategies in their order, each with its name for errors.

    Raises:
        SettingsError: If they make no sense together, with the reason.
    """

    def __init__(self, steps: Sequence[Named]) -> None:
        named = _with_rule(steps)
        _check(named)
        stages = [strategy for _, strategy in named]
        self._stages = stages
        self._measuring = [stage for stage in stages if stage.step in ("scaling", "rule")]
        self._following = [stage for stage in stages if stage.step in ("optimizer", "noise")]
        self._rule = self._measuring[-1]
        self._selector = next((stage for stage in self._measuring[:-1] if stage.step == "rule"), None)
        taking = [at for at, stage in enumerate(self._measuring) if stage.takes_buffers]
        self._of_buffers = max(taking, default=None)  # a mean of what a selecting rule left takes its word
        self._facts: Sequence[Contribution] = ()
        self._shadowed = _shadowed(self._measuring)
        self._names = [name for name, stage in named if stage in self._measuring]
        self._left: list[dict[int, float]] = []  # to each measuring stage begun: updates and their factors
        self._declare(stages)

    def _declare(self, stages: Sequence[Strategy]) -> None:
        """Want and need what the steps do together."""
        self.state = tuple(name for stage in stages for name in stage.state)
        self.paired = tuple(name for stage in stages for name in stage.paired)
        self.down = tuple(name for stage in stages for name in stage.down)
        self.up = tuple(dict.fromkeys(name for stage in stages for name in stage.up))
        self.needs = tuple(dict.fromkeys(name for stage in stages for name in stage.needs))
        self.modes = tuple(mode for mode in self._rule.modes if all(mode in stage.modes for stage in stages))
        self.why_not = min(stages, key=lambda stage: len(stage.modes)).why_not
        self.wants = self._rule.wants
        self.buffer = self._rule.buffer
        self.passes = sum(stage.passes for stage in self._measuring)
        self.stacks = any(stage.stacks for stage in stages)
        most_asked = max(stages, key=lambda stage: stage.min_updates)
        self.min_updates, self.why_least = most_asked.min_updates, most_asked.why_least
        if self._selector and (enough := _enough(self._selector, self._rule) or 0) > self.min_updates:
            selecting, combining = self._names[-2:]
            self.min_updates = enough
            self.why_least = f"{selecting} leaves {self._selector.leaves(enough)} of them to {combining}"
            self.why_least += f": {self._rule.why_least}" if self._rule.why_least else ""
        self.requires = tuple(dict.fromkeys(name for stage in stages for name in stage.requires))
        self.one_each = any(stage.one_each for stage in stages)
        facts = dict.fromkeys(name for stage in stages for name in stage.measures)
        shadowed = [
            f"{name}.{fact}"
            for name, hidden in zip(self._names, self._shadowed, strict=True)
            for fact in hidden
        ]
        self.measures = (*facts, *shadowed)
        self.takes_buffers = self._of_buffers is not None
        self.in_turn = self._rule.in_turn
        self.exact = self._rule.exact
        self.is_random = any(stage.is_random for stage in stages)
        self.exceptions = {law: why for stage in stages for law, why in stage.exceptions.items()}

    def correction(self) -> Mapping[str, Any]:  # noqa: D102 - see Strategy
        return self._rule.correction()

    def fault(self, update: Contribution) -> str:  # noqa: D102 - see Strategy
        return next(filter(None, (stage.fault(update) for stage in self._stages)), "")

    def begin(self, contributions: Sequence[Contribution]) -> None:  # noqa: D102 - see Strategy
        self._facts = contributions
        self._left = []
        for stage in self._following:
            stage.begin(contributions)
        self._begin_next(dict.fromkeys(range(len(contributions)), 1.0))

    def measure(self, number: int, block: Block) -> None:  # noqa: D102 - see Strategy
        at, own = 0, number
        while own >= self._measuring[at].passes:
            own -= self._measuring[at].passes
            at += 1
        self._reach(at)
        self._measuring[at].measure(own, self._seen_by(at, block))

    def combine(self, block: Block) -> None:  # noqa: D102 - see Strategy
        last = len(self._measuring) - 1
        self._reach(last)
        self._rule.combine(self._seen_by(last, block))
        for stage in self._following:
            stage.combine(block)

    def combine_buffer(self, block: Block) -> None:  # noqa: D102 - see Strategy
        at = self._of_buffers or 0
        self._measuring[at].combine_buffer(_Seen(block, self._left[at], "models", "models"))

    def integers_of(self) -> Sequence[int]:  # noqa: D102 - see Strategy
        at = self._of_buffers or 0
        left = list(self._left[at])
        return [left[place] for place in self._measuring[at].integers_of()] or left

    def bears(self, updates: int) -> int:  # noqa: D102 - see Strategy
        if self._selector is None:
            return self._rule.bears(updates)
        return max(self._selector.bears(updates), self._rule.bears(self._selector.leaves(updates)))

    def shares(self) -> Sequence[float]:  # noqa: D102 - see Strategy
        self._reach(len(self._measuring) - 1)
        left = self._left[-1]
        found = self._rule.shares()
        if not found and len(left) < len(self._facts):  # what was left out is no part of buffers either
            counts = [self._facts[index].num_examples for index in left]
            found = [count / sum(counts) for count in counts]
        if not found:
            return found
        shares = [0.0] * len(self._facts)
        for (index, factor), share in zip(left.items(), found, strict=True):
            shares[index] = share * factor
        return shares

    def notes(self) -> Sequence[Mapping[str, float]]:  # noqa: D102 - see Strategy
        notes: list[dict[str, float]] = [{} for _ in self._facts]
        steps = zip(self._measuring, self._left, self._names, self._shadowed, strict=True)
        for stage, left, name, hidden in steps:
            for index, note in zip(left, stage.notes() or [{}] * len(left), strict=True):
                notes[index].update(note)
                notes[index].update({f"{name}.{fact}": note[fact] for fact in hidden})
        return notes

    def _reach(self, at: int) -> None:
        """Let stages begin up to this one, each on what those before it have left."""
        while len(self._left) <= at:
            self._begin_next(_left_by(self._measuring[len(self._left) - 1], self._left[-1]))

    def _begin_next(self, left: dict[int, float]) -> None:
        stage = self._measuring[len(self._left)]
        if len(left) < stage.min_updates:
            raise UpdateRejectedError(
                f"{len(left)} of {len(self._facts)} updates were selected, "
                f"but {type(stage).__name__} needs {stage.min_updates}"
            )
        self._left.append(left)
        stage.begin([self._facts[index] for index in left])

    def _seen_by(self, at: int, block: Block) -> Block:
        left, wants = self._left[at], self._measuring[at].wants
        if wants == self.wants and len(left) == len(self._facts) and set(left.values()) == {1.0}:
            return block
        return _Seen(block, left, self.wants, wants)


def _shadowed(stages: Sequence[Strategy]) -> list[tuple[str, ...]]:
    """Return, for each stage, which of its measures a later one has, too: they are kept by its name."""
    return [
        tuple(fact for fact in stage.measures if any(fact in later.measures for later in stages[at + 1 :]))
        for at, stage in enumerate(stages)
    ]


def _left_by(stage: Strategy, left: Mapping[int, float]) -> dict[int, float]:
    """Return which updates a stage leaves to the next one, and what each is multiplied by."""
    if stage.step == "scaling":
        pairs = zip(left.items(), stage.factors(), strict=True)
        return {index: factor * further for (index, factor), further in pairs}
    return {
        index: factor for (index, factor), share in zip(left.items(), stage.shares(), strict=True) if share
    }


class _Seen:
    """A block as the steps so far leave it to the next one; see `strategies.base.Block`.

    The difference of a local model is that from the model as it is now, also where the update
    started from an older one: it is as far as the update would move the model.
    """

    def __init__(self, block: Block, left: Mapping[int, float], has: Form, wants: Form) -> None:
        self._block = block
        self._left = left
        self._has = has
        self._wants = wants

    @property
    def place(self) -> int:
        return self._block.place

    @property
    def version(self) -> int:
        return self._block.version

    @property
    def is_first(self) -> bool:
        return self._block.is_first

    @property
    def agents(self) -> int:
        return self._block.agents

    @property
    def base(self) -> Values:
        return self._block.base

    @property
    def out(self) -> Values:
        return self._block.out

    @property
    def state(self) -> Mapping[str, Values]:
        return self._block.state

    def updates(self, channel: str = "weights") -> Iterator[Values]:
        for index, values in enumerate(self._block.updates(channel)):
            if index in self._left:
                yield self._changed(values, self._left[index]) if channel == "weights" else values

    def _changed(self, values: Values, factor: float) -> Values:
        if factor == 1.0 and self._has == self._wants:
            return values  # bit for bit
        if self._has == "models":
            values -= self.base
        if factor != 1.0:
            values *= values.dtype.type(factor)
        if self._wants == "models":
            values += self.base
        return values

    def stack(self, channel: str = "weights") -> Values:
        rows: Values = np.empty((len(self._left), self.base.size), self.base.dtype)
        for row, values in zip(rows, self.updates(channel), strict=True):
            row[:] = values
        return rows


def _with_rule(steps: Sequence[Named]) -> list[Named]:
    """Let FedAvg combine the updates, where no step does."""
    if any(strategy.step == "rule" for _, strategy in steps):
        return list(steps)
    before = [named for named in steps if named[1].step == "scaling"]
    if list(steps[: len(before)]) != before:
        return list(steps)  # out of order: refused below
    return [*before, ("fedavg", FedAvg()), *steps[len(before) :]]


def _check(steps: Sequence[Named]) -> None:
    """Refuse steps that make no sense together.

    Raises:
        SettingsError: With the reason.
        StrategyError: If two call their state alike, or one that follows the rule would measure.
    """
    for (name, step), (other, following) in pairwise(steps):
        if _ORDER.index(following.step) < _ORDER.index(step.step):
            raise SettingsError(f"strategy: {other} after {name}: {_PLACE[following.step]}")
        if following.step == step.step and step.step in _ONCE:
            raise SettingsError(f"strategy: {name} and {other}: {_ONCE[step.step]}")
    _check_rules([named for named in steps if named[1].step == "rule"])
    for name, step in steps:
        others = [other for other, one in steps if one is not step and one.step != "noise"]
        reason = step.alone or ("it combines bytes, not arrays" if step.takes_free else "")
        if reason and others:
            raise SettingsError(f"strategy: {others[0]} does not go with {name}: {reason}")
    _check_contracts(steps)


def _check_rules(rules: Sequence[Named]) -> None:
    if len(rules) < 2:
        return
    (first, rule), (second, following), *more = rules
    if not rule.selects:
        raise SettingsError(
            f"strategy: {first} and {second} both combine the updates: leave one of them out; "
            "before another rule only one that selects among them may stand, such as krum"
        )
    if more:
        raise SettingsError(
            f"strategy: {first}, {second} and {more[0][0]}: one rule may select updates, and one combine them"
        )
    if following.requires:
        raise SettingsError(
            f"strategy: {first} before {second}: it may leave out the update of {following.requires[0]}, "
            f"without which {second} combines nothing"
        )
    if _enough(rule, following) is None:
        left = rule.leaves(MOST_UPDATES)
        raise SettingsError(
            f"strategy: {first} before {second}: {left} update{'s are' if left > 1 else ' is'} left, but "
            f"{second} needs {following.min_updates}: {following.why_least}"
        )


def _enough(selector: Strategy, rule: Strategy) -> int | None:
    """Return the fewest updates of which a selecting rule leaves enough to the rule behind it; None: none."""
    tried = range(max(selector.min_updates, rule.min_updates), MOST_UPDATES + 1)
    return next((updates for updates in tried if selector.leaves(updates) >= rule.min_updates), None)


def _check_contracts(steps: Sequence[Named]) -> None:
    names = [state for _, step in steps for state in step.state]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StrategyError(f"strategy: two steps call their state {min(twice)!r}")
    for name, step in steps:
        if step.step in ("optimizer", "noise") and step.passes:
            raise StrategyError(f"strategy: {name} measures updates, which a step after the rule cannot do")
