"""The daemon that runs rounds: `async with Aggregator(settings, runs): …`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_main.settings import AggregatorSettings, RunSettings

    from .app import Aggregator

__all__ = ["Aggregator", "AggregatorSettings", "RunSettings"]

_HOMES = {
    "Aggregator": "fl_main.aggregator.app",
    "AggregatorSettings": "fl_main.settings",
    "RunSettings": "fl_main.settings",
}


def __getattr__(name: str) -> object:
    """Load a part when it is first used: who asks a daemon need not load one."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_main.aggregator' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
