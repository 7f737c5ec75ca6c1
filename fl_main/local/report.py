"""What is told of a local run: of each round when it is done, and of all in the end."""

from collections.abc import Callable

from fl_main.local.contract import LocalRound
from fl_main.local.models import Models
from fl_main.local.parts import Parts
from fl_main.local.traffic import Traffic
from fl_main.store import MetricRecord, Record, RoundRecord, UpdateRecord
from fl_main.training import Kind


class Report:
    """Reads a run's records.

    Args:
        on_round: Called with each new global model.
        models: By the ids in the records.
        parts: Of a model.
        traffic: Of the run.

    Attributes:
        metrics: By round: its means over the sites.
    """

    def __init__(
        self,
        on_round: Callable[[LocalRound], None] | None,
        models: Models,
        parts: Parts,
        traffic: Traffic,
    ) -> None:
        self.metrics: dict[int, dict[str, float]] = {}
        self._on_round = on_round
        self._models = models
        self._parts = parts
        self._traffic = traffic
        self._staleness: list[int] = []  # of the updates in the next model
        self._told = 0  # the last round that somebody was told of

    def note(self, record: Record, at: float) -> None:
        """Take a record, written at a virtual time."""
        if isinstance(record, MetricRecord) and record.agent_id is None:
            row = self.metrics.setdefault(record.round_id, {"round": record.round_id})
            row[f"{record.source}_{record.name}"] = record.value
        elif isinstance(record, UpdateRecord) and record.counted_in is not None and record.kind is Kind.TRAIN:
            self._staleness.append(record.staleness or 0)
        elif isinstance(record, RoundRecord) and record.status == "done" and record.round_id > self._told:
            self._told = record.round_id
            self._tell(record, at)

    def _tell(self, record: RoundRecord, at: float) -> None:
        staleness, self._staleness = self._staleness, []
        if self._on_round is not None:
            weights = self._parts.whole(self._models.arrays(record.model_id))
            effort = (record.busy_s, record.wasted_s, record.idle_s)
            self._on_round(
                LocalRound(record.round_id, at, weights, staleness, *effort, *self._traffic.since())
            )
