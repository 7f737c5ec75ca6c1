"""What sites keep with their updates: current once these were counted in a global model, as at an agent."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from fl_main.frozen import FrozenArrays
from fl_main.sources import Memory
from fl_main.weights import Array, Layout, pack, views


class States:
    """Private arrays, and what a training function wants to find again."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Mapping[str, Array]]] = {}  # by site and task, oldest first

    def put(self, site: str, task_id: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays for the case that a task's update is counted."""
        self._kept.setdefault(site, {})[task_id] = FrozenArrays(arrays).arrays

    def promote(self, site: str, task_id: str) -> None:
        """Make the arrays kept with a task current, unless newer ones are, and forget older ones."""
        kept = self._kept.get(site, {})
        if task_id in kept:
            tasks = list(kept)
            newer = {task: kept[task] for task in tasks[tasks.index(task_id) + 1 :]}
            self._kept[site] = {"": kept[task_id], **newer}

    def drop(self, site: str, task_id: str) -> None:
        """Forget what was kept with an update that will not be counted."""
        self._kept.get(site, {}).pop(task_id, None)

    def current(self, site: str) -> Mapping[str, Array]:
        """Return the arrays kept with the last update that was counted."""
        return self._kept.get(site, {}).get("", {})


@dataclass(frozen=True, slots=True)
class _Left:
    """What a codec left out of an update.

    Attributes:
        number: Of the site's updates, in the order in which they were made.
        basis: What the update began with.
        residual: What it leaves to the next one.
    """

    number: int
    basis: Memory | None
    residual: Memory


class Residuals:
    """Error feedback of one site: what was left out of its updates, to be added to the next one.

    The rule is an agent's, see `fl_main.agent.shelf.Residuals`: an update begins with what the newest one
    before it left that will be counted, and with what is current if there is none. One that is counted out of
    turn adds the change that it made.
    """

    def __init__(self) -> None:
        self._current: Memory | None = None
        self._waiting: dict[str, _Left] = {}  # by task, oldest first
        self._made = 0  # updates so far
        self._reach = 0  # the number of the last one that is part of what is current

    def newest(self, uncounted: Container[str]) -> Memory | None:
        """Return what the next update begins with; None for nothing.

        Args:
            uncounted: Tasks whose update was accepted and will be counted.
        """
        newer = [
            left.residual
            for task_id, left in self._waiting.items()
            if task_id in uncounted and left.number > self._reach
        ]
        return newer[-1] if newer else self._current

    def put(self, task_id: str, basis: Memory | None, residual: Memory) -> None:
        """Keep what is left of an update for the case that it is counted.

        Args:
            basis: What `newest` returned for it.
            residual: What is left of it.
        """
        self._made += 1
        self._waiting[task_id] = _Left(self._made, basis, residual)

    def promote(self, task_id: str) -> None:
        """Take what is left of an update into what is current: it was counted."""
        left = self._waiting.pop(task_id, None)
        if left is not None:
            is_in_turn = left.basis is self._current
            self._current = left.residual if is_in_turn else _with_change(self._current, left)
            self._reach = left.number

    def drop(self, task_id: str) -> None:
        """Forget what is left of an update that will not be counted."""
        self._waiting.pop(task_id, None)


def _with_change(current: Memory | None, left: _Left) -> Memory:
    """Return current + (residual - basis), computed in the order in which an agent does."""
    layout: Layout = left.residual.layout
    arrays = {name: array.copy() for name, array in views(layout, left.residual.data).items()}
    for operation, other in ((np.subtract, left.basis), (np.add, current)):
        if other is not None:
            values = views(other.layout, other.data)
            for name in arrays:
                operation(arrays[name], values[name], out=arrays[name])
    return Memory(layout, pack(arrays, layout))
