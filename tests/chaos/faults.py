"""What can go wrong, and how it is made to: each fault acts on the scene, and may last for a while."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import moments
from tests.chaos.lanes import Site
from tests.chaos.processes import Supervised
from tests.chaos.scene import TROUBLE_OF_DAEMON, Scene
from tests.chaos.watching import Change, Watch

AIM_S = 1.2  # how long a kill waits for the moment that it is aimed at ...
LOOK_EVERY_S = 0.2  # ... while the scene goes on

_HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Aim:
    """A moment that a kill waits for: a change of a file."""

    name: str
    folder: str
    changes: Change
    pattern: str = ""


AT_DAEMON = (
    Aim("a model is staged", "models/.staging", Change.CREATED),
    Aim("bytes are staged", "models/.staging", Change.MODIFIED),
    Aim("a fold begins", "models/.staging", Change.CREATED, ".train.weights"),
    Aim("a fold writes", "models/.staging", Change.MODIFIED, ".train.weights"),
    Aim("a file goes to its place", "models/.staging", Change.MOVED_FROM),
    Aim("rows are written", "", Change.MODIFIED, "-wal"),
)
AT_SITE = (
    Aim("an update is begun", "outbox", Change.CREATED, ".safetensors"),
    Aim("an update is written", "outbox", Change.MODIFIED, ".safetensors"),
    Aim("its facts are written", "outbox", Change.CREATED, ".tmp"),
    Aim("it is whole", "outbox", Change.MOVED_TO, ".json"),
    Aim("it was answered", "outbox", Change.DELETED),
    Aim("state is kept", "state", Change.CREATED),
    Aim("state becomes current", "state", Change.MOVED_TO),
)


# --- kills -----------------------------------------------------------------------------------


def kill_daemon(scene: Scene) -> None:
    daemon, how = scene.daemon, ""
    if not daemon.is_listening and scene.chance.random() < 0.9:
        return
    if daemon.is_listening and scene.chance.random() < 0.85:
        aim = scene.chance.choice(AT_DAEMON)
        if not (how := _awaited(scene, daemon, scene.database / aim.folder, aim)):
            return
    if daemon.is_running and not daemon.is_frozen:
        scene.kill_daemon(how)


def kill_site(scene: Scene) -> None:
    sites = [site for site in scene.alive_sites() if not site.process.is_frozen]
    busy = [site for site in sites if moments.of_site(site) not in moments.IDLE]
    if not busy and (not sites or scene.chance.random() < 0.8):
        return
    site, how = scene.chance.choice(busy or sites), ""
    if scene.chance.random() < 0.5:
        aim = scene.chance.choice(AT_SITE)
        if not (how := _awaited(scene, site.process, site.folder / aim.folder, aim)):
            return
    if site.process.is_running and not site.process.is_frozen:
        scene.kill_site(site, how)


def kill_all(scene: Scene) -> None:
    if scene.daemon.is_running:
        scene.kill_daemon(", all at once")
    for site in list(scene.alive_sites()):
        scene.kill_site(site, ", all at once")


def _awaited(scene: Scene, process: Supervised, folder: Path, aim: Aim) -> str:
    """Wait for a moment in a process's life; return it in words, or nothing if it did not come."""
    end = time.monotonic() + AIM_S
    try:
        with Watch(folder, aim.changes) as watch:
            while time.monotonic() < end and process.is_running:
                if watch.wait(aim.pattern, LOOK_EVERY_S):
                    return f", just as {aim.name}"
                scene.look(may_begin=True)
    except OSError:  # the folder is not there yet
        pass
    return ""


# --- processes -------------------------------------------------------------------------------


def stop_daemon(scene: Scene) -> None:
    if scene.daemon.is_listening and not scene.daemon.is_stopping and not scene.daemon.is_frozen:
        scene.daemon.terminate()
        scene.story.fault("ordered stop", "the daemon is told to stop")


def freeze_daemon(scene: Scene) -> None:
    seconds = scene.chance.uniform(0.2, 5)
    if scene.daemon.is_running and not scene.is_in_force("frozen daemon"):
        scene.daemon.freeze()
        scene.last_for("frozen daemon", seconds, scene.daemon.thaw)
        scene.story.fault("frozen daemon", f"the daemon is frozen for {seconds:.1f} s")


def freeze_site(scene: Scene) -> None:
    sites = [site for site in scene.alive_sites() if not site.process.is_frozen]
    if sites:
        site, seconds = scene.chance.choice(sites), scene.chance.uniform(0.2, 5)
        site.process.freeze()
        scene.last_for("frozen site", seconds, site.process.thaw)
        scene.story.fault("frozen site", f"{site.process.name} is frozen for {seconds:.1f} s")


# --- the network -----------------------------------------------------------------------------


def cut(scene: Scene) -> None:
    if site := _any_site(scene):
        site.line.cut()
        scene.story.fault("cut line", f"{site.process.name}: its line is cut")


def cut_in_transfer(scene: Scene) -> None:
    if site := _any_site(scene):
        count = scene.chance.randrange(1, scene.chance.choice((300, 10_000, 3_000_000)))
        site.line.cut_after(count)
        scene.story.fault("cut line", f"{site.process.name}: its line will be cut at byte {count} from now")


def silence(scene: Scene) -> None:
    if site := _any_site(scene):
        site.line.silence()
        scene.story.fault("half-open line", f"{site.process.name}: its line is dead, and nobody is told")


def stall(scene: Scene) -> None:
    if site := _any_site(scene):
        line, seconds = site.line, scene.chance.uniform(0.2, 6)
        line.stall(True)
        scene.last_for("stalled line", seconds, lambda: line.stall(False))
        scene.story.fault("stalled line", f"{site.process.name}: nothing passes for {seconds:.1f} s")


def throttle(scene: Scene) -> None:
    if site := _any_site(scene):
        line, seconds = site.line, scene.chance.uniform(1, 6)
        before, rate = line.bytes_per_s, 10 ** scene.chance.uniform(3, 5.5)
        line.bytes_per_s = rate
        scene.last_for("slow line", seconds, lambda: setattr(line, "bytes_per_s", before))
        scene.story.fault("slow line", f"{site.process.name}: {rate:.0f} bytes/s for {seconds:.1f} s")


def delay(scene: Scene) -> None:
    if site := _any_site(scene):
        line, seconds = site.line, scene.chance.uniform(1, 6)
        line.delay_s = scene.chance.uniform(0.05, 0.5)
        scene.last_for("long line", seconds, lambda: setattr(line, "delay_s", 0.0))
        scene.story.fault(
            "long line", f"{site.process.name}: {line.delay_s:.2f} s of delay for {seconds:.1f} s"
        )


def _any_site(scene: Scene) -> Site | None:
    sites = scene.sites()
    return scene.chance.choice(sites) if sites else None


# --- the disk --------------------------------------------------------------------------------


def fill_disk(scene: Scene) -> None:
    if not scene.disk.is_mounted or _is_disk_used(scene) or not scene.daemon.is_listening:
        return
    seconds = scene.chance.uniform(1, 8)
    left = scene.chance.choice((0, scene.chance.randrange(100_000), scene.chance.randrange(4_000_000)))
    scene.disk.fill(left)
    scene.last_for("full disk", seconds, scene.disk.free)
    scene.story.fault("full disk", f"the daemon's disk has {left} bytes left for {seconds:.1f} s")
    _kill_meanwhile(scene, seconds)


def fill_states(scene: Scene) -> None:
    if not scene.states.is_mounted or scene.is_in_force("full disk of sites"):
        return
    seconds = scene.chance.uniform(0.5, 4)
    left = scene.chance.choice((0, scene.chance.randrange(20_000), scene.chance.randrange(4_000_000)))
    scene.states.fill(left)
    scene.last_for("full disk of sites", seconds, scene.states.free)
    scene.story.fault("full disk of sites", f"the sites' disk has {left} bytes left for {seconds:.1f} s")


def make_read_only(scene: Scene) -> None:
    """Make the disk read-only under a daemon that was killed: the system refuses under a live one."""
    if not scene.disk.is_mounted or not scene.daemon.is_running or _is_disk_used(scene):
        return
    scene.kill_daemon(", its disk becomes read-only")
    if scene.disk.set_read_only(True):
        seconds = scene.chance.uniform(0.5, 3)
        scene.last_for("read-only disk", seconds, lambda: _writable(scene))
        scene.story.fault("read-only disk", f"the daemon's disk is read-only for {seconds:.1f} s")


def _writable(scene: Scene) -> None:
    if not scene.disk.set_read_only(False):
        raise OSError(f"{scene.disk.folder} cannot be made writable again")


def lock_database(scene: Scene) -> None:
    """Let another process hold SQLite's write lock, which the daemon must wait for."""
    if _is_disk_used(scene) or not scene.daemon.is_listening:
        return
    seconds = scene.chance.uniform(0.1, 3) if scene.chance.random() < 0.8 else scene.chance.uniform(9, 14)
    holder = subprocess.Popen(
        [sys.executable, "-SE", "-c", _HOLD_LOCK, str(scene.database / "fl.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def release() -> None:
        holder.kill()
        holder.communicate()

    scene.last_for("locked database", seconds, release)
    scene.story.fault("locked database", f"another process locks the database for {seconds:.1f} s")
    _kill_meanwhile(scene, seconds)


def _kill_meanwhile(scene: Scene, seconds: float) -> None:
    """Now and then kill the daemon while it holds what it cannot store."""

    def kill() -> None:
        if scene.daemon.is_listening:
            scene.kill_daemon(", while its disk was of no use")

    if scene.chance.random() < 0.6:
        scene.last_for("kill", scene.chance.uniform(0.3, max(0.3, min(seconds, 3))), kill)


def _is_disk_used(scene: Scene) -> bool:
    return any(map(scene.is_in_force, TROUBLE_OF_DAEMON))


# --- operators -------------------------------------------------------------------------------


def pause(scene: Scene) -> None:
    runs = [run for run in scene.current() if run.is_created and not run.orders]
    if runs:
        run = scene.chance.choice(runs)
        run.orders += [scene.around.order("run", order, run.name) for order in ("pause", "resume")]
        scene.story.fault("pause", f"{run.name} is paused and resumed")


FAULTS: dict[Callable[[Scene], None], float] = {
    kill_daemon: 26,
    kill_site: 34,
    kill_all: 2,
    stop_daemon: 5,
    freeze_daemon: 2,
    freeze_site: 4,
    cut: 4,
    cut_in_transfer: 8,
    silence: 3,
    stall: 3,
    throttle: 3,
    delay: 3,
    fill_disk: 4,
    fill_states: 2,
    make_read_only: 1,
    lock_database: 6,
    pause: 2,
}
