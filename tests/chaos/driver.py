"""The chaos itself: faults at random moments while runs go on, then the checks."""

import os
import random
import sys
import time
from contextlib import suppress

from tests.chaos.checks import Checks
from tests.chaos.faults import FAULTS
from tests.chaos.options import Options
from tests.chaos.scene import Scene
from tests.chaos.story import Story
from tests.chaos.summary import summary

CALM_AFTER_S = 30.0  # without a new round: faults may be too many, so a pause of them must help ...
STUCK_AFTER_S = 120.0  # ... or something hangs


def run(options: Options) -> bool:
    """Run the chaos as told; whether everything was as it must be."""
    _take_precedence()
    options.folder.mkdir(parents=True, exist_ok=True)
    story, chance = Story(options.folder / "story.txt"), random.Random(options.seed)
    with Scene(options, story, chance) as scene:
        _tell_beginning(scene)
        _disturb(scene)
        finish(scene)
        checks = Checks(scene)
        try:
            checks.run()
        finally:
            if story.problems:
                _keep(scene)
        for line in summary(scene, checks):
            print(line, flush=True)
    return not story.problems


def _take_precedence() -> None:
    """Let this thread run whenever it wants: a kill that comes late hits what comes after its moment."""
    sys.setswitchinterval(0.0002)  # the network's thread holds the interpreter no longer than that
    if hasattr(os, "sched_setscheduler"):
        with suppress(PermissionError):  # where root; other threads and processes do not inherit it
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _tell_beginning(scene: Scene) -> None:
    options = scene.options
    scene.story.tell(f"seed {options.seed}, {options.sites} sites in each run, {options.kills} kills")
    if not scene.disk.is_mounted:
        scene.story.tell("not root: the disk is a plain folder, which is never filled or made read-only")


def _disturb(scene: Scene) -> None:
    """Make faults until there were enough kills."""
    options, story = scene.options, scene.story
    weights = {
        fault: weight
        for fault, weight in FAULTS.items()
        if not options.only or fault.__name__ in options.only
    }
    next_fault_at = time.monotonic() + 3.0
    while story.killed < options.kills and story.seconds < options.seconds and not story.problems:
        scene.look(may_begin=True)
        if _is_calm_due(scene):
            next_fault_at = time.monotonic() + 1.0
        elif time.monotonic() >= next_fault_at and any(run.is_created for run in scene.current()):
            scene.chance.choices(list(weights), list(weights.values()))[0](scene)
            next_fault_at = time.monotonic() + scene.chance.expovariate(1 / options.pace_s)


def _is_calm_due(scene: Scene) -> bool:
    """Whether faults must pause until the next round; tells if even that does not help."""
    still_s = time.monotonic() - scene.progress_at
    if still_s > CALM_AFTER_S and scene.lasting:
        scene.undo_all()
    if still_s > STUCK_AFTER_S:
        scene.story.problem(f"no round came to its end for {still_s:.0f} s: {_state(scene)}")
    return still_s > CALM_AFTER_S


def finish(scene: Scene) -> None:
    """End all faults, wait until the runs that are under way are over, and stop the daemon."""
    scene.undo_all()
    scene.story.tell("no more faults; the runs may finish")
    scene.progress_at = time.monotonic()
    while scene.current() and not scene.story.problems:
        scene.look(may_begin=False)
        _is_calm_due(scene)
    end = time.monotonic() + CALM_AFTER_S
    scene.daemon.terminate()
    while scene.daemon.is_running and time.monotonic() < end:
        time.sleep(0.05)
    if (code := scene.daemon.ended()) != 0 and not scene.story.problems:
        scene.story.problem(f"the last ordered stop of the daemon came to {code}")


def _state(scene: Scene) -> str:
    """Return in words where each run is stuck."""
    words = []
    for run in scene.current():
        at = ", ".join(
            f"{site.name}: {site.journal.last()['fact']}" for site in run.sites if not site.is_over
        )
        words.append(f"{run.name} in round {scene.rounds.get(run.name, 0)} ({at or 'all sites ended'})")
    return "; ".join(words) + f"; the daemon {'runs' if scene.daemon.is_running else 'is down'}"


def _keep(scene: Scene) -> None:
    """Copy what is on the mounted disks to where it stays."""
    for disk in (scene.disk, scene.states):
        if disk.is_mounted:
            disk.copy_to(scene.options.folder / f"{disk.folder.name}-kept")
