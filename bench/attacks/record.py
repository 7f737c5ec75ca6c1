"""What a measurement of attacks leaves behind: every single accuracy, and the machine."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.rounds.record import begun as begun_rounds
from bench.rounds.record import write_by_line


@dataclass(frozen=True, slots=True)
class Training:
    """What came of one training.

    Attributes:
        rule: Its key in `RULES`; `attack`: its key in `ATTACKS`, or `NONE`.
        attackers: How many sites attacked.
        accuracy: On examples that no site has.
    """

    task: str
    rule: str
    attack: str
    attackers: int
    seed: int
    accuracy: float


@dataclass(slots=True)
class Record:
    """All of it."""

    machine: dict[str, str]
    began: str
    trainings: list[Training] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write it as JSON, a line for each training."""
        write_by_line(file, asdict(self), "trainings")


def begun() -> Record:
    """Return an empty record of this machine and moment."""
    made = begun_rounds()
    return Record(made.machine, made.began)


def read(file: Path) -> Record:
    """Return a record that was written."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return Record(**{**found, "trainings": [Training(**row) for row in found["trainings"]]})
