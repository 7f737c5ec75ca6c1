"""The model database: SQLite for facts, one `.safetensors` file per model."""

from .store import ModelStore

__all__ = ["ModelStore"]
