"""What each agent contributed to a run's models, by a metric: its stored updates folded without it.

The game of a round: what a coalition of its agents reaches is the metric of the model that the round's
strategy makes of their updates alone, on the stored model before it; what nobody reaches is that model.
A coalition whose updates make no model, as too few for a robust rule, reaches the same.

Over a run, an agent's contribution is the sum of those to its rounds, each by itself: an earlier update
also shapes what later ones were trained from, which no fold can tell.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from fl_main.errors import StoreError, UpdateRejectedError
from fl_main.sources import Memory
from fl_main.store import DataFile, ModelRecord, RunRecord, RunStatus
from fl_main.strategies import strategy_of
from fl_main.weights import Array, Layout, views

from .. import rows
from ..model_db import ModelDB
from .again import folded, machine_of
from .evaluation import Evaluator
from .games import MOST_PLAYERS, leave_one_out, shapley
from .history import Made
from .planning import Plan, plan_replay
from .records import Contribution, Contributions, RoundContributions

Method = Literal["leave-one-out", "shapley"]
Progress = Callable[[int, int], None]


def contributions(
    db: ModelDB,
    run: str | None = None,
    *,
    evaluate: str | Callable[..., Any],
    metric: str | None = None,
    method: Method = "leave-one-out",
    round_id: int | None = None,
    progress: Progress | None = None,
) -> Contributions:
    """Return what each agent contributed to a run, or to one of its rounds; see the module's text.

    A contribution is in the units of the metric: positive is what makes it larger, which of a loss is
    the worse. Nothing is written.

    Args:
        db: The database.
        run: Its name; may be left out where there is only one.
        evaluate: Measures a model; see `Evaluator`.
        metric: Which of its numbers; may be left out if it is only one.
        method: `shapley` for at most eight agents in a round, of whom it folds every coalition.
        round_id: Only this round.
        progress: Called with the models that are measured, and all.

    Raises:
        SettingsError: If the function, or the metric, is none.
        StoreError: If there is no such round, too many agents, or a model is not stored; the message says
            which and why.
    """
    plan = plan_replay(db, run, round_id)
    if method == "shapley":
        _require_few(plan)
    plan.check()
    return _Game(
        db, plan, Evaluator(evaluate), metric, method, progress or (lambda done, total: None)
    ).played()


def _require_few(plan: Plan) -> None:
    for round_id in plan.rounds:
        players = len(_players(plan.made(round_id)))
        if players > MOST_PLAYERS:
            raise StoreError(
                f"round {round_id} has {players} agents: shapley folds every coalition of at most "
                f"{MOST_PLAYERS}; give --method leave-one-out"
            )


def _players(made: Made) -> list[str]:
    return list(dict.fromkeys(update.agent_id for update in made.updates))


class _Game:
    """The games of a run's rounds."""

    def __init__(
        self,
        db: ModelDB,
        plan: Plan,
        evaluate: Evaluator,
        metric: str | None,
        method: Method,
        progress: Progress,
    ) -> None:
        self._db = db
        self._plan = plan
        self._evaluate = evaluate
        self._metric = metric
        self._method = method
        self._progress = progress
        self._run = _run_record(db, plan)
        self._names = _labels(plan)
        self._done, self._total = 0, sum(map(self._folds, plan.rounds))
        self._without_model = 0

    def _folds(self, round_id: int) -> int:
        players = len(_players(self._plan.made(round_id)))
        return 2**players if self._method == "shapley" else players + 2

    def played(self) -> Contributions:
        """Play all of them."""
        self._progress(0, self._total)
        rounds = [self._round(round_id) for round_id in self._plan.rounds]
        return Contributions(
            self._plan.history.run.name,
            self._metric or "",
            self._method,
            tuple(_summed(rounds)),
            tuple(rounds),
            tuple(self._remarks()),
        )

    def _round(self, round_id: int) -> RoundContributions:
        made = self._plan.made(round_id)
        models = self._plan.models_of(made)
        known: dict[frozenset[str], float] = {}

        def value(coalition: frozenset[str]) -> float:
            if coalition not in known:
                known[coalition] = self._value(made, models, coalition, nobody=known.get(frozenset()))
            return known[coalition]

        players = _players(made)
        nobody = value(frozenset())
        found = (shapley if self._method == "shapley" else leave_one_out)(players, value)
        named = {self._names.get(player, player): amount for player, amount in found.items()}
        return RoundContributions(round_id, nobody, value(frozenset(players)), named)

    def _value(
        self,
        made: Made,
        models: Mapping[str, ModelRecord],
        coalition: frozenset[str],
        nobody: float | None,
    ) -> float:
        """Return what a coalition reaches, measured."""
        weights = self._model_of(made, models, coalition) if coalition else None
        if weights is None and nobody is not None:
            found = nobody
        else:
            if weights is None:
                weights = self._db.model_by_id(made.base_id).weights()
            self._metric, found = self._evaluate.measured(weights, self._metric)
        self._done += 1
        self._progress(self._done, self._total)
        return found

    def _model_of(
        self, made: Made, models: Mapping[str, ModelRecord], coalition: frozenset[str]
    ) -> dict[str, Array] | None:
        """Return the model that the updates of a coalition make; None if they make none."""
        absent = set(_players(made)) - coalition
        part = replace(
            made,
            updates=tuple(update for update in made.updates if update.agent_id in coalition),
            agents=tuple(agent for agent in made.agents if agent.agent_id not in absent),
        )
        states = self._plan.states_of(made, models)
        machine = machine_of(self._run, self._plan.settings, part, models[made.base_id], states, models)
        files = _Scratch(self._db)
        try:
            result = folded(files, self._plan.settings, machine)
        except UpdateRejectedError:
            self._without_model += 1
            return None
        return views(result.model.layout, files.staged[result.model.digest].data, writable=True)

    def _remarks(self) -> list[str]:
        found = []
        if len(self._plan.rounds) > 1:
            found.append(
                "Contributions to a run are sums over its rounds, each on the stored model before it."
            )
        if self._without_model:
            found.append(
                f"{self._without_model} coalitions make no model by this strategy: "
                "they reach what nobody does."
            )
        if strategy_of(self._plan.settings).is_random:
            found.append(
                "The noise of this strategy was drawn anew for each coalition, and is part of all values."
            )
        return found


def _labels(plan: Plan) -> dict[str, str]:
    """Return agents' names by their ids; those of one name are told apart by them."""
    agents = plan.history.run.agents()
    names = Counter(agent.name for agent in agents)
    return {
        agent.agent_id: agent.name if names[agent.name] == 1 else f"{agent.name}/{agent.agent_id}"
        for agent in agents
    }


def _summed(rounds: list[RoundContributions]) -> list[Contribution]:
    """Return the sums over all rounds, the largest first."""
    found: dict[str, list[float]] = {}
    for entry in rounds:
        for agent, value in entry.values.items():
            found.setdefault(agent, []).append(value)
    summed = [Contribution(agent, sum(values), len(values)) for agent, values in found.items()]
    return sorted(summed, key=lambda entry: -entry.value)


def _run_record(db: ModelDB, plan: Plan) -> RunRecord:
    run_id = plan.history.run.run_id
    with db.connect() as connection:
        row = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    found: RunRecord = rows.RUN.read(row)
    return replace(found, status=RunStatus.STOPPED)


class _Staged(Memory):
    """A model that is made in memory; see `fl_main.folding.Staging`."""

    def __init__(self, name: str, layout: Layout) -> None:
        super().__init__(layout)
        self.name = name

    def finish(self) -> str:
        """Return its name, which does for a digest here."""
        return self.name


class _Scratch:
    """Where a fold reads from the database and writes to memory; see `fl_main.folding.Files`."""

    def __init__(self, db: ModelDB) -> None:
        self._db = db
        self.staged: dict[str, _Staged] = {}

    def stage(self, name: str, layout: Layout) -> _Staged:
        """Make room for a model."""
        self.staged[name] = found = _Staged(name, layout)
        return found

    def read(self, digest: str, layout: Layout) -> DataFile:
        """Open a stored payload."""
        return self._db.files.open(digest, layout)
