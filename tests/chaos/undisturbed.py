"""The same run without a single fault: what everything is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fl_main.agent import Task, TrainResult
from fl_main.db import ModelDB, Run
from tests.chaos import site
from tests.chaos.lanes import Shape, settings_of
from tests.system.agents import AgentThread
from tests.system.daemons import DaemonThread


class Metric(NamedTuple):
    """What was measured of the model of a round; without a site: the mean of all who did."""

    round_id: int
    source: str
    name: str
    site: str
    value: float
    num_examples: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        digests: Of its initial and global models, by round.
        metrics: Everything that was measured.
    """

    digests: list[str]
    metrics: list[Metric]


def undisturbed(folder: Path, shape: Shape, seed: int, sites: int) -> Outcome:
    """Run it without faults, and return what it came to."""
    run = settings_of(shape, "undisturbed", seed, sites)
    weights = site.initial_weights(shape.values)
    with DaemonThread(folder / "models", [run]) as daemon:
        agents = [
            AgentThread(
                daemon.url,
                f"site{number}",
                folder / f"site{number}",
                _training(number),
                run="undisturbed",
                initial_weights=weights,
                evaluate=site.evaluate,
            )
            for number in range(1, sites + 1)
        ]
        for agent in agents:
            agent.join()
            agent.close()
    with ModelDB(folder / "models") as db:
        return outcome(db.run("undisturbed"))


def outcome(run: Run) -> Outcome:
    """Return what a run in a database came to."""
    models = run.models("initial") + sorted(run.models("global"), key=lambda model: model.round_id)
    sites = {agent.agent_id: agent.name for agent in run.agents()}
    metrics = [
        Metric(m.round_id, m.source, m.name, sites.get(m.agent_id or "", ""), m.value, m.num_examples)
        for m in run.metrics()
    ]
    return Outcome([model.digest for model in models], metrics)


def _training(number: int) -> Callable[[Task], TrainResult]:
    return lambda task: site.train(task, number)
