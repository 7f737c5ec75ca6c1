"""What a measurement of the codecs leaves behind: every single figure, and the machine."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.codecs.tasks import Outcome
from bench.rounds.record import begun as begun_rounds
from bench.rounds.record import write_by_line


@dataclass(frozen=True, slots=True)
class Cost:
    """What a codec costs for an update of 25 MB of float32.

    Attributes:
        case: Its key in `CASES`.
        part: Bytes that travel, of those of the model.
        encode: Processor time of encoding, in times of copying the model; the median of some turns.
        decode: The same of decoding.
    """

    case: str
    part: float
    encode: float
    decode: float


@dataclass(frozen=True, slots=True)
class Training:
    """What came of one training."""

    task: str
    case: str
    seed: int
    outcome: Outcome


@dataclass(slots=True)
class Record:
    """All of it."""

    machine: dict[str, str]
    began: str
    costs: list[Cost] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write it as JSON, a line for each figure."""
        write_by_line(file, asdict(self), "costs", "trainings")


def begun() -> Record:
    """Return an empty record of this machine and moment."""
    made = begun_rounds()
    return Record(made.machine, made.began)


def read(file: Path) -> Record:
    """Return a record that was written."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    costs = [Cost(**cost) for cost in found.pop("costs")]
    trainings = [Training(**{**row, "outcome": Outcome(**row["outcome"])}) for row in found.pop("trainings")]
    return Record(**found, costs=costs, trainings=trainings)
