"""The model database: SQLite for facts, one `.safetensors` file per model.

`ModelDB` is for looking into one; `ModelStore` is what the daemon writes with.
"""

from typing import TYPE_CHECKING

from fl_main.errors import (
    NotFoundError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)

if TYPE_CHECKING:
    from .audit import Damage, Fault
    from .frames import to_frame
    from .insight.comparison import Comparison, Line, MetricLine
    from .insight.curves import Curve
    from .insight.difference import ArrayDifference
    from .insight.heat import Heat
    from .insight.lineage import Edge, Lineage, Node, Origin
    from .insight.ranking import Standing
    from .insight.statistics import ArrayHistogram
    from .insight.timeline import Mark, Span, Timeline
    from .model_db import Model, ModelDB, Run
    from .records import Agent, ArrayFacts, Effort, Event, Mean, Metric, Parent, Round, RunFacts, Update
    from .store import ModelStore
    from .transfer.export import export_model
    from .verify import verify_database

_HOMES = {
    **dict.fromkeys(("Damage", "Fault"), "audit"),
    "export_model": "transfer.export",
    "to_frame": "frames",
    **dict.fromkeys(("Comparison", "Line", "MetricLine"), "insight.comparison"),
    "Curve": "insight.curves",
    "ArrayDifference": "insight.difference",
    "Heat": "insight.heat",
    **dict.fromkeys(("Edge", "Lineage", "Node", "Origin"), "insight.lineage"),
    "Standing": "insight.ranking",
    "ArrayHistogram": "insight.statistics",
    **dict.fromkeys(("Mark", "Span", "Timeline"), "insight.timeline"),
    **dict.fromkeys(("Model", "ModelDB", "Run"), "model_db"),
    **dict.fromkeys(("Agent", "ArrayFacts", "Effort", "Event", "Mean", "Metric"), "records"),
    **dict.fromkeys(("Parent", "Round", "RunFacts", "Update"), "records"),
    "ModelStore": "store",
    "verify_database": "verify",
}

__all__ = [
    "Agent",
    "ArrayDifference",
    "ArrayFacts",
    "ArrayHistogram",
    "Comparison",
    "Curve",
    "Damage",
    "Edge",
    "Effort",
    "Event",
    "Fault",
    "Heat",
    "Line",
    "Lineage",
    "Mark",
    "Mean",
    "Metric",
    "MetricLine",
    "Model",
    "ModelDB",
    "ModelStore",
    "Node",
    "NotFoundError",
    "Origin",
    "Parent",
    "Round",
    "Run",
    "RunFacts",
    "Span",
    "Standing",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Timeline",
    "Update",
    "export_model",
    "to_frame",
    "verify_database",
]


def __getattr__(name: str) -> object:
    """Load a part when it is first used: who looks into a database waits for none that writes."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_main.db' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
