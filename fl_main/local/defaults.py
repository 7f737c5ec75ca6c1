"""What the settings of a local run are where nobody states them."""

from collections.abc import Mapping
from typing import Any


def rounds_of(sites: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `round`: a sync round needs every site unless the settings say otherwise."""
    waits_for_all = settings.get("mode", "sync") == "sync"
    defaults: dict[str, Any] = {"min_agents": sites, "min_updates": sites if waits_for_all else 1}
    if "round" not in settings:
        defaults["max_failed_rounds"] = 1
    return {**defaults, **settings.get("round", {})}
