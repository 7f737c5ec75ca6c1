"""The model database: SQLite for facts, one `.safetensors` file per model.

`ModelDB` is for looking into one; `ModelStore` is what the daemon writes with.
"""

from fl_main.errors import (
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreVersionError,
)

from .audit import Damage, Fault
from .export import export_model
from .model_db import Model, ModelDB, Run
from .records import Agent, ArrayFacts, Effort, Event, Mean, Metric, Parent, Round, RunFacts, Update
from .store import ModelStore
from .verify import verify_database

__all__ = [
    "Agent",
    "ArrayFacts",
    "Damage",
    "Effort",
    "Event",
    "Fault",
    "Mean",
    "Metric",
    "Model",
    "ModelDB",
    "ModelStore",
    "Parent",
    "Round",
    "Run",
    "RunFacts",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Update",
    "export_model",
    "verify_database",
]
