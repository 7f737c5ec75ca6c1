"""An agent is withdrawn: the files of its updates go, and a report says what that removed and what not.

What goes are the local models and extra channels that the agent sent. Their rows stay and say why (so
the chain still fits), as do its name, what it reported of its training, and all that became of its
updates: every global model that counts one of them, and every model after it, has learned from its
data. No deletion and no replay takes that out again; training again from before its first update does.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from sqlite3 import Connection, Row

from fl_main.errors import NotFoundError, StoreError
from fl_main.store import EventRecord, ModelKind, RunStatus

from ..model_db import ModelDB
from ..runs_and_models import Run

# The writer is imported where something is written: it needs SQLAlchemy, which a report does without.

_NAMES = 20  # of agents in an error


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file of the agent that stays, as an equal model is in it.

    Attributes:
        model_id: The agent's model; `others`: whose file it is besides, in words.
    """

    model_id: str
    digest: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Influenced:
    """Models of one kind in one run that were made from the agent's updates, and stay.

    Attributes:
        first_round: The first of them; `last_round`: the last.
        stored: Of how many the file is there.
    """

    run: str
    kind: str
    models: int
    stored: int
    first_round: int
    last_round: int


@dataclass(frozen=True, slots=True)
class WithdrawnRun:
    """What the withdrawal of an agent means to one run.

    Attributes:
        models: Local models and channels of the agent whose rows now say that they were withdrawn;
            `files`: those whose file goes, of `size` bytes; `gone_before`: those that were not stored
            any more, whose rows go on saying why.
        shared: Files that stay, as others have equal models.
        counted: Rounds that count an update of it.
        influenced: What was made from its updates and stays, this run's first.
        arrays: Names of the strategy's arrays that sum over agents, and so contain it.
        roll_back_to: The last round whose model has nothing of it; None: there is none, as the run's
            first model came from it, or none is needed, as no round counts an update of it.
        is_in_last: Whether the run's latest model has something of it.
    """

    run: str
    run_id: str
    agent_id: str
    models: int
    files: int
    size: int
    gone_before: int
    shared: tuple[SharedFile, ...]
    counted: tuple[int, ...]
    influenced: tuple[Influenced, ...]
    arrays: tuple[str, ...]
    roll_back_to: int | None
    is_in_last: bool


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What the withdrawal of an agent does, or did.

    Attributes:
        agent: Its name.
        at: Wall time, Unix seconds.
        is_done: Whether it was done.
        runs: That it sent models to, the oldest first.
    """

    agent: str
    at: float
    is_done: bool
    runs: tuple[WithdrawnRun, ...]


def plan_withdrawal(
    db: ModelDB, agent: str, runs: Sequence[str] = (), clock: Callable[[], float] = time.time
) -> Withdrawal:
    """Return what `withdraw` would do; nothing is changed.

    Args:
        agent: Its name or id.
        runs: Only of these; of all that it sent models to, if none is named.

    Raises:
        NotFoundError: If no run has such an agent, several of a run are called so, or it sent nothing.
    """
    found = []
    for run, agent_id, name in _memberships(db, agent, runs):
        with db.connect() as connection:
            found.append(_looked_at(connection, run, agent_id, name))
    return Withdrawal(found[0][0], clock(), False, tuple(entry for _, entry in found))


def withdraw(
    db: ModelDB, agent: str, runs: Sequence[str] = (), clock: Callable[[], float] = time.time
) -> Withdrawal:
    """Delete the files of an agent's updates; a daemon may have the database open.

    Whoever was interrupted does it again: files that were left are deleted then.

    Args:
        agent: Its name or id.
        runs: Only of these; of all that it sent models to, if none is named.
        clock: Wall time, Unix seconds.

    Returns:
        What was done; each run has an event that says so, too.

    Raises:
        NotFoundError: If no run has such an agent, several of a run are called so, or it sent nothing.
        StoreError: If a run may still count something of it; the message says what to do. Nothing was
            done then in this run and those after it.
    """
    from .writing import SecondWriter

    memberships = _memberships(db, agent, runs)
    with SecondWriter(db.folder, clock) as writer:
        for run, agent_id, name in memberships:  # before the first is touched
            with db.connect() as connection:
                _require_at_rest(connection, run, agent_id, name)
        found, at = [], clock()
        for run, agent_id, name in memberships:
            with writer.changing("withdraw an agent") as change:
                _require_at_rest(change.connection, run, agent_id, name)
                label, entry = _looked_at(change.connection, run, agent_id, name)
                own = _own(change.connection, run.run_id, agent_id)
                ids = [row["model_id"] for row in own if row["is_stored"]]
                change.let_go([row["digest"] for row in own if not row["is_stored"]])
                change.remove(ids, f"withdrawn at {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}")
                details = {"models": len(ids), "files": entry.files, "size": entry.size}
                change.add([EventRecord(run.run_id, "agent_withdrawn", None, agent_id, "withdraw", details)])
            found.append((label, entry))
    return Withdrawal(found[0][0], at, True, tuple(entry for _, entry in found))


def _memberships(db: ModelDB, agent: str, runs: Sequence[str]) -> list[tuple[Run, str, str]]:
    """Return the runs that an agent sent models to, with its id and name there."""
    chosen = {db.run(name).run_id for name in runs}
    query = """
        SELECT agents.run_id, agent_id, agents.name FROM agents JOIN runs ON runs.run_id = agents.run_id
        WHERE agent_id = ? OR agents.name = ? ORDER BY runs.rowid, agents.rowid
    """
    with db.connect() as connection:
        known = [
            row for row in connection.execute(query, (agent, agent)) if row["run_id"] in chosen or not runs
        ]
        sent = [row for row in known if _own(connection, row["run_id"], row["agent_id"])]
    if not known:
        where = f"run {', '.join(runs)} has no" if runs else "no run has an"
        raise NotFoundError(f"{where} agent {agent!r}; see `fl db agents`")
    if not sent:
        raise NotFoundError(f"agent {agent!r} has sent no model yet: there is nothing to withdraw")
    found = [(db.run(row["run_id"]), row["agent_id"], row["name"]) for row in sent]
    return [one for _, group in groupby(found, key=lambda one: one[0].run_id) for one in _only(group, agent)]


def _only(group: Iterable[tuple[Run, str, str]], agent: str) -> list[tuple[Run, str, str]]:
    """Return the one agent of a run that is meant: what is deleted of another does not come back.

    Raises:
        NotFoundError: If several have this name.
    """
    found = list(group)
    ids = [agent_id for _, agent_id, _ in found]
    if len(ids) > 1 and agent not in ids:
        raise NotFoundError(
            f"{len(ids)} agents of run {found[0][0].name!r} are called {agent!r}; give the id of one: "
            f"{', '.join(ids[:_NAMES])}"
        )
    return [one for one in found if len(ids) == 1 or one[1] == agent]


def _own(connection: Connection, run_id: str, agent_id: str) -> list[Row]:
    """Return the rows of what an agent sent."""
    kinds = json.dumps([ModelKind.LOCAL.value, ModelKind.CHANNEL.value])
    query = """
        SELECT * FROM models WHERE run_id = ? AND agent_id = ?
        AND kind IN (SELECT value FROM json_each(?)) ORDER BY rowid
    """
    return connection.execute(query, (run_id, agent_id, kinds)).fetchall()


def _require_at_rest(connection: Connection, run: Run, agent_id: str, name: str) -> None:
    """Check that a run will count nothing of an agent any more.

    Raises:
        StoreError: If it may.
    """
    status = RunStatus(_latest(connection, run.run_id)["status"])
    if status.is_over:
        return
    way = f"`fl run quarantine {run.name} {name}` leaves it out, `fl run stop {run.name}` ends the run"
    query = "SELECT quarantined FROM agents WHERE run_id = ? AND agent_id = ?"
    if not connection.execute(query, (run.run_id, agent_id)).fetchone()["quarantined"]:
        raise StoreError(
            f"run {run.name!r} is {status}, and {name} still takes part in it: {way}; then try again"
        )
    query = """
        SELECT count(*) FROM updates WHERE run_id = ? AND verdict = 'accepted' AND counted_in IS NULL
        AND kind = 'train' AND agent_id = ?
    """
    if connection.execute(query, (run.run_id, agent_id)).fetchone()[0]:
        raise StoreError(
            f"run {run.name!r} is {status}, and an update of {name} is being combined: wait for the end of "
            f"the round, or `fl run stop {run.name}`; then try again"
        )


def _looked_at(connection: Connection, run: Run, agent_id: str, name: str) -> tuple[str, WithdrawnRun]:
    own = _own(connection, run.run_id, agent_id)
    stored = [row for row in own if row["is_stored"]]
    shared = list(_shared(connection, stored))
    staying = {entry.digest for entry in shared}
    sizes = {row["digest"]: row["size"] for row in stored if row["digest"] not in staying}
    made = _made_from(connection, [row["model_id"] for row in own])
    query = """
        SELECT DISTINCT counted_in FROM updates
        WHERE run_id = ? AND agent_id = ? AND counted_in IS NOT NULL AND kind = 'train' ORDER BY counted_in
    """
    counted = tuple(row[0] for row in connection.execute(query, (run.run_id, agent_id)))
    theirs = {row["model_id"] for row in made if row["run_id"] == run.run_id}
    return name, WithdrawnRun(
        run.name,
        run.run_id,
        agent_id,
        len(stored),
        len(sizes),
        sum(sizes.values()),
        len(own) - len(stored),
        tuple(shared),
        counted,
        tuple(_influenced(made, run.run_id)),
        _arrays(connection, run.run_id) if counted else (),
        _roll_back_to(connection, run.run_id, theirs) if counted else None,
        _latest(connection, run.run_id)["model_id"] in theirs,
    )


def _latest(connection: Connection, run_id: str) -> Row:
    found: Row = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return found


def _arrays(connection: Connection, run_id: str) -> tuple[str, ...]:
    return tuple(json.loads(_latest(connection, run_id)["state_ids"]))


def _shared(connection: Connection, stored: list[Row]) -> Iterator[SharedFile]:
    """Yield the agent's files in which somebody else has an equal model."""
    own = {row["model_id"] for row in stored}
    query = """
        SELECT models.*, runs.name AS run, agents.name AS agent FROM models
        JOIN runs ON runs.run_id = models.run_id
        LEFT JOIN agents ON agents.run_id = models.run_id AND agents.agent_id = models.agent_id
        WHERE digest IN (SELECT value FROM json_each(?)) AND is_stored ORDER BY models.rowid
    """
    others: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(query, (json.dumps([row["digest"] for row in stored]),)):
        if row["model_id"] not in own:
            whose = f" of {row['agent'] or row['agent_id']}" if row["agent_id"] else ""
            others[row["digest"]].append(f"{row['kind']} model {row['model_id']}{whose} in run {row['run']}")
    for row in stored:
        if row["digest"] in others:
            yield SharedFile(row["model_id"], row["digest"], tuple(others[row["digest"]]))


def _made_from(connection: Connection, model_ids: list[str]) -> list[Row]:
    """Return all that was made from some models, and from what was made from them, in any run."""
    query = """
        WITH RECURSIVE made (model_id) AS (
            SELECT value FROM json_each(?)
            UNION SELECT parents.model_id FROM parents JOIN made ON parents.parent_id = made.model_id
        )
        SELECT models.*, runs.name AS run FROM made
        JOIN models ON models.model_id = made.model_id JOIN runs ON runs.run_id = models.run_id
        WHERE made.model_id NOT IN (SELECT value FROM json_each(?)) ORDER BY models.rowid
    """
    ids = json.dumps(model_ids)
    return connection.execute(query, (ids, ids)).fetchall()


def _influenced(made: list[Row], run_id: str) -> Iterator[Influenced]:
    groups: dict[tuple[bool, str, str], list[Row]] = defaultdict(list)
    for row in made:
        groups[row["run_id"] != run_id, row["run"], row["kind"]].append(row)
    for (_, run, kind), rows in sorted(groups.items()):
        rounds = [row["round_id"] for row in rows]
        stored = sum(row["is_stored"] for row in rows)
        yield Influenced(run, kind, len(rows), stored, min(rounds), max(rounds))


def _roll_back_to(connection: Connection, run_id: str, theirs: set[str]) -> int | None:
    """Return the last round before the first whose model was made from the agent's updates."""
    query = """
        SELECT round_id, model_id FROM rounds
        WHERE run_id = ? AND status = 'done' AND model_id IS NOT NULL ORDER BY round_id
    """
    before = None
    for row in connection.execute(query, (run_id,)):
        if row["model_id"] in theirs:
            break
        before = row["round_id"]
    return before
