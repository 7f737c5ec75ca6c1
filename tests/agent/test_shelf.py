"""What a codec left out of updates is not lost, and not counted twice, whatever becomes of them."""

from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fl_main.agent.shelf import Residuals
from fl_main.disk import RealDisk
from fl_main.local import kept as local
from fl_main.sources import Memory
from fl_main.weights import Array, Layout, pack, pieces

SIZE = 5
LAYOUT = Layout.of({"w": np.zeros(SIZE)})


class Killed(Exception):
    """The process was killed."""


class Disk(RealDisk):
    """A disk whose user is killed at one of its moves and deletions."""

    def __init__(self) -> None:
        self.calls_left = 10**9

    def _call(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Killed

    def move(self, source: Path, target: Path) -> None:
        self._call()
        super().move(source, target)
        self._call()

    def remove(self, path: Path) -> None:
        self._call()
        super().remove(path)


class Site:
    """A site that sends the even part of what it wants to, and a bookkeeper beside it.

    Whole numbers, which float64 adds without rounding: the law holds to the bit.
    """

    def __init__(self, folder: Path, random: Random) -> None:
        folder.mkdir()
        self.disk = Disk()
        self.random = random
        self.folder = folder
        self.owed = np.zeros(SIZE)  # what counted updates wanted, less what they sent
        self.waiting: dict[str, Array] = {}  # the same of each that may still be counted
        self.number = 0
        self.restart()

    def restart(self) -> None:
        self.disk.calls_left = 10**9
        self.shelf = Residuals(self.folder, self.disk, durable=False)
        self.shelf.sweep(())

    def update(self, uncounted: Iterable[str]) -> str:
        basis, left = self.shelf.newest(set(uncounted))
        wanted = np.array([self.random.randint(-9, 9) for _ in range(SIZE)], float)
        asked = wanted + left.get("w", np.zeros(SIZE))
        sent = asked - asked % 2
        self.number += 1
        task_id = f"{self.number:024x}"
        self.shelf.put(task_id, pieces({"w": asked - sent}, LAYOUT), LAYOUT, basis)
        self.shelf.settle(task_id, is_accepted=True)
        self.waiting[task_id] = wanted - sent
        return task_id

    def count(self, task_id: str) -> None:
        """Count an update; those that are older, and were not, never will be."""
        calls = self.random.choice([0, 1, 2, 3, 4, 10**9])
        self.disk.calls_left = calls
        try:
            self.shelf.promote(task_id)
        except Killed:
            self.restart()
            self.shelf.promote(task_id)  # said again on the next connection
        self.disk.calls_left = 10**9
        self.shelf.promote(task_id)  # said twice
        self.owed += self.waiting[task_id]
        for older in [other for other in self.waiting if other <= task_id]:
            del self.waiting[older]

    def current(self) -> Array:
        return self.shelf.newest(())[1].get("w", np.zeros(SIZE))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "feedback", Random(0))


def test_residual_is_current_once_its_update_counted(site: Site) -> None:
    first = site.update(())
    assert not site.current().any()
    site.count(first)
    np.testing.assert_array_equal(site.current(), site.owed)
    assert len(list(site.folder.iterdir())) == 1


def test_update_that_was_refused_leaves_the_residual_as_it_was(site: Site) -> None:
    site.count(site.update(()))
    before = site.current()
    basis, _ = site.shelf.newest(())
    site.shelf.put("f" * 24, pieces({"w": np.ones(SIZE)}, LAYOUT), LAYOUT, basis)
    site.shelf.settle("f" * 24, is_accepted=False)
    site.shelf.promote("f" * 24)
    np.testing.assert_array_equal(site.current(), before)


@pytest.mark.parametrize("seed", range(12))
def test_sum_of_what_was_sent_and_what_is_left_is_what_was_wanted(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    site = Site(tmp_path / "feedback", random)
    for _ in range(40):
        if not site.waiting or random.random() < 0.5:
            known = list(site.waiting) if random.random() < 0.8 else []  # as the task says
            site.update(known)
        else:
            site.count(random.choice(list(site.waiting)))
        if random.random() < 0.1:
            site.restart()
        np.testing.assert_array_equal(site.current(), site.owed)
    assert len(list(site.folder.iterdir())) <= 2 * len(site.waiting) + 2


@pytest.mark.parametrize("seed", range(12))
def test_sites_of_a_local_run_begin_with_the_same_to_the_bit(seed: int, tmp_path: Path) -> None:
    """Updates are made, counted in any order and left out, here and in `run_local`'s memory."""
    random, noise = Random(seed), np.random.default_rng(seed)
    shelf, memory = Residuals(tmp_path, RealDisk(), durable=False), local.Residuals()
    waiting: list[str] = []
    for number in range(60):
        uncounted = [task for task in waiting if random.random() < 0.8]  # as the task says
        basis, kept = shelf.newest(uncounted)
        found = memory.newest(uncounted)
        assert (kept["w"].tobytes() if kept else b"") == bytes(found.data if found else b"")
        if not waiting or random.random() < 0.5:
            task, left = f"{number:024x}", noise.normal(size=SIZE)
            shelf.put(task, pieces({"w": left}, LAYOUT), LAYOUT, basis)
            shelf.settle(task, is_accepted=True)
            memory.put(task, found, Memory(LAYOUT, pack({"w": left}, LAYOUT)))
            waiting.append(task)
        elif random.random() < 0.8:
            task = random.choice(waiting)
            shelf.promote(task)
            memory.promote(task)
            waiting = [other for other in waiting if other > task]
        else:  # its round failed
            memory.drop(waiting.pop(random.randrange(len(waiting))))


def test_what_another_run_left_is_forgotten(site: Site) -> None:
    site.shelf.begin("run1")
    site.count(site.update(()))
    site.shelf.begin("run1")
    assert site.shelf.newest(())[0] > 0
    site.shelf.begin("run2")
    assert site.shelf.newest(()) == (0, {})


def test_updates_that_are_counted_out_of_turn_both_leave_their_part(tmp_path: Path) -> None:
    shelf = Residuals(tmp_path, RealDisk(), durable=False)
    shelf.put("a" * 24, pieces({"w": np.full(SIZE, 3.0)}, LAYOUT), LAYOUT, 0)  # left 3
    shelf.settle("a" * 24, is_accepted=True)
    basis, _ = shelf.newest({"a" * 24})
    shelf.put("b" * 24, pieces({"w": np.full(SIZE, 5.0)}, LAYOUT), LAYOUT, basis)  # 2 more
    shelf.settle("b" * 24, is_accepted=True)

    shelf.promote("b" * 24)
    assert shelf.newest({"a" * 24})[1]["w"].tolist() == [2.0] * SIZE
    shelf.promote("a" * 24)
    shelf.promote("b" * 24)  # heard of twice

    assert shelf.newest(())[1]["w"].tolist() == [5.0] * SIZE
