"""The library that client applications embed to take part in federated training."""

from fl_main.errors import (
    ConnectionFailedError,
    FencedError,
    FLError,
    LayoutMismatchError,
    RefusedError,
    RunFailedError,
    StateFolderError,
    UpdateRejectedError,
    WeightsError,
)
from fl_main.training import Evaluation, NamedArrays, TrainResult
from fl_main.weights import Role

from .asynchronous import AsyncAgent, AsyncTask
from .blocking import Agent, Task
from .connection import Final, Receipt
from .exchange import AgentState, Invitation

__all__ = [
    "Agent",
    "AgentState",
    "AsyncAgent",
    "AsyncTask",
    "ConnectionFailedError",
    "Evaluation",
    "FLError",
    "FencedError",
    "Final",
    "Invitation",
    "LayoutMismatchError",
    "NamedArrays",
    "Receipt",
    "RefusedError",
    "Role",
    "RunFailedError",
    "StateFolderError",
    "Task",
    "TrainResult",
    "UpdateRejectedError",
    "WeightsError",
]
