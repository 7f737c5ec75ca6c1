"""The model database: SQLite for facts, one `.safetensors` file per model.

`ModelDB` is for looking into one; `ModelStore` is what the daemon writes with. What changes a database
beside a daemon are functions that take a `ModelDB`: `replay`, `prune`, `withdraw`.
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
from fl_main.lazy import loader

if TYPE_CHECKING:
    from .audit import Damage, Fault
    from .frames import to_frame
    from .history import Note
    from .insight.asking import Answer
    from .insight.comparison import Comparison, Line, MetricLine
    from .insight.curves import Curve
    from .insight.difference import ArrayDifference
    from .insight.heat import Heat
    from .insight.lineage import Edge, Lineage, Node, Origin
    from .insight.ranking import Standing
    from .insight.statistics import ArrayHistogram
    from .insight.timeline import Mark, Span, Timeline
    from .insight.usage import Share, Usage
    from .model_db import ModelDB
    from .records import Agent, ArrayFacts, Effort, Event, Mean, Metric, Parent, Round, RunFacts, Update
    from .runs_and_models import Model, Run
    from .store import ModelStore
    from .transfer.archive import Archived, archive_run
    from .transfer.card import Wishes, card_model, model_card
    from .transfer.export import export_model
    from .transfer.importing import Imported, import_model
    from .transfer.reading_back import ReadBack, import_archive
    from .upkeep.prune import Going, Keep, Pruned, plan_prune, prune
    from .upkeep.tag import Tagged, tag_model
    from .upkeep.withdraw import Influenced, SharedFile, Withdrawal, WithdrawnRun, plan_withdrawal, withdraw
    from .verify import verify_database
    from .whatif.contributions import contributions
    from .whatif.records import (
        Contribution,
        Contributions,
        Replay,
        ReplayedRound,
        RoundContributions,
    )
    from .whatif.replay import replay

_HOMES = {
    **dict.fromkeys(("Damage", "Fault"), ".audit"),
    "Note": ".history",
    **dict.fromkeys(("Archived", "archive_run"), ".transfer.archive"),
    **dict.fromkeys(("Wishes", "card_model", "model_card"), ".transfer.card"),
    "export_model": ".transfer.export",
    **dict.fromkeys(("Imported", "import_model"), ".transfer.importing"),
    **dict.fromkeys(("ReadBack", "import_archive"), ".transfer.reading_back"),
    "to_frame": ".frames",
    "Answer": ".insight.asking",
    **dict.fromkeys(("Comparison", "Line", "MetricLine"), ".insight.comparison"),
    "Curve": ".insight.curves",
    "ArrayDifference": ".insight.difference",
    "Heat": ".insight.heat",
    **dict.fromkeys(("Edge", "Lineage", "Node", "Origin"), ".insight.lineage"),
    "Standing": ".insight.ranking",
    "ArrayHistogram": ".insight.statistics",
    **dict.fromkeys(("Mark", "Span", "Timeline"), ".insight.timeline"),
    **dict.fromkeys(("Share", "Usage"), ".insight.usage"),
    "ModelDB": ".model_db",
    **dict.fromkeys(("Agent", "ArrayFacts", "Effort", "Event", "Mean", "Metric"), ".records"),
    **dict.fromkeys(("Parent", "Round", "RunFacts", "Update"), ".records"),
    **dict.fromkeys(("Model", "Run"), ".runs_and_models"),
    "ModelStore": ".store",
    **dict.fromkeys(("Going", "Keep", "Pruned", "plan_prune", "prune"), ".upkeep.prune"),
    **dict.fromkeys(("Tagged", "tag_model"), ".upkeep.tag"),
    **dict.fromkeys(("Influenced", "SharedFile", "Withdrawal", "WithdrawnRun"), ".upkeep.withdraw"),
    **dict.fromkeys(("plan_withdrawal", "withdraw"), ".upkeep.withdraw"),
    "verify_database": ".verify",
    "contributions": ".whatif.contributions",
    **dict.fromkeys(("Contribution", "Contributions", "RoundContributions"), ".whatif.records"),
    **dict.fromkeys(("Replay", "ReplayedRound"), ".whatif.records"),
    "replay": ".whatif.replay",
}

__all__ = [
    "Agent",
    "Answer",
    "Archived",
    "ArrayDifference",
    "ArrayFacts",
    "ArrayHistogram",
    "Comparison",
    "Contribution",
    "Contributions",
    "Curve",
    "Damage",
    "Edge",
    "Effort",
    "Event",
    "Fault",
    "Going",
    "Heat",
    "Imported",
    "Influenced",
    "Keep",
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
    "Note",
    "Origin",
    "Parent",
    "Pruned",
    "ReadBack",
    "Replay",
    "ReplayedRound",
    "Round",
    "RoundContributions",
    "Run",
    "RunFacts",
    "Share",
    "SharedFile",
    "Span",
    "Standing",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "Tagged",
    "Timeline",
    "Update",
    "Usage",
    "Wishes",
    "Withdrawal",
    "WithdrawnRun",
    "archive_run",
    "card_model",
    "contributions",
    "export_model",
    "import_archive",
    "import_model",
    "model_card",
    "plan_prune",
    "plan_withdrawal",
    "prune",
    "replay",
    "tag_model",
    "to_frame",
    "verify_database",
    "withdraw",
]

__getattr__ = loader(__name__, _HOMES)  # who looks into a database waits for none that writes
