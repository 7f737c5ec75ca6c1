"""What comes next in a run: the sequence of steps, and when it is enough."""

import hashlib
from dataclasses import dataclass

from fl_main.settings import RunSettings, TargetSettings
from fl_main.store import RunRecord
from fl_main.training import Kind


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a round: the same kind of task for a cohort."""

    round_id: int
    kind: Kind


def next_step(run: RunRecord, settings: RunSettings) -> Step:
    """Return the step to take from where the run stands (its last finished step)."""
    if run.model_id is None:
        return Step(0, Kind.INITIALISE)
    if settings.statistics and run.statistics_id is None:
        return Step(0, Kind.STATISTICS)
    if run.kind is Kind.TRAIN and is_evaluated(run, settings):
        return Step(run.round_id, Kind.EVALUATE)
    return Step(run.round_id + 1, Kind.TRAIN)


def is_evaluated(run: RunRecord, settings: RunSettings) -> bool:
    """Whether the model of the round that was just trained is to be evaluated."""
    every = settings.evaluate.every
    return bool(every) and (run.rounds_done % every == 0 or end_reason(run, settings) != "")


def end_reason(run: RunRecord, settings: RunSettings) -> str:
    """Return why the run is to end now, or an empty text."""
    end = settings.end
    if run.rounds_done >= rounds_wanted(run, settings):
        return f"{run.rounds_done} rounds are done"
    if end.max_s is not None and run.run_time_s >= end.max_s:
        return f"{end.max_s:g} s of run time are over"
    best = settings.best
    if run.best_value is None:
        return ""
    if end.target is not None and not is_better(end.target, run.best_value, best):
        return f"{best.source} {best.metric} reached {run.best_value:g} (target {end.target:g})"
    if end.patience is not None and run.rounds_done - run.best_round >= end.patience:
        return f"{best.source} {best.metric} did not improve for {end.patience} rounds"
    return ""


def rounds_wanted(run: RunRecord, settings: RunSettings) -> int:
    """Return how many global models the run is to make in all."""
    return settings.end.rounds if run.rounds_wanted is None else run.rounds_wanted


def is_better(value: float, than: float | None, target: TargetSettings) -> bool:
    """Whether a value of the `best` metric is better than another one."""
    if than is None:
        return True
    return value < than if target.direction == "min" else value > than


def derive_seed(run_seed: int, *path: str | int) -> int:
    """Return a seed of 63 bits for a place in a run, e.g. (round, agent): always the same."""
    text = "/".join(map(str, (run_seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_id(*path: str | int) -> str:
    """Return an id of 24 hexadecimal digits for a place in a run: the same after every restart."""
    return hashlib.sha256("/".join(map(str, path)).encode()).hexdigest()[:24]


def download_id_of(model_id: str | None) -> str | None:
    """Return the id that the encoded form of a global model has, if there is one."""
    return None if model_id is None else derive_id(model_id, "download")
