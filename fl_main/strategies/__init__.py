"""Strategies: rules from the updates of a round to the next global model."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from fl_main.errors import SettingsError, StrategyError
from fl_main.settings import RunSettings
from fl_main.strategies.base import Block, Contribution, Strategy
from fl_main.strategies.fedavg import FedAvg

__all__ = ["STRATEGIES", "Block", "Contribution", "FedAvg", "Strategy", "make_strategy", "strategy_of"]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {"fedavg": FedAvg}


def strategy_of(settings: RunSettings) -> Strategy:
    """Return a fresh strategy as a run's settings name it, checked against the rest of them.

    Raises:
        SettingsError: If there is no such strategy, or it does not go with other settings.
    """
    strategy = make_strategy(settings.strategy, settings.strategy_options)
    if settings.payload == "free" and not strategy.takes_free:
        raise SettingsError(f"payload: free: the strategy {settings.strategy} combines arrays, not bytes")
    if settings.round.late_updates == "count" and not strategy.late_allowed:
        raise SettingsError(
            f"round.late_updates: count: the strategy {settings.strategy} is not valid with late updates"
        )
    return strategy


def make_strategy(name: str, options: Mapping[str, Any]) -> Strategy:
    """Return a fresh strategy by its name in the settings.

    Args:
        name: An entry of `STRATEGIES`, or `package.module:Class` of the user's own.
        options: Keyword arguments of its constructor.

    Raises:
        SettingsError: If there is no such strategy or it does not take these options.
    """
    factory = _imported(name) if ":" in name else STRATEGIES.get(name)
    if factory is None:
        known = ", ".join(sorted(STRATEGIES))
        raise SettingsError(f"strategy: {name!r} is not one of {known}, nor package.module:Class")
    try:
        strategy = factory(**options)
    except TypeError as error:
        raise SettingsError(f"strategy_options: {name} does not take them: {error}") from error
    if not isinstance(strategy, Strategy):
        raise StrategyError(f"strategy: {name} gives {type(strategy).__name__}, not a Strategy")
    if not set(strategy.down) <= set(strategy.state):
        raise StrategyError(f"strategy: {name} sends down channels that are not among its state")
    if "weights" in (*strategy.state, *strategy.up):
        raise StrategyError(f"strategy: {name} calls a channel 'weights', which is the model's own")
    return strategy


def _imported(path: str) -> Callable[..., Strategy]:
    module_name, _, attribute = path.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise SettingsError(f"strategy: {path!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise SettingsError(f"strategy: {path!r} is not a class or function")
    return factory  # type: ignore[no-any-return] # checked when it is called
