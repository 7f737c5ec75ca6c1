"""What must hold after every simulation, whatever went wrong in it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_main.agent.shelf import Residuals, Shelf
from fl_main.db import Agent, Model, ModelDB, ModelStore, Round, Run, Update
from fl_main.db.verify import verify_database
from fl_main.disk import REAL_DISK
from fl_main.settings import RunSettings
from fl_main.steps import strategy_in_words
from fl_main.store import ModelKind
from fl_main.strategies import compose
from fl_main.weights import Array

from .formulas import FORMULAS, Part, recomputed
from .scenario import Scenario
from .sites import PRIVATE
from .world import Ended

# Why an accepted update may come to nothing: never by a fault of ours.
GIVEN_UP = re.compile(
    r"stopped by|stale: |its agent (sent a newer one|is in quarantine)|round \d+ failed|"
    r"the run (is (finished|stopped|failed)|was rolled back)"
)


def violations(ended: Ended, undisturbed: Ended | None) -> list[str]:
    """Return every promise that was broken.

    Args:
        ended: What is left of the simulation.
        undisturbed: The same run without faults, where it must have come to the same.
    """
    found = list(ended.broken)
    if not (ended.database / "fl.db").exists():
        return [*found, "there is no database"]
    if {"disk trouble", "kill"} & ended.faults_seen.keys():
        ModelStore(ended.database).close()  # a start deletes what could not be deleted before
    found += [f"fl db verify: {damage}" for damage in verify_database(ended.database)]
    with ModelDB(ended.database) as db:
        run = db.run("r")
        found += _of_run(run, ended)
        found += _of_efforts(run)
        found += _of_tasks(run, ended)
        found += _of_updates(run, ended)
        found += _of_models(run, ended)
        found += _of_steps(run, ended)
        found += _of_quarantine(run)
        found += _of_residuals(run, ended)
        found += _of_own_arrays(run, ended)
        found += _of_files(run, ended)
    found += [f"the stopped daemon still holds {n} {what}" for what, n in ended.left.items() if n]
    if undisturbed is not None:
        found += _as_undisturbed(ended, undisturbed)
    return found


def _of_run(run: Run, ended: Ended) -> Iterator[str]:
    wanted = ended.scenario.run["end"]["rounds"]
    if str(run.facts.status) != "finished":
        yield f"the run is {run.facts.status}: {run.facts.reason}"
    elif run.facts.rounds_done != wanted:
        yield f"{run.facts.rounds_done} rounds are done, not {wanted}"
    before = None
    rollbacks = {back.round_id: back.details["model_id"] for back in run.events("run_rolled_back")}
    for made in run.rounds():
        if made.status == "failed":
            if ended.scenario.is_strict and not _was_stopped(ended):
                yield f"round {made.round_id} failed: {made.reason}"
        elif made.round_id and made.base_model_id != before:
            yield f"round {made.round_id} does not begin where the one before ended"
        else:
            before = made.model_id
        before = rollbacks.get(made.round_id, before)
    for name, site in ended.sites.items():
        if site.final is not None and before is not None:
            stored = run._db.model_by_id(before)
            shared = {key: array for key, array in site.final.weights.items() if key != PRIVATE}
            if not _equal(shared, stored):
                yield f"{name} has another final model"


def _was_stopped(ended: Ended) -> bool:
    return bool({"stop", "rollback"} & ended.faults_seen.keys())


def _of_efforts(run: Run) -> Iterator[str]:
    """Nobody is busy for less than nothing, or idle for longer than the run was under way."""
    for made in run.rounds():
        spent = made.effort
        if min(spent.busy_s, spent.wasted_s, spent.idle_s) < 0:
            yield f"round {made.round_id} took less than no time: {spent}"
    idle_s, most_s = run.effort().idle_s, run.facts.agents * run.facts.run_time_s
    if idle_s > most_s * (1 + 1e-9):
        yield f"all sites together were idle for {idle_s:g} s, in a run of {most_s:g} s of theirs"


def _of_tasks(run: Run, ended: Ended) -> Iterator[str]:
    """Where an agent may answer twice on one model, it does not do the same work twice."""
    query = """
        SELECT agent_id, count(*) FROM tasks
        WHERE kind = 'train' GROUP BY agent_id, seed HAVING count(*) > 1
    """
    with run._db.connect() as connection:
        twice = connection.execute(query).fetchall()
    if ended.scenario.run["mode"] == "async":
        yield from (f"{agent_id} was given {count} tasks of one seed" for agent_id, count in twice)


def _of_updates(run: Run, ended: Ended) -> Iterator[str]:
    updates = run.updates()
    verdicts = {update.task_id: str(update.verdict) for update in updates if update.verdict == "accepted"}
    for task_id, count in Counter(u.task_id for u in updates if u.verdict == "accepted").items():
        if count > 1:
            yield f"task {task_id} has {count} accepted updates"
    given_up = {u.task_id for u in updates if u.verdict == "discarded" and GIVEN_UP.match(u.reason)}
    for task_id in ended.accepted - verdicts.keys() - given_up:
        yield f"task {task_id} was answered accepted, and is not in the database"
    able = {site.name for site in ended.scenario.sites if ended.scenario.trains(site)}
    names = {agent.agent_id: agent.name for agent in run.agents()}
    for update in updates:
        if update.verdict == "rejected":
            yield f"an update of {update.agent_id} was rejected: {update.reason}"
        is_stored = update.verdict == "accepted" and update.kind == "train"
        if is_stored and update.counted_in is None:
            yield f"the update of task {update.task_id} was accepted and never counted"
        if update.verdict == "discarded" and not update.reason:
            yield f"the update of task {update.task_id} was discarded without a reason"
        if update.kind == "train" and names[update.agent_id] not in able:
            yield f"{names[update.agent_id]} trained, which cohort.where does not let it"


def _of_models(run: Run, ended: Ended) -> Iterator[str]:
    used: Counter[str] = Counter()
    for model in run.models("global"):
        used.update(parent.model_id for parent in model.parents)
    for model_id, count in used.items():
        if count > 1:
            yield f"the update {model_id} counts in {count} models"


def _of_steps(run: Run, ended: Ended) -> Iterator[str]:
    """Hold each global model against its base, and against the updates that it was made from."""
    scenario = ended.scenario
    most = scenario.run["staleness"]["most"]
    made = [round_ for round_ in run.rounds() if round_.status == "done"]
    versions = {made[0].model_id: 0}
    counted = {update.model_id: update for update in run.updates() if update.counted_in is not None}
    one_each = compose(scenario.run["strategy"], scenario.run["strategy_options"]).one_each
    for round_ in made[1:]:
        version = versions[round_.base_model_id]
        versions[round_.model_id] = version + 1
        model = run._db.model_by_id(round_.model_id or "")
        votes = Counter(counted[parent.model_id].agent_id for parent in model.parents)
        if one_each and max(votes.values()) > 1:
            yield f"an agent counts {max(votes.values())} times in the model of round {round_.round_id}"
        parts = []
        for parent in model.parents:
            update, local = counted[parent.model_id], run._db.model_by_id(parent.model_id)
            origin_id = local.parents[0].model_id
            late = version - versions[_whole(run._db.model_by_id(origin_id))]
            parts.append((update, local, origin_id, late))
            if update.staleness != late:
                yield f"task {update.task_id} is {late} versions late, not {update.staleness}"
            if most is not None and late > most:
                yield f"task {update.task_id} counts though it is {late} versions late"
        strategy = strategy_in_words(scenario.run["strategy"])  # of several steps it is a list
        if strategy in FORMULAS and scenario.database["retention"]["keep"] == "all":
            yield from _recomputed(run, scenario, round_, parts)


def _of_quarantine(run: Run) -> Iterator[str]:
    """Who is left out gets no task until it is released, and is left out for what was measured of it."""
    rounds = run.facts.settings["quarantine"]["rounds"]
    left_out: set[str] = set()
    outlying: Counter[str] = Counter()
    known: set[str] = set()
    query = "SELECT record, facts FROM events WHERE run_id = ? ORDER BY seq"
    with run._db.connect() as connection:
        told = [(record, json.loads(facts)) for record, facts in connection.execute(query, (run.run_id,))]
    for record, facts in told:
        agent_id = facts.get("agent_id")
        if record == "task" and facts["task_id"] not in known:
            known.add(facts["task_id"])
            if agent_id in left_out:
                yield f"{agent_id} was given task {facts['task_id']} while it was in quarantine"
        elif record == "update" and "outlier" in facts["notes"]:
            outlying[agent_id] = outlying[agent_id] + 1 if facts["notes"]["outlier"] else 0
        elif record == "event" and facts["kind"] == "agent_quarantined":
            left_out.add(agent_id)
            if facts["actor"] == "aggregator" and outlying[agent_id] < rounds:
                yield f"{agent_id} is in quarantine after {outlying[agent_id]} outliers of {rounds}"
        elif record == "event" and facts["kind"] == "agent_released":
            left_out.discard(agent_id)
            outlying[agent_id] = 0
    for agent in run.agents():
        if bool(agent.quarantined) != (agent.agent_id in left_out):
            yield f"{agent.name} is{' not' * (not agent.quarantined)} in quarantine, by its record only"


def _whole(model: Model) -> str:
    """Return the global model that a model is the encoded form of, or the model itself."""
    return model.parents[0].model_id if model.kind is ModelKind.DOWNLOAD else model.model_id


def _of_residuals(run: Run, ended: Ended) -> Iterator[str]:
    """Hold what sites have not sent yet against what they wanted to send, and what was counted of it."""
    compression = RunSettings.model_validate(ended.scenario.run).compression
    if not compression.feeds_back or ended.scenario.database["retention"]["keep"] != "all":
        return
    counted = _counted(run)
    for agent in _up_to_date(run, ended):
        shelf = Residuals(ended.folders[agent.name] / "feedback", REAL_DISK, durable=False)
        owed: dict[str, Array] = {}
        for update in counted:
            if update.agent_id == agent.agent_id:
                shelf.promote(update.task_id)  # it may not have heard of the last ones
                wanted = ended.sites[agent.name].wanted[update.task_id]
                for name, sent in run._db.model_by_id(update.model_id or "").decoded().items():
                    owed[name] = owed.get(name, np.zeros(1)) + wanted[name] - sent
        _, left = shelf.newest(())
        for name, values in owed.items():
            if not np.allclose(left[name], values, rtol=1e-3, atol=1e-3):
                yield f"what {agent.name} did not send of {name} is not what its counted updates lack"


def _counted(run: Run) -> list[Update]:
    """Return the training updates that were counted since the run was last rolled back, in their order."""
    since = max((back.round_id or 0 for back in run.events("run_rolled_back")), default=0)
    counted = [u for u in run.updates() if (u.counted_in or 0) > since and u.kind == "train"]
    return sorted(counted, key=lambda update: update.counted_in or 0)


def _up_to_date(run: Run, ended: Ended) -> list[Agent]:
    """Return the agents that have forgotten what was undone; others do with their next task."""
    times = len(run.events("run_rolled_back"))
    files = {agent.agent_id: ended.folders[agent.name] / "rollbacks.json" for agent in run.agents()}
    known = {key: json.loads(file.read_text()) if file.exists() else {} for key, file in files.items()}
    return [agent for agent in run.agents() if known[agent.agent_id].get(run.run_id, 0) == times]


def _of_own_arrays(run: Run, ended: Ended) -> Iterator[str]:
    """Hold what sites keep against what was counted of it."""
    counted = _counted(run)
    sums: dict[str, Array] = {}
    sizes: dict[str, Array] = {}  # of a crowd, large values of both signs add up to little
    for agent in _up_to_date(run, ended):
        mine = [update.task_id for update in counted if update.agent_id == agent.agent_id]
        shelf = Shelf(ended.folders[agent.name] / "state", REAL_DISK, durable=False)
        for task_id in mine:
            shelf.promote(task_id)  # it may not have heard of the last ones
        kept = shelf.current()
        if ended.scenario.has_private and mine:
            trainings = int(kept[f"private {run.facts.run_id} {PRIVATE}"][0])
            if ended.scenario.run["mode"] == "sync" and trainings != len(mine):
                yield f"the private array of {agent.name} has {trainings} trainings, {len(mine)} were counted"
        for name, array in kept.items():
            sums[name] = sums.get(name, np.zeros(1)) + array
            sizes[name] = sizes.get(name, np.zeros(1)) + np.abs(array)
    for name, array in _total(run, ended):
        if np.any(np.abs(sums[name] - array) > 1e-3 + 1e-3 * np.abs(array) + 1e-5 * sizes[name]):
            yield f"what the sites keep as {name} does not add up to what the run has"


def _total(run: Run, ended: Ended) -> Iterator[tuple[str, Array]]:
    """Yield the strategy's sums of what all sites keep, by the name under which they keep it."""
    strategy = strategy_in_words(ended.scenario.run["strategy"])
    part = {"scaffold": "control", "feddyn": "gradient"}.get(strategy, "")
    with run._db.connect() as connection:
        [(text,)] = connection.execute("SELECT state_ids FROM runs").fetchall()
    if part and (total := json.loads(text).get("total")):
        for name, array in run._db.model_by_id(total).weights().items():
            yield f"{strategy} {run.facts.run_id} {part}/{name}", array


def _recomputed(run: Run, scenario: Scenario, made: Round, found: Sequence[Any]) -> Iterator[str]:
    """Compare a global model with what the formula of its strategy makes of its updates."""
    read = run._db.model_by_id
    parts = [
        Part(
            local.decoded(),
            read(origin_id).weights(),
            local.form == "delta",
            update.num_examples,
            late,
        )
        for update, local, origin_id, late in found
    ]
    base = read(made.base_model_id or "").weights()
    if not _equal(recomputed(scenario.run, base, parts), read(made.model_id or "")):
        yield f"the model of round {made.round_id} does not follow from its updates"


def _of_files(run: Run, ended: Ended) -> Iterator[str]:
    answered = {update.task_id for update in run.updates()}
    staging = ended.database / "models" / ".staging"
    for file in staging.iterdir():
        yield f"{file.name} is left in the staging folder"
    for name, folder in ended.folders.items():
        for file in (folder / "outbox").iterdir():
            # A loss of power may undo a deletion, a disk that fails may refuse it. The next start
            # offers the update again, which changes nothing.
            excuse = {"loss of power", "disk trouble"} & ended.faults_seen.keys()
            if not (excuse and file.name.partition(".")[0] in answered):
                yield f"{file.name} is left in the outbox of {name}"
        if len(list((folder / "state").iterdir())) > 3:
            yield f"{name} keeps more than three states"


def _as_undisturbed(ended: Ended, undisturbed: Ended) -> Iterator[str]:
    mine, other = _history(ended.database), _history(undisturbed.database)
    for first, second in zip(mine, other, strict=False):
        if first != second:
            yield f"not as without faults: {first} instead of {second}"
            return
    if len(mine) != len(other):
        yield f"{len(mine)} counted updates and models instead of {len(other)}"


def _history(database: Path) -> list[tuple[int, str, str]]:
    """Return what counted in each round and what came of it."""
    with ModelDB(database) as db:
        run = db.run("r")
        names = {agent.agent_id: agent.name for agent in run.agents()}
        counted = [
            (update.counted_in, names[update.agent_id], update.digests["weights"])
            for update in run.updates()
            if update.counted_in is not None and update.kind == "train"
        ]
        models = [(model.round_id, "~", model.digest) for model in run.models("global")]
        return sorted(counted + models)


def _equal(mine: Mapping[str, Array], model: Model) -> bool:
    other = model.weights()
    return mine.keys() == other.keys() and all(
        np.asarray(mine[name]).tobytes() == np.asarray(other[name]).tobytes() for name in mine
    )
