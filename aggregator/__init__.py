"""The daemon that runs rounds: `async with Aggregator(settings, runs): …`."""

from typing import TYPE_CHECKING

from fl_main.lazy import loader

if TYPE_CHECKING:
    from fl_main.settings import AggregatorSettings, RunSettings

    from .app import Aggregator

__all__ = ["Aggregator", "AggregatorSettings", "RunSettings"]

_HOMES = {
    "Aggregator": ".app",
    "AggregatorSettings": "fl_main.settings",
    "RunSettings": "fl_main.settings",
}

__getattr__ = loader(__name__, _HOMES)  # who asks a daemon need not load one
