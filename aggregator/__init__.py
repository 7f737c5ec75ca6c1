"""The daemon that runs rounds: `async with Aggregator(settings, runs): …`."""

from fl_main.settings import AggregatorSettings, RunSettings

from .app import Aggregator

__all__ = ["Aggregator", "AggregatorSettings", "RunSettings"]
