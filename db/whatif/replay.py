"""A run once more, from its stored updates: with another strategy, or without some agents.

What a replay is. Of one round it is exact: the updates, the base and the strategy's arrays are those
that the round had, in the stored order, and the daemon's own fold and round machine combine them. Over
several rounds the stored updates stay what they were: trained from the original models, which every
agent had a part in. So a replay tells what would have come of these updates, not what agents would
have trained; and a replay without an agent is not unlearning.

The rounds follow each other in one of two ways (`bases`):

- `replayed`: each round goes on from the replayed model and the replayed state of the strategy. Where a
  strategy combines models, they are the agents' models as they were; where it combines differences,
  each is that from the stored model on which it was trained, and is added to the replayed one.
- `stored`: each round by itself, on the model and the state that it was really made on.

Where nothing is changed, both give the stored models, bit for bit.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fl_main.errors import StoreError, UpdateRejectedError
from fl_main.events import FoldFailed, StepFolded
from fl_main.folding import staging_name
from fl_main.plan import is_better
from fl_main.rounds import RoundMachine
from fl_main.settings.files import parse_run
from fl_main.settings.run_name import numbered_name
from fl_main.steps import strategy_in_words
from fl_main.store import (
    AgentRecord,
    EventRecord,
    MetricRecord,
    ModelKind,
    ModelRecord,
    Phase,
    Record,
    RoundRecord,
    RunRecord,
    RunStatus,
    TagRecord,
)

from ..model_db import ModelDB
from ..runs_and_models import Model
from ..upkeep.writing import SecondWriter
from .again import fold_of, folded, machine_of, renamed
from .evaluation import Evaluator, Measured
from .history import Made
from .planning import Bases, Plan, plan_replay
from .records import Replay, ReplayedRound
from .remarks import remarks_on

Progress = Callable[[int, int], None]


def replay(
    db: ModelDB,
    run: str | None = None,
    *,
    round_id: int | None = None,
    strategy: str | list[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    bases: Bases = "replayed",
    name: str | None = None,
    evaluate: str | Callable[..., Any] | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.time,
) -> Replay:
    """Combine the stored updates of a run again; the result is a new run in the database, finished.

    Its parentage says what it was made from: its first model is a child of the run's, its global models
    are children of the updates, and its first event and its settings name the rest. A daemon may have
    the database open.

    Args:
        db: The database.
        run: Its name; may be left out where there is only one.
        round_id: Only this round.
        strategy: Another one, as in the settings: a name, or a list of steps.
        options: Of a strategy that is one name; without `strategy`, other options of the run's own: those
            that are not named stay as they are.
        without: Agents, by name or id, whose updates are left out.
        bases: What each round goes on from; see the module's text.
        name: Of the new run; by default `RUN-replay`, with a number if that is taken.
        evaluate: Measures each model; see `Evaluator`.
        progress: Called with the rounds that are done, and all.
        clock: Wall time, Unix seconds.

    Raises:
        SettingsError: If the strategy is unknown, or cannot combine such updates.
        StoreError: If there is nothing to replay, an agent is unknown, the name is taken, or a model is
            not stored; the message says which and why. Nothing was written then.
    """
    plan = plan_replay(db, run, round_id, strategy, options, without, bases)
    measure = None if evaluate is None else Evaluator(evaluate)
    plan.check()
    if measure is not None:  # a function that cannot judge such a model: said before anything is written
        measure(db.model_by_id(plan.made(plan.rounds[0]).base_id).weights())
    with SecondWriter(db.folder, clock) as writer:
        return _Replaying(db, plan, writer, measure).done(name, progress or (lambda done, total: None))


@dataclass(frozen=True, slots=True)
class _Stand:
    """A global model of the replay, and the strategy's arrays with it."""

    model: ModelRecord
    states: Mapping[str, ModelRecord]


class _Replaying:
    """One replay: the folds, and the records of the new run."""

    def __init__(self, db: ModelDB, plan: Plan, writer: SecondWriter, measure: Evaluator | None) -> None:
        self._db = db
        self._plan = plan
        self._writer = writer
        self._measure = measure
        self._of = plan.history.run
        self._names = {agent.agent_id: agent.name for agent in self._of.agents()}
        self._stands: dict[str, _Stand] = {}  # by the stored model that each one stands for

    def done(self, name: str | None, progress: Progress) -> Replay:
        """Do all of it."""
        rounds: list[ReplayedRound] = []
        total = len(self._plan.rounds)
        self._run = self._begun(name)
        try:
            for round_id in self._plan.rounds:
                progress(len(rounds), total)
                rounds.append(self._replayed(round_id))
        except BaseException as error:
            why = (
                "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
            )
            said = f"{self._run.reason}; it broke off after {len(rounds)} of {total} rounds: {why}"
            self._store([replace(self._run, reason=said)])
            raise
        progress(total, total)
        remarks = tuple(remarks_on(self._plan, rounds))
        self._run = replace(self._run, status=RunStatus.FINISHED, phase=Phase.ENDED)
        ended = _event(self._run, "run_ended", reason=self._run.reason, remarks=list(remarks))
        self._store([self._run, ended])
        return Replay(
            self._run.run_id,
            self._run.name,
            self._of.name,
            strategy_in_words(self._plan.settings.strategy),
            tuple(self._plan.left_out.values()),
            self._plan.bases,
            tuple(rounds),
            remarks,
        )

    def _store(self, records: Iterable[Record]) -> None:
        with self._writer.changing("store a replay") as change:
            change.add(list(records))

    # --- beginning ------------------------------------------------------------------------

    def _begun(self, name: str | None) -> RunRecord:
        """Store the run, its agents and the model that it begins with; stopped until it is whole."""
        plan = self._plan
        first = plan.made(plan.rounds[0])
        models = plan.models_of(first)
        base = models[first.base_id]
        with self._writer.changing("store a replay") as change:
            taken = {row["name"] for row in change.connection.execute("SELECT name FROM runs")}
            stated = plan.settings.model_dump(mode="json")
            stated |= {"name": _free_name(name, self._of.name, taken), "initial": {"model": base.model_id}}
            settings = parse_run(stated, "replay")
            run_id = uuid.uuid4().hex
            initial = replace(
                base,
                model_id=f"{run_id[:16]}.initial",
                run_id=run_id,
                round_id=0,
                kind=ModelKind.INITIAL,
                parents=((base.model_id, 1.0),),
            )
            run = replace(
                RunRecord.begun(run_id, settings),
                status=RunStatus.STOPPED,
                model_id=initial.model_id,
                reason=_in_words(plan),
                frozen=self._of.facts.frozen,
            )
            begun = RoundRecord(run_id, 0, "done", model_id=initial.model_id, ended_s=0.0)
            replayed = _event(run, "run_replayed", **_parentage(plan))
            has_model = _event(run, "initial_model", 0, model_id=initial.model_id, agent_id=None)
            change.add([run, *self._agents(run_id), initial, begun, replayed, has_model, run])
        self._stands[base.model_id] = _Stand(initial, plan.states_of(first, models))
        return run

    def _agents(self, run_id: str) -> Iterable[AgentRecord]:
        for agent in self._of.agents():
            if agent.agent_id not in self._plan.left_out:
                yield AgentRecord(
                    run_id,
                    agent.agent_id,
                    agent.name,
                    agent.attributes,
                    agent.kinds,
                    agent.software,
                    is_present=False,
                    poll_s=agent.poll_s,
                )

    # --- a round --------------------------------------------------------------------------

    def _replayed(self, round_id: int) -> ReplayedRound:
        made = self._plan.made(round_id)
        models = self._plan.models_of(made)
        stand = self._stand_before(made, models)
        own, own_models = renamed(made, models, self._run.run_id)
        settings = self._plan.settings
        machine = machine_of(self._run, settings, own, stand.model, stand.states, own_models)
        event = self._folded(machine)
        began = _began(machine)
        outcome = machine.handle(event, machine.run.run_time_s)
        self._run = replace(
            machine.run, status=RunStatus.STOPPED, phase=Phase.WAITING, reason=self._run.reason
        )
        came = [record for record in outcome.records if not isinstance(record, RunRecord)]
        self._store([*began, *came, self._run])
        if isinstance(event, StepFolded):
            run = machine.run
            states = {name: machine.models[state_id] for name, state_id in run.state_ids.items()}
            stand = _Stand(machine.models[run.model_id or ""], states)
        self._stands[made.round.model_id or ""] = stand
        return self._told(made, stand.model, event.reason if isinstance(event, FoldFailed) else "")

    def _folded(self, machine: RoundMachine) -> StepFolded | FoldFailed:
        """Fold what a machine asks for; nothing stays staged that is not to be stored."""
        fold = fold_of(machine)
        try:
            return folded(self._writer, self._plan.settings, machine)
        except BaseException as error:
            self._writer.unstage([staging_name(self._run.run_id, fold)])
            if not isinstance(error, UpdateRejectedError):
                raise
            return FoldFailed(fold, str(error))

    def _stand_before(self, made: Made, models: Mapping[str, ModelRecord]) -> _Stand:
        if self._plan.bases == "replayed" and made.base_id in self._stands:
            return self._stands[made.base_id]
        return _Stand(models[made.base_id], self._plan.states_of(made, models))

    def _told(self, made: Made, model: ModelRecord, reason: str) -> ReplayedRound:
        stored = self._db.model_by_id(made.round.model_id or "")
        whole = self._plan.history.made(made.round.round_id)
        names = [self._names.get(update.agent_id, update.agent_id) for update in made.updates]
        is_same = not reason and model.payload.digest == stored.digest
        measured, before = ({}, {}) if reason else self._measured(model, stored, is_same)
        return ReplayedRound(
            made.round.round_id,
            stored.model_id,
            None if reason else model.model_id,
            tuple(names),
            tuple(
                self._plan.left_out[update.agent_id]
                for update in whole.updates
                if update.agent_id in self._plan.left_out
            ),
            is_same,
            reason,
            measured,
            before,
        )

    def _measured(self, model: ModelRecord, stored: Model, is_same: bool) -> tuple[Measured, Measured]:
        """Measure the replayed model and the stored one; keep what is said of the replayed one."""
        if self._measure is None:
            return {}, {}
        found = self._measure(self._db.model_by_id(model.model_id).weights())
        metrics = [
            MetricRecord(
                model.run_id,
                model.round_id,
                model.model_id,
                None,
                "evaluate",
                name,
                value,
                num_examples=0,
                agents=0,
            )
            for name, value in found.items()
        ]
        self._store([*metrics, *self._judged(model, found)])
        return found, found if is_same else self._measure(stored.weights())

    def _judged(self, model: ModelRecord, measured: Measured) -> Iterable[Record]:
        """Yield what changes if the model is the best one so far by the run's chosen metric."""
        best = self._plan.settings.best
        value = measured.get(best.metric)
        if best.source != "evaluate" or value is None or not is_better(value, self._run.best_value, best):
            return
        self._run = replace(
            self._run, best_model_id=model.model_id, best_value=value, best_round=self._run.rounds_done
        )
        yield TagRecord(model.run_id, "best", model.model_id)
        yield self._run


def _event(run: RunRecord, kind: str, round_id: int | None = None, **details: Any) -> EventRecord:
    return EventRecord(run.run_id, kind, round_id, actor="replay", details=details)


def _began(machine: RoundMachine) -> list[Record]:
    """Return what the chain of a daemon says before a fold: whoever asks how a run stood looks for it."""
    if machine.step is None:
        return []
    step = machine.step
    invited, eligible = len(step.invited), len(step.eligible)
    started = _event(
        machine.run, "step_started", step.round_id, step=str(step.kind), invited=invited, eligible=eligible
    )
    return [started, step, machine.run]


def _free_name(name: str | None, of: str, taken: Collection[str]) -> str:
    """Return the name of the new run.

    Raises:
        StoreError: If it is taken.
    """
    if name is not None:
        if name in taken:
            raise StoreError(f"there is a run {name!r} already; choose another name")
        return name
    usual = f"{of[:80]}-replay"
    return numbered_name(usual, taken.__contains__) if usual in taken else usual


def _in_words(plan: Plan) -> str:
    parts = [
        f"round {plan.rounds[0]}" if len(plan.rounds) == 1 else "",
        f"strategy {strategy_in_words(plan.settings.strategy)}",
        f"without {', '.join(plan.left_out.values())}" if plan.left_out else "",
        "each round on its stored base" if plan.bases == "stored" else "",
    ]
    return f"replay of {plan.history.run.name}: {', '.join(filter(None, parts))}"


def _parentage(plan: Plan) -> dict[str, Any]:
    run = plan.history.run
    return {
        "of": run.name,
        "of_run_id": run.run_id,
        "rounds": [plan.rounds[0], plan.rounds[-1]],
        "strategy": plan.settings.strategy,
        "strategy_options": plan.settings.strategy_options,
        "without": list(plan.left_out.values()),
        "bases": plan.bases,
    }
