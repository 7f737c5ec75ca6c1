"""Looks over the daemon's shoulder: what must hold at every moment, not only in the end."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from fl_main.db.files import ModelFiles
from fl_main.digests import DigestAlgorithm
from fl_main.events import Event
from fl_main.ledger import Outcome
from fl_main.rounds import RoundMachine
from fl_main.store import EventRecord, TaskRecord, TaskStatus
from fl_main.training import Kind

from .scenario import Scenario, most_of

MISSED = 3  # visits after which a site that polls may be given up

BUSY = "SELECT agent_id FROM tasks WHERE status IN ('open', 'late')"
FILES = """
    WITH ready AS (
        SELECT model_id FROM updates WHERE verdict = 'accepted' AND counted_in IS NULL AND kind = 'train'
    )
    SELECT digest FROM models WHERE model_id IN (
        SELECT model_id FROM tasks WHERE status IN ('open', 'late')
        UNION SELECT model_id FROM ready
        UNION SELECT parent_id FROM parents JOIN ready USING (model_id)
    )
"""


class Watch:
    """What the daemon decided and stored, from one moment to the next.

    Args:
        scenario: The run.
        broken: Takes every promise that was broken.
        now: Virtual time.
    """

    def __init__(self, scenario: Scenario, broken: list[str], now: Callable[[], float]) -> None:
        self._scenario = scenario
        self._broken = broken
        self._now = now
        self._welcomed: dict[str, float] = {}  # when each site was let in last
        self._polls = {site.name: site.poll_s for site in scenario.sites}

    def stored(self, database: Path) -> None:
        """Look at the database after a transaction, or after files were let go."""
        with sqlite3.connect(database / "fl.db") as connection:
            busy = Counter(agent for (agent,) in connection.execute(BUSY))
            needed = [digest for (digest,) in connection.execute(FILES)]
        connection.close()
        self._break(f"{agent} has {n} open tasks at once" for agent, n in busy.items() if n > 1)
        files = ModelFiles(database, DigestAlgorithm(self._scenario.database["digest"]))
        gone = (digest for digest in needed if not files.path(digest).exists())
        self._break(f"the file {digest} is gone, and a task or an update needs it" for digest in gone)

    def welcomed(self, site: str) -> None:
        """A site was let in."""
        self._welcomed[site] = self._now()

    def decided(self, machine: RoundMachine, outcome: Outcome) -> None:
        """Look at what the round machine decided."""
        for record in outcome.records:
            if isinstance(record, EventRecord) and record.kind == "agent_left":
                self._left(machine, record)
        given = [record for record in outcome.records if isinstance(record, TaskRecord)]
        if any(task.status is TaskStatus.OPEN and task.kind is Kind.TRAIN for task in given):
            self._given(machine)

    def _left(self, machine: RoundMachine, record: EventRecord) -> None:
        name = machine.members[record.agent_id or ""].record.name
        poll_s = self._polls[name]
        if poll_s is None or "did not poll" not in record.details["reason"]:
            return
        silent_s = self._now() - self._welcomed.get(name, -1e9)
        if silent_s < MISSED * poll_s - 1e-6:
            self._break([f"{name} was given up after {silent_s:.1f} s, though it polls every {poll_s:g} s"])

    def _given(self, machine: RoundMachine) -> None:
        """No more train at once than `cohort` allows, those who are away not counted."""
        cohort = self._scenario.run["cohort"]
        if self._scenario.run["mode"] != "async" or cohort["rule"] == "all":
            return
        able = sum(map(self._scenario.trains, self._scenario.sites))
        most = max(most_of(cohort, able), self._scenario.run["round"]["min_updates"])
        at_work = sum(
            machine.tasks[task_id].kind is Kind.TRAIN and machine.members[agent_id].is_present
            for task_id, agent_id in machine.unanswered.items()
        )
        if at_work > most:
            self._break([f"{at_work} sites train at once, cohort allows {most}"])

    def _break(self, found: Iterable[str]) -> None:
        self._broken.extend(found)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Let somebody look at every decision of the round machine."""
    handle = RoundMachine.handle

    def handled(machine: RoundMachine, event: Event, at: float) -> Outcome:
        outcome = handle(machine, event, at)
        watch.decided(machine, outcome)
        return outcome

    with patch.object(RoundMachine, "handle", handled):
        yield
