"""Federated learning over WebSockets: the core that agents and the aggregator share.

The programs live beside it: `fl_main.agent` (the library that client applications embed),
`fl_main.aggregator` (the daemon) and `fl_main.db` (the model database).
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Evaluation", "TrainResult", "TrainingTask", "__version__", "run_local"]

# In a checkout agent/, aggregator/ and db/ lie beside this folder, not in it; an
# installed copy has them inside. Look beside only where nothing lies inside.
if not (_Path(__file__).parent / "agent").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))

if TYPE_CHECKING:
    from fl_main.local import run_local
    from fl_main.training import Evaluation, TrainingTask, TrainResult

_HOMES = {
    "run_local": "fl_main.local",
    "Evaluation": "fl_main.training",
    "TrainResult": "fl_main.training",
    "TrainingTask": "fl_main.training",
}


def __getattr__(name: str) -> object:
    """Load public names when they are first used, so that `import fl_main` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_main' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
