"""Federated training of several sites in one call, without a daemon.

The same round machine, strategies and fold as the daemon's, driven in memory: for the first
minutes, for tests, for debugging a training function before it goes to the sites. Where sites
are told how long they take, time is virtual: a fleet of slow and fast ones is tried in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fl_main.errors import SettingsError
from fl_main.local.contract import LocalRound, LocalRun, LocalTask
from fl_main.local.defaults import rounds_of
from fl_main.local.driver import Driver
from fl_main.local.sites import Program
from fl_main.settings.files import parse_run
from fl_main.training import Evaluation, TrainResult

__all__ = ["LocalRound", "LocalRun", "LocalTask", "run_local"]


def run_local(
    train: Callable[[LocalTask], TrainResult],
    sites: Mapping[str, Any],
    initial_weights: Mapping[str, Any],
    *,
    rounds: int = 10,
    config: Mapping[str, Any] | None = None,
    evaluate: Callable[..., Evaluation] | None = None,
    statistics: Callable[[Any], Mapping[str, Any]] | None = None,
    strategy: str | Sequence[str | Mapping[str, Any]] = "",
    strategy_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    seconds: Callable[[str, int], float] | None = None,
    on_round: Callable[[LocalRound], None] | None = None,
) -> LocalRun:
    """Train one model over several sites, in this process.

    Args:
        train: The function that `Agent.run` takes; `task.data` holds the site's data.
        sites: Data of each site, by its name; passed on as it is.
        initial_weights: The model to start from.
        rounds: Global models to make.
        config: Passed to the training function as `task.config`.
        evaluate: Measures a global model on a site's data, after every round: `evaluate(weights, data)`;
            a parameter `state` gets what the site kept.
        statistics: Returns sums and counts of a site's data, to be added up before round 1.
        strategy: Its name in the settings, or a list of steps; default: what the mode has by default.
        strategy_options: The options of one name.
        seed: The tasks' seeds follow from it.
        settings: Further settings of a run, as in its file: `{"mode": "async"}`. Without others,
            a sync round needs an update of every site, and one update is enough in other modes.
        seconds: Returns how long a site takes for its n-th task (0, 1, …): virtual seconds, in
            which deadlines and the order of updates are those of such a fleet.
        on_round: Called with each new global model.

    Raises:
        SettingsError: If the strategy is unknown, a setting is out of range, or there is no site.
        WeightsError: If what a function of yours gave back are no arrays or numbers.
        RunFailedError: If a round cannot be completed: the reason names the site.
    """
    if not isinstance(sites, Mapping):
        raise SettingsError(f"sites are data by name, {{'a': …}}, not {type(sites).__name__}")
    if not sites:
        raise SettingsError("sites: there is none; at least one is needed")
    if seconds is not None and not callable(seconds):
        raise SettingsError("run_local: seconds must be a function of a site's name and a number")
    stated: dict[str, Any] = {
        "name": "local",
        "strategy_options": dict(strategy_options or {}),
        "seed": seed,
        "statistics": statistics is not None,
        "config": dict(config or {}),
        "evaluate": {"every": 1 if evaluate else 0},
        **({"strategy": strategy if isinstance(strategy, str) else list(strategy)} if strategy else {}),
        **(settings or {}),
        "end": {"rounds": rounds, **(settings or {}).get("end", {})},
        "round": rounds_of(len(sites), settings or {}),
    }
    checked, program = parse_run(stated, "run_local"), Program(train, evaluate, statistics)
    return Driver(checked, program, sites, initial_weights, seconds, on_round).run()
