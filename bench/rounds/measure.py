"""Contestants in turns; every single figure goes into a record."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.rounds.compare import Size, size_of
from bench.rounds.contestants import CONTESTANTS
from bench.rounds.plan import Part, rounds_of
from bench.rounds.record import Record, Run
from bench.rounds.work import CannotRunError, Network, Work

Told = Callable[[Run], None]


def measure(record: Record, parts: Sequence[Part], repeats: int, rounds: int | None, told: Told) -> None:
    """Let all contestants of all parts do their work.

    Args:
        record: The figures go into it; what is in it already is not measured again.
        parts: Who does what.
        repeats: Turns of all contestants of a part.
        rounds: That are timed in a run; None: by its size.
        told: Hears of every run that was made, and of those that could not be.
    """
    for part in parts:
        for size in part.sizes:
            for repeat in range(min(repeats, part.most_turns)):
                for name in part.contestants:
                    if repeat < CONTESTANTS[name].most_turns and _is_wanted(
                        record, name, size, part.network, repeat
                    ):
                        run = _run(record, name, size, part.network, repeat, rounds or rounds_of(size))
                        record.runs.append(run)
                        told(run)


def _is_wanted(record: Record, name: str, size: Size, network: Network, repeat: int) -> bool:
    """Whether a run was not made yet; those that failed once are not asked again."""
    theirs = [
        run for run in record.runs if (run.contestant, size_of(run), run.network) == (name, size, network)
    ]
    return not any(run.problem or run.repeat == repeat for run in theirs)


def _run(record: Record, name: str, size: Size, network: Network, repeat: int, rounds: int) -> Run:
    contestant = CONTESTANTS[name]
    rounds = min(rounds, contestant.most_rounds)
    os.sync()  # what the one before wrote must not slow this one
    facts = (name, *size, rounds, network, repeat)
    try:
        if network not in contestant.networks:
            raise CannotRunError(f"it is not made for the network '{network}' here")
        if size.agents > contestant.most_agents:
            raise CannotRunError(
                f"not asked: more than {contestant.most_agents} agents are too many processes"
            )
        if name not in record.versions:
            record.versions[name] = contestant.versions()
        with tempfile.TemporaryDirectory(prefix="fl-bench-", ignore_cleanup_errors=True) as folder:
            figures = contestant.run(Work(*size, rounds, network, Path(folder)))
    except (CannotRunError, OSError) as error:  # a full disk, too
        return Run(*facts, problem=str(error))
    return Run(*facts, **asdict(figures))
