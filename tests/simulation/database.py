"""The real model database in a simulation: killed, or refused, at every statement."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_main.db import ModelStore
from fl_main.settings import DatabaseSettings
from fl_main.store import Record

from .machine import Machine, SimDisk
from .process import Process
from .watch import Watch


class SimStore(ModelStore):
    """A `ModelStore` on a simulated machine: real SQLite, in a real file.

    A process that is killed within a transaction leaves what SQLite finds after a crash: the
    state before it. That SQLite itself keeps this promise is not tested here.
    """

    def __init__(
        self, folder: Path, settings: DatabaseSettings, machine: Machine, process: Process, watch: Watch
    ) -> None:
        self._process = process
        self._watch = watch
        self._place = folder
        self._machine = machine
        super().__init__(folder, settings, process.ports().wall_time, SimDisk(machine, process))
        process.at_the_end(self._abandoned)

    def _stop(self, point: str) -> None:
        self._process.call(f"SQLite's {point}")
        fault = self._machine.database_fault
        if fault is not None:
            error = sqlite3.OperationalError(fault[1])
            error.sqlite_errorname = fault[0]
            raise error

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        self._stop({"BEGIN IMMEDIATE": "begin", "COMMIT": "commit"}.get(statement, "execute"))
        super()._execute(statement, values)

    def _write(self, statement: str, table_rows: list[dict[str, Any]]) -> None:
        self._stop("execute")
        super()._write(statement, table_rows)

    def commit(self, records: Sequence[Record], at: float) -> None:
        super().commit(records, at)
        self._watch.stored(self._place)
        self._process.call("just after a commit")

    def prune(self) -> int:
        freed = super().prune()
        self._watch.stored(self._place)
        return freed

    def _abandoned(self) -> None:
        """What the system does for a dead process: its files are closed, nothing is committed."""
        if self._is_open:
            self._is_open = False
            self._dispose()
