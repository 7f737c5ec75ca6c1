"""Federated learning over WebSockets: the core that agents and the aggregator share.

The programs live beside it: `fl_main.agent` (the library that client applications embed),
`fl_main.aggregator` (the daemon) and `fl_main.db` (the model database).
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING

from fl_main.lazy import loader as _loader

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
    "run_local": ".local",
    "Evaluation": ".training",
    "TrainResult": ".training",
    "TrainingTask": ".training",
}

__getattr__ = _loader(__name__, _HOMES)  # `import fl_main` stays light
