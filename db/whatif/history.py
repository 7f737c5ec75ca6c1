"""How a run's global models were made, as its chain and its rows keep it: all that a fold needs again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from sqlite3 import Connection
from typing import Any

from fl_main.errors import StoreDamagedError, StoreError
from fl_main.plan import derive_id
from fl_main.store import AgentRecord, ModelRecord, RoundRecord, StepRecord, UpdateRecord
from fl_main.training import Kind

from .. import queries, rows
from ..model_db import ModelDB
from ..runs_and_models import Run


@dataclass(frozen=True, slots=True)
class Made:
    """How one global model was made.

    Attributes:
        round: Its round, and `step` the one whose updates were folded.
        version: Which global model of the run it is, from 1 on.
        base_id: The global model before it; `state_ids`: the strategy's arrays before, by name.
        updates: In the order in which they were folded.
        agents: Everyone who had joined by then.
    """

    round: RoundRecord
    step: StepRecord
    version: int
    base_id: str
    state_ids: Mapping[str, str]
    updates: tuple[UpdateRecord, ...]
    agents: tuple[AgentRecord, ...]


@dataclass(frozen=True, slots=True)
class _Stand:
    """What a run was when the updates of a round were frozen."""

    run: Mapping[str, Any]
    agents: tuple[AgentRecord, ...]


class History:
    """The rounds of a run that made a global model by training.

    Args:
        db: The database.
        run: The run, under way or over.
    """

    def __init__(self, db: ModelDB, run: Run) -> None:
        self._db = db
        self.run = run

    def rounds(self) -> list[int]:
        """Return their numbers, in order, without those that the run was rolled back behind."""
        with self._db.connect() as connection:
            undone = queries.undone_rounds(connection, self.run.run_id)
        return [round_id for round_id in self._steps if round_id not in undone]

    def made(self, round_id: int) -> Made:
        """Return how the model of a round was made.

        Raises:
            StoreError: If the round made none by training.
        """
        step = self._steps.get(round_id)
        if step is None:
            raise StoreError(
                f"round {round_id} of run {self.run.name!r} made no global model by training; "
                f"see `fl db rounds {self.run.name}`"
            )
        stand = self._stands.get(round_id)
        if stand is None:
            raise StoreDamagedError(
                f"the chain of run {self.run.name!r} does not say how round {round_id} began"
            )
        with self._db.connect() as connection:
            query = "SELECT * FROM rounds WHERE run_id = ? AND round_id = ?"
            row = connection.execute(query, (self.run.run_id, round_id)).fetchone()
            updates = _updates(connection, step)
        return Made(
            rows.ROUND.read(row),
            step,
            int(stand.run["rounds_done"]) + 1,
            stand.run["model_id"],
            stand.run["state_ids"],
            updates,
            stand.agents,
        )

    @cached_property
    def _steps(self) -> dict[int, StepRecord]:
        """The steps whose updates became a model, by round."""
        query = "SELECT * FROM steps WHERE run_id = ? AND kind = ? AND status = 'done' ORDER BY round_id"
        with self._db.connect() as connection:
            found = connection.execute(query, (self.run.run_id, Kind.TRAIN.value)).fetchall()
        return {step.round_id: step for step in map(rows.STEP.read, found)}

    @cached_property
    def _stands(self) -> dict[int, _Stand]:
        """What the run was when each round's updates were frozen: at the end of that transaction.

        In each transaction the run itself comes last, and a fold begins once the list is stored.
        """
        found: dict[int, _Stand] = {}
        agents: dict[str, AgentRecord] = {}
        frozen: int | None = None
        with self._db.connect() as connection:
            for record, facts in _facts(connection, self.run.run_id):
                if record == rows.AGENT.word:
                    agent = _agent(json.loads(facts))
                    agents[agent.agent_id] = agent
                elif record == rows.STEP.word and '"status":"frozen"' in facts:
                    step = json.loads(facts)
                    frozen = step["round_id"] if step["kind"] == Kind.TRAIN.value else frozen
                elif record == rows.RUN.word and frozen is not None:
                    found[frozen] = _Stand(json.loads(facts), tuple(agents.values()))
                    frozen = None
        return found

    # --- models ---------------------------------------------------------------------------

    def models_of(self, made: Made) -> dict[str, ModelRecord]:
        """Return, by id, all models that a fold of these updates reads: theirs, and what they began from.

        Raises:
            StoreError: If one is not stored; the message says which and why.
        """
        own = [model_id for update in made.updates for model_id in model_ids_of(update)]
        found = self.stored(own, made)
        origins = [model.parents[0][0] for model in found.values() if model.parents]
        wanted = [*origins, made.base_id, *made.state_ids.values()]
        return found | self.stored(wanted, made)

    def stored(self, model_ids: list[str], made: Made) -> dict[str, ModelRecord]:
        """Return models by their ids.

        Raises:
            StoreError: If one is not stored.
        """
        ids = sorted(set(model_ids))
        with self._db.connect() as connection:
            parents = queries.parents_of(connection, ids)
            query = "SELECT * FROM models WHERE model_id IN (SELECT value FROM json_each(?))"
            found = connection.execute(query, (json.dumps(ids),)).fetchall()
        names = {agent.agent_id: agent.name for agent in made.agents}
        for row in found:
            if not row["is_stored"]:
                raise StoreError(_not_stored(row, made.round.round_id, names))
        if missing := set(ids) - {row["model_id"] for row in found}:
            raise StoreDamagedError(f"model {min(missing)} is missing; see `fl db verify`")
        return {
            row["model_id"]: rows.model_record(
                row, self._db.layout(row["layout_digest"]), parents[row["model_id"]]
            )
            for row in found
        }


def model_ids_of(update: UpdateRecord) -> list[str]:
    """Return the models that an update brought: its weights, and extra channels."""
    return [
        (update.model_id or "") if channel == "weights" else derive_id(update.task_id, channel)
        for channel in update.digests
    ]


def _facts(connection: Connection, run_id: str) -> Iterator[tuple[str, str]]:
    query = """
        SELECT record, facts FROM events
        WHERE run_id = ? AND record IN ('agent', 'step', 'run') ORDER BY seq
    """
    for row in connection.execute(query, (run_id,)):
        yield row["record"], row["facts"]


def _agent(facts: Mapping[str, Any]) -> AgentRecord:
    """Return what the chain says of an agent, also in the words of an older version."""
    return AgentRecord(
        facts["run_id"],
        facts["agent_id"],
        facts["name"],
        facts["attributes"],
        tuple(facts["kinds"]),
        facts["software"],
        is_present=False,
        poll_s=facts.get("poll_s"),
        outlying=facts.get("outlying", 0),
        quarantined=facts.get("quarantined", ""),
    )


def _updates(connection: Connection, step: StepRecord) -> tuple[UpdateRecord, ...]:
    """Return the updates that a step froze, in their order."""
    query = """
        SELECT * FROM updates
        WHERE task_id IN (SELECT value FROM json_each(?)) AND verdict = 'accepted'
    """
    found = connection.execute(query, (json.dumps(list(step.frozen)),))
    by_task = {update.task_id: update for update in map(rows.UPDATE.read, found)}
    if missing := [task_id for task_id in step.frozen if task_id not in by_task]:
        raise StoreDamagedError(f"the update of task {missing[0]} is missing; see `fl db verify`")
    return tuple(by_task[task_id] for task_id in step.frozen)


def _not_stored(row: rows.Row, round_id: int, names: Mapping[str, str]) -> str:
    whose = f"the update of {names.get(row['agent_id'], row['agent_id'])}" if row["agent_id"] else row["kind"]
    what = f"its {row['channel']} " if row["agent_id"] and row["kind"] == "channel" else ""
    return (
        f"round {round_id} cannot be made again: {whose} ({what}model {row['model_id']}) "
        f"is not stored, because: {row['not_stored_reason']}"
    )
