"""Strategies: rules from the updates of a round to the next global model."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from fl_main.errors import FLError, SettingsError, StrategyError
from fl_main.plugins import imported
from fl_main.printable import first_line
from fl_main.settings import RunSettings
from fl_main.settings.reference import one_of
from fl_main.steps import steps_of
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.bulyan import Bulyan
from fl_main.strategies.centred_clipping import CentredClipping
from fl_main.strategies.cyclic import Cyclic
from fl_main.strategies.fedasync import FedAsync
from fl_main.strategies.fedavg import FedAvg
from fl_main.strategies.fedavgm import FedAvgM
from fl_main.strategies.fedbuff import FedBuff
from fl_main.strategies.fedcurv import FedCurv
from fl_main.strategies.feddyn import FedDyn
from fl_main.strategies.fednova import FedNova
from fl_main.strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from fl_main.strategies.fedprox import FedProx
from fl_main.strategies.fedsgd import FedSGD
from fl_main.strategies.fltrust import FLTrust
from fl_main.strategies.geometric_median import GeometricMedian
from fl_main.strategies.krum import Krum, MultiKrum
from fl_main.strategies.median import Median
from fl_main.strategies.noise import Noise
from fl_main.strategies.norm_bound import NormBound
from fl_main.strategies.pipeline import Pipeline
from fl_main.strategies.qfedavg import QFedAvg
from fl_main.strategies.scaffold import Scaffold
from fl_main.strategies.trimmed_mean import TrimmedMean

__all__ = [
    "STRATEGIES",
    "Block",
    "Bulyan",
    "CentredClipping",
    "Contribution",
    "Cyclic",
    "FLTrust",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedCurv",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "GeometricMedian",
    "Krum",
    "Median",
    "MultiKrum",
    "Noise",
    "NormBound",
    "Pipeline",
    "QFedAvg",
    "Scaffold",
    "Strategy",
    "TrimmedMean",
    "compose",
    "make_strategy",
    "options_of",
    "strategy_of",
]

OPTIONS = "strategy_options"  # what errors of options begin with

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedbuff": FedBuff,
    "fedasync": FedAsync,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "geometric_median": GeometricMedian,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "centred_clipping": CentredClipping,
    "fltrust": FLTrust,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedcurv": FedCurv,
    "norm_bound": NormBound,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "noise": Noise,
    "fedsgd": FedSGD,
    "fednova": FedNova,
    "qfedavg": QFedAvg,
    "cyclic": Cyclic,
}


def strategy_of(settings: RunSettings) -> Strategy:
    """Return a fresh strategy as a run's settings name it, checked against the rest of them.

    Raises:
        SettingsError: If there is no such strategy, or it does not go with other settings.
    """
    strategy = compose(settings.strategy, settings.strategy_options)
    if settings.payload == "free" and not strategy.takes_free:
        raise SettingsError(
            f"payload: free: the strategy {settings.strategy_name} combines arrays, not bytes"
        )
    _check_mode(settings, strategy)
    _check_least(settings, strategy)
    _check_turns(settings, strategy)
    _check_required(settings, strategy)
    _check_exact(settings, strategy)
    if settings.quarantine.rounds and "distance" not in strategy.measures:
        raise SettingsError(
            f"quarantine.rounds: {settings.quarantine.rounds}: the strategy {settings.strategy_name} "
            "measures no distances, by which outliers are told; give a robust one (median, multi_krum, …)"
        )
    return strategy


def compose(strategy: str | list[Any], options: Mapping[str, Any] | None = None) -> Strategy:
    """Return a fresh strategy of the steps that the settings' key `strategy` states.

    Args:
        strategy: A name, or a list of steps: names, or mappings of one name to its options.
        options: Those of one name.

    Returns:
        The rule itself where there is nothing else, else a `Pipeline`.

    Raises:
        SettingsError: If a step or an option is unknown, or steps make no sense together.
    """
    if isinstance(strategy, str):
        found = make_strategy(strategy, options or {})
        return found if found.step == "rule" else Pipeline([(strategy, found)])
    steps = enumerate(steps_of(strategy))
    return Pipeline([(name, _step(number, name, own)) for number, (name, own) in steps])


def _step(number: int, name: str, options: Mapping[str, Any]) -> Strategy:
    """Return one step of several; errors say where its options stand."""
    try:
        return make_strategy(name, options)
    except SettingsError as error:
        said = str(error)
        if not said.startswith(OPTIONS):
            raise
        said = said.removeprefix(OPTIONS).removeprefix(f": {name}")
        raise SettingsError(f"strategy.{number}.{name}{said}") from error


def _check_turns(settings: RunSettings, strategy: Strategy) -> None:
    """Refuse cohorts of more than one agent, where a round is the turn of one."""
    cohort, least = settings.cohort, settings.round.min_updates
    goes_round = (cohort.rule, cohort.number) == ("number", 1) and cohort.choose != "random"
    if strategy.in_turn and not (goes_round or ":" in cohort.rule):
        raise SettingsError(
            f"cohort: in the strategy {settings.strategy_name} a round is the turn of one agent: give "
            "cohort: {rule: number, number: 1, choose: in_turn}, or a rule of your own that chooses one"
        )
    if strategy.in_turn and cohort.over_selection > 1:
        raise SettingsError(
            f"cohort.over_selection: {cohort.over_selection:g}, but in the strategy {settings.strategy_name} "
            "a round is the turn of one agent: leave it out"
        )
    if strategy.in_turn and least > 1:
        raise SettingsError(
            f"round.min_updates: {least}, but in the strategy {settings.strategy_name} every global model is "
            "one site's: give round.min_updates: 1 if it may go to the others"
        )


def _check_exact(settings: RunSettings, strategy: Strategy) -> None:
    """Refuse codecs, which all leave something out, where updates must come as they were made."""
    if strategy.exact and (codec := settings.compression.codec) != "none":
        raise SettingsError(
            f"compression.codec: {codec}: it does not go with the strategy {settings.strategy_name}: "
            f"{strategy.exact}; give compression.codec: none"
        )


def _check_mode(settings: RunSettings, strategy: Strategy) -> None:
    mode, name = settings.mode, settings.strategy_name
    if mode not in strategy.modes:
        raise SettingsError(
            f"mode: {mode}: the strategy {name} is not valid in it: {strategy.why_not}; "
            f"give mode: {one_of(strategy.modes)}, or another strategy"
        )
    if mode == "async" and settings.payload == "free":
        raise SettingsError(
            "mode: async: its updates travel as differences, which payload: free does not have; "
            "give mode: sync or semi-sync"
        )
    least = max(settings.round.min_updates, strategy.min_updates)
    if mode != "sync" and settings.round.buffer is None and (strategy.buffer or least) < least:
        raise SettingsError(
            f"round.min_updates: {least}, but the strategy {name} publishes after {strategy.buffer}; give "
            f"round.buffer: {least}, or round.min_updates: {strategy.buffer} if the model of so few sites "
            "may go to the others"
        )


def _check_least(settings: RunSettings, strategy: Strategy) -> None:
    """Refuse rounds of fewer updates than a robust rule needs to be one."""
    given, least, name = settings.round, strategy.min_updates, settings.strategy_name
    if strategy.why_least and given.min_updates < least:
        raise SettingsError(
            f"round.min_updates: {given.min_updates}, but the strategy {name} needs {least}: "
            f"{strategy.why_least}; give round.min_updates: {least} and as many round.min_agents"
        )


def _check_required(settings: RunSettings, strategy: Strategy) -> None:
    """Refuse rounds that may do without an agent whom the strategy needs."""
    if not strategy.requires:
        return
    needed = f"the strategy {settings.strategy_name} needs {', '.join(strategy.requires)} in every round"
    if settings.cohort.rule != "all":
        raise SettingsError(f"cohort.rule: {settings.cohort.rule}: {needed}; give cohort.rule: all")
    if settings.round.quorum < 1:
        raise SettingsError(f"round.quorum: {settings.round.quorum:g}: {needed}; give round.quorum: 1.0")


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """Return a fresh strategy by its name in the settings.

    Args:
        name: An entry of `STRATEGIES`, or `package.module:Class` of the user's own.
        options: Keyword arguments of its constructor.

    Raises:
        SettingsError: If there is no such strategy or it does not take these options.
    """
    factory = _factory(name)
    if isinstance(factory, type) and not issubclass(factory, Strategy):  # so that none is made, either
        raise StrategyError(f"strategy: {name} is a class of another kind, not a Strategy")
    strategy = _made(name, factory, options)
    if not isinstance(strategy, Strategy):
        raise StrategyError(f"strategy: {name} gives {type(strategy).__name__}, not a Strategy")
    if not set(strategy.down) <= set(strategy.state):
        raise StrategyError(f"strategy: {name} sends down channels that are not among its state")
    if "weights" in (*strategy.state, *strategy.up):
        raise StrategyError(f"strategy: {name} calls a channel 'weights', which is the model's own")
    _check_correction(name, strategy)
    return strategy


def _check_correction(name: str, strategy: Strategy) -> None:
    """Ask once what would go with every task: nobody could be told there that it cannot be said."""
    try:
        json.dumps(dict(strategy.correction()))
    except Exception as error:  # a method of the user's own may raise anything
        raise StrategyError(
            f"strategy: {name}: correction() must return a mapping of texts, numbers and lists: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a strategy's options.

    Raises:
        SettingsError: If there is no such strategy.
    """
    return tuple(inspect.signature(_factory(name)).parameters)


def _factory(name: str) -> Callable[..., Any]:
    factory = imported(name, "strategy") if ":" in name else STRATEGIES.get(name)
    if factory is None:
        known = ", ".join(sorted(STRATEGIES))
        raise SettingsError(f"strategy: {name!r} is not one of {known}, nor package.module:Class")
    return factory


def _made(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return factory(**options)
    except FLError:
        raise
    except Exception as error:  # a constructor of the user's own may raise anything
        said = " ".join(str(error).rpartition("() ")[2].split()) or type(error).__name__
        taken = ", ".join(options_of(name)) or "none"
        raise SettingsError(f"strategy_options: {name}: {said}; its options: {taken}") from error
