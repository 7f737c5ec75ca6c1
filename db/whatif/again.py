"""One round again: its stored updates through the round machine and the fold that the daemon has."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from fl_main.errors import FLError, StrategyError
from fl_main.events import Fold, StepFolded
from fl_main.folding import Files, fold_plan, fold_step
from fl_main.plan import derive_id
from fl_main.rounds import RoundMachine
from fl_main.settings import RunSettings
from fl_main.store import ModelRecord, Phase, RoundRecord, RunRecord, RunSnapshot
from fl_main.strategies import strategy_of
from fl_main.training import Kind

from .history import Made, model_ids_of

Models: TypeAlias = Mapping[str, ModelRecord]


def renamed(made: Made, models: Models, run_id: str) -> tuple[Made, Models]:
    """Return a round whose updates answer tasks of another run: in a database, a task is answered once.

    Args:
        models: What the updates brought, and what they began from, by id.
        run_id: Of the other run.

    Returns:
        The round, and the same models under the ids by which the round machine looks for them.
    """
    updates = [replace(update, task_id=derive_id(run_id, update.task_id)) for update in made.updates]
    found = dict(models)
    for before, after in zip(made.updates, updates, strict=True):
        pairs = zip(model_ids_of(before), model_ids_of(after), strict=True)
        found.update({new: models[old] for old, new in pairs})
    return replace(made, updates=tuple(updates)), found


def machine_of(
    run: RunRecord,
    settings: RunSettings,
    made: Made,
    base: ModelRecord,
    states: Models,
    models: Models,
) -> RoundMachine:
    """Return the round machine of a run as it stands when the updates of a round are frozen.

    Args:
        run: Whose round it is to be.
        made: The round; its step's list of tasks is not looked at, its updates are.
        base: The global model to go on from.
        states: The strategy's arrays, by name.
        models: What the updates brought, and what they began from, by id.
    """
    updates = tuple(
        replace(update, run_id=run.run_id, counted_in=None, staleness=None, share=None, notes={})
        for update in made.updates
    )
    agents = [agent.agent_id for agent in made.agents]
    step = replace(
        made.step,
        run_id=run.run_id,
        status="frozen",
        frozen=tuple(update.task_id for update in updates),
        eligible=tuple(agent for agent in made.step.eligible if agent in agents),
        invited=tuple(agent for agent in made.step.invited if agent in agents),
    )
    began_s = made.round.started_s
    stand = replace(
        run,
        phase=Phase.AGGREGATING,
        round_id=made.round.round_id,
        kind=Kind.TRAIN,
        model_id=base.model_id,
        state_ids={name: state.model_id for name, state in states.items()},
        rounds_done=made.version - 1,
        failed_rounds=0,
        run_time_s=made.round.ended_s or began_s,
    )
    snapshot = RunSnapshot(
        stand,
        RoundRecord(run.run_id, made.round.round_id, "open", base.model_id, started_s=began_s),
        step,
        (),
        updates,
        {**models, base.model_id: base, **{state.model_id: state for state in states.values()}},
        tuple(replace(agent, run_id=run.run_id) for agent in made.agents),
    )
    return RoundMachine(settings, strategy_of(settings), snapshot)


def fold_of(machine: RoundMachine) -> Fold:
    """Return what a machine at that point asks for."""
    step = machine.step
    updates = tuple(machine.updates[task_id] for task_id in step.frozen) if step else ()
    return Fold(machine.run.round_id, Kind.TRAIN, step.attempt if step else 0, updates)


def folded(files: Files, settings: RunSettings, machine: RoundMachine) -> StepFolded:
    """Fold what a machine asks for.

    Raises:
        UpdateRejectedError: If these updates make no model.
        StrategyError: If the strategy fails.
        StoreError: If a file cannot be read or written.
    """
    fold = fold_of(machine)
    try:
        return fold_step(files, settings, fold_plan(machine, fold))
    except FLError:
        raise
    except Exception as error:  # a user's strategy may raise anything
        raise StrategyError(f"the strategy failed: {type(error).__name__}: {error}") from error
