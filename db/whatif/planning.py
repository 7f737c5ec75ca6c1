"""What is to be done in a replay: which rounds, by which settings, without whom; and whether it can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fl_main.errors import SettingsError, StoreError
from fl_main.settings import RunSettings
from fl_main.settings.files import parse_run
from fl_main.steps import steps_of
from fl_main.store import ModelRecord, UpdateRecord
from fl_main.strategies import compose, strategy_of
from fl_main.strategies.base import Strategy

from ..model_db import ModelDB
from ..runs_and_models import Run
from .history import History, Made

Bases = Literal["replayed", "stored"]

_NAMES = 20  # of agents in an error


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        before: The run's own settings.
        settings: The same with the strategy of the replay. A replayed model goes to nobody, so it is
            not encoded for its way.
        left_out: Names of agents whose updates are not combined, by their ids.
        is_changed: Whether anything but the bases differs from what the run did.
        keeps_state: Whether the strategy is still the one whose arrays are stored.
    """

    history: History
    before: RunSettings
    settings: RunSettings
    rounds: tuple[int, ...]
    left_out: Mapping[str, str]
    bases: Bases
    is_changed: bool
    keeps_state: bool

    def made(self, round_id: int) -> Made:
        """Return how a round's model is to be made: as it was, without those who are left out."""
        made = self.history.made(round_id)
        if not self.left_out:
            return made
        updates = tuple(update for update in made.updates if update.agent_id not in self.left_out)
        agents = tuple(agent for agent in made.agents if agent.agent_id not in self.left_out)
        return replace(made, updates=updates, agents=agents)

    def models_of(self, made: Made) -> dict[str, ModelRecord]:
        """Return what a fold of a round reads, by id; see `History.models_of`."""
        return self.history.models_of(made if self.keeps_state else replace(made, state_ids={}))

    def states_of(self, made: Made, models: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
        """Return the stored arrays of the strategy before a round, by name; of another strategy none."""
        return {name: models[state] for name, state in made.state_ids.items()} if self.keeps_state else {}

    def check(self) -> None:
        """See that all is there before anything is done.

        Raises:
            StoreError: If a model is not stored.
            SettingsError: If updates lack what the strategy needs.
        """
        strategy = strategy_of(self.settings)
        for round_id in self.rounds:
            made = self.made(round_id)
            self.models_of(made)
            for update in made.updates:
                _require_needs(strategy, self.settings, update)


def plan_replay(
    db: ModelDB,
    name: str | None,
    round_id: int | None = None,
    strategy: str | list[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    bases: Bases = "replayed",
) -> Plan:
    """Return what is to be done; see `replay.replay`.

    Raises:
        SettingsError: If the strategy is unknown, or does not go with the run's other settings.
        StoreError: If there is no such run, round or agent.
    """
    run = db.run(name)
    history = History(db, run)
    rounds = history.rounds()
    if not rounds:
        raise StoreError(
            f"run {run.name!r} has made no global model by training yet: there is none to replay"
        )
    if round_id is not None:
        history.made(round_id)  # is there such a round?
        rounds = [round_id]
    before = RunSettings.stored(run.facts.settings)
    settings = changed_settings(before, strategy, options)
    keeps_state = _steps(before) == _steps(settings)
    is_changed = bool(without) or settings != before
    compression = settings.compression.model_copy(update={"download": "none"})
    settings = settings.model_copy(update={"compression": compression})
    chosen = left_out(run, without)
    if chosen and len(chosen) == len(run.agents()):
        raise StoreError(
            f"without all of its {len(chosen)} agents there is nothing in run {run.name!r} to replay"
        )
    return Plan(history, before, settings, tuple(rounds), chosen, bases, is_changed, keeps_state)


def _steps(settings: RunSettings) -> list[str]:
    return [name for name, _ in steps_of(settings.strategy)]


def changed_settings(
    before: RunSettings, strategy: str | list[Any] | None, options: Mapping[str, Any] | None
) -> RunSettings:
    """Return a run's settings with another strategy, or some other options of its own.

    Its rounds then say that they need as many updates as that strategy does, whatever they needed.

    Raises:
        SettingsError: If it is unknown, or does not go with the run's other settings.
    """
    if strategy is None and options is None:
        return before
    stated = before.model_dump(mode="json")
    stated["strategy"] = before.strategy if strategy is None else strategy
    stated["strategy_options"] = {**(before.strategy_options if strategy is None else {}), **(options or {})}
    least = compose(stated["strategy"], stated["strategy_options"]).min_updates
    for key in ("min_updates", "min_agents"):
        stated["round"][key] = max(stated["round"][key], least)
    found = parse_run(stated, "replay")
    strategy_of(found)
    return found


def left_out(run: Run, names: Sequence[str]) -> dict[str, str]:
    """Return the names of agents by their ids.

    Raises:
        StoreError: If nobody has one of the names.
    """
    agents = run.agents()
    found: dict[str, str] = {}
    for name in names:
        own = {agent.agent_id: agent.name for agent in agents if name in (agent.agent_id, agent.name)}
        if not own:
            there = ", ".join(agent.name for agent in agents[:_NAMES])
            raise StoreError(f"run {run.name!r} has no agent {name!r}; its agents are: {there or 'none yet'}")
        found |= own
    return found


def _require_needs(strategy: Strategy, settings: RunSettings, update: UpdateRecord) -> None:
    has = {*update.digests, *update.metrics, *(["num_steps"] if update.num_steps is not None else [])}
    if missing := [need for need in (*strategy.up, *strategy.needs) if need not in has]:
        raise SettingsError(
            f"strategy: {settings.strategy_name} needs {missing[0]!r} with every update, which those of "
            f"round {update.round_id} do not have: they were made for another strategy"
        )
