"""check_strategy passes what keeps the laws, and says of what breaks one which it is."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fl_main.errors import SettingsError, StrategyError
from fl_main.strategies import Block, Contribution, FedAvg, Strategy
from fl_main.testing import LAWS, check_strategy
from fl_main.testing.conformance import ALWAYS
from tests.test_imports import ROOT

HERE = "tests.fl_main.testing.test_conformance"
OWN = "examples.own_strategy.cautious:Cautious"


def test_the_example_of_the_docs_keeps_the_laws_but_those_that_it_names() -> None:
    assert check_strategy(OWN, {"most": 0.5}) == {
        "equal": "what is far is not reached",
        "scale": "most is a length",
    }


def test_the_example_of_the_docs_is_short() -> None:
    text = (ROOT / "examples" / "own_strategy" / "cautious.py").read_text()
    assert len([line for line in text.splitlines()[1:] if line.strip()]) <= 15
    assert f'check_strategy("{OWN}", {{"most": 0.5}})' in (ROOT / "docs" / "strategies.md").read_text()


def test_strategies_of_the_table_and_steps_are_checked_by_their_names() -> None:
    assert check_strategy("fedavg", trials=2) == {}
    assert check_strategy("fltrust", {"root": "st-mary"}, agent="st-mary", trials=2).keys() == {"equal"}
    assert "scale" in check_strategy([{"norm_bound": {"bound": 5.0}}, "median"], trials=2)


class First(FedAvg):
    """Takes the model of the update that happens to stand first."""

    def combine(self, block: Block) -> None:
        block.out[:] = next(block.updates())


class Middle(FedAvg):
    """Takes the model of the update that stands in the middle."""

    def combine(self, block: Block) -> None:
        models = list(map(np.copy, block.updates()))
        block.out[:] = models[len(models) // 2]


class Absent(FedAvg):
    """Moves the model only where all agents of the run are there, and counts them twice if not."""

    def begin(self, contributions: Sequence[Contribution]) -> None:
        super().begin(contributions)
        self.here = len(contributions)

    def combine(self, block: Block) -> None:
        super().combine(block)
        block.out[:] *= block.agents / self.here


class Decay(FedAvg):
    def combine(self, block: Block) -> None:
        super().combine(block)
        block.out[:] *= 0.99


class Rounded(FedAvg):
    """Sums products, which leaves equal models equal only but for rounding."""

    def combine(self, block: Block) -> None:
        block.out[:] = 0
        for model, share in zip(block.updates(), self.shares(), strict=True):
            block.out[:] += block.out.dtype.type(share) * model

    exceptions = {"unchanged": "to show the next law"}  # noqa: RUF012


class Large(FedAvg):
    """Lets updates of many examples alone."""

    def begin(self, contributions: Sequence[Contribution]) -> None:
        super().begin([Contribution("a", min(one.num_examples, 100)) for one in contributions])


class Bounded(FedAvg):
    def combine(self, block: Block) -> None:
        super().combine(block)
        np.clip(block.out, -5, 5, out=block.out)

    exceptions = dict.fromkeys(("unchanged", "equal"), "to show the next law")


class Turned(FedAvg):
    def combine(self, block: Block) -> None:
        super().combine(block)
        block.out[:] = block.base + (block.out - block.base) * np.sign(block.base)

    exceptions = dict.fromkeys(("equal",), "to show the next law")


class PerBlock(FedAvg):
    """Scales each block by what is in it."""

    def combine(self, block: Block) -> None:
        super().combine(block)
        change = block.out - block.base
        block.out[:] = block.base + change * float(np.abs(change).mean() > np.abs(block.base).mean())

    exceptions = dict.fromkeys(("equal", "translation"), "to show the next law")


class Drawn(FedAvg):
    def combine(self, block: Block) -> None:
        super().combine(block)
        block.out[:] += np.random.default_rng().normal(size=block.out.size)

    exceptions = dict.fromkeys(set(LAWS) - {"blocks", "again", "restart"}, "to show the next law")


class Remembers(Strategy):
    """Keeps a momentum in the class, where no restart finds it."""

    seen = 0.0

    def combine(self, block: Block) -> None:
        block.out[:] = block.base
        if block.version > 1:
            block.out[:] += Remembers.seen
            Remembers.seen += 1.0

    exceptions = dict.fromkeys(set(LAWS) - {"blocks", "again", "restart"}, "to show the next law")


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (First, "order"),
        (Middle, "order"),
        (Absent, "unchanged"),
        (Decay, "unchanged"),
        (Rounded, "equal"),
        (Large, "examples"),
        (Bounded, "scale"),
        (Turned, "translation"),
        (PerBlock, "blocks"),
        (Drawn, "blocks"),
        (Remembers, "restart"),
    ],
)
def test_what_breaks_a_law_is_told_which_and_with_what(broken: type[Strategy], law: str) -> None:
    with pytest.raises(
        StrategyError, match=rf"^the law '{law}' is broken with Cohort\(seeds=\(.*\): \w.*\. But "
    ):
        check_strategy(f"{HERE}:{broken.__name__}")


def test_what_draws_is_checked_with_a_seed() -> None:
    assert check_strategy("noise", {"std": 1.0}, trials=2).keys() == {"unchanged", "equal", "scale"}
    assert check_strategy(["median", {"noise": {"std": 1.0, "seed": None}}], trials=2)["scale"]


def test_there_is_no_exception_from_bits_that_are_the_same() -> None:
    assert {"blocks", "again", "restart"} == set(ALWAYS)


def test_the_docs_of_the_base_name_the_laws_that_may_have_exceptions() -> None:
    named = re.findall(r"`(\w+)`", (Strategy.__doc__ or "").partition("exceptions:")[2].partition(";")[0])
    assert set(named) == set(LAWS) - set(ALWAYS)


def test_a_strategy_that_is_not_there_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="'nowhere' is not one of"):
        check_strategy("nowhere")


def reports(**given: Any) -> dict[str, str]:
    return check_strategy(f"{HERE}:Reported", trials=2, **given)


class Reported(FedAvg):
    needs = ("num_steps", "loss")

    def begin(self, contributions: Sequence[Contribution]) -> None:
        super().begin(contributions)
        if {update.metrics["loss"] for update in contributions} != {0.5}:
            raise StrategyError("no such loss")
        if not {update.num_steps for update in contributions} <= {7, 8}:
            raise StrategyError("no such steps")


def test_what_updates_report_can_be_stated() -> None:
    assert reports(metrics={"loss": 0.5}, num_steps=(7, 8)) == {}
    with pytest.raises(StrategyError, match="no such loss"):
        reports()
