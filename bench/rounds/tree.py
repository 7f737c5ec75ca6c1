"""The most memory of a process and all that it started."""

import contextlib
import threading

import psutil

from bench.rounds.memory import peak_mib

LOOK_EVERY_S = 0.25


class TreeWatch:
    """Looks at a process and its children every now and then, and adds up those that live at a time.

    Args:
        root: Process id.
    """

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._peak_mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def peak_mib(self) -> float:
        """Return the most up to now."""
        self._look()
        return self._peak_mib

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            total = _peak_mib(self._root) + sum(map(_peak_mib, self._root.children(recursive=True)))
            self._peak_mib = max(self._peak_mib, total)


def _peak_mib(process: psutil.Process) -> float:
    try:
        return peak_mib(process.pid)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0


def end_trees(roots: list[int]) -> None:
    """Kill processes and all that they started, whatever session those are in."""
    found: set[psutil.Process] = set()
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {psutil.Process(root), *psutil.Process(root).children(recursive=True)}
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=10)
