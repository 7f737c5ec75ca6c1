"""When an agent dials again."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from fl_main.agent.visits import JITTER, LONGEST_RETRY_S, LOOKS, Retries, Trouble, Visits
from tests.aggregator.memory_link import ports
from tests.simulation.loop import VirtualLoop


def test_pauses_grow_until_there_was_no_trouble() -> None:
    retries, trouble = Retries(lambda: 1.0), Trouble("nothing listens there")
    assert [retries.pause_s(trouble) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    retries.begin_anew()
    assert retries.pause_s(trouble) == 0.1


@pytest.mark.parametrize(
    ("retry_s", "chance", "pause_s"),
    [(8.0, 0.0, 8.0), (8.0, 1.0, 12.0), (0.0, 0.0, 0.1), (-1.0, 0.0, 0.1), (1e300, 0.0, LONGEST_RETRY_S)],
)
def test_aggregator_may_say_when_to_come_again(retry_s: float, chance: float, pause_s: float) -> None:
    assert Retries(lambda: chance).pause_s(Trouble("full", retry_s)) == pause_s


class Laptop:
    """A machine in virtual time whose one clock stands still while it sleeps.

    Attributes:
        slept_s: For how long it has slept so far.
    """

    def __init__(self, chance: float) -> None:
        self.slept_s = 0.0
        loop = asyncio.get_running_loop()
        self.ports = replace(
            ports(),
            wall_time=lambda: loop.time() + self.slept_s,
            chance=lambda: chance,
        )


Story = Callable[[Laptop, Visits], Coroutine[Any, Any, None]]


def paused(every_s: float, chance: float = 0.0, during: Story | None = None) -> float:
    """Return for how long an agent pauses by its machine's clock that stands still."""

    async def main() -> float:
        laptop = Laptop(chance)
        visits = Visits(laptop.ports, every_s)
        async with asyncio.TaskGroup() as tasks:
            begun = asyncio.get_running_loop().time()
            if during:
                tasks.create_task(during(laptop, visits))
            await visits.pause()
            return asyncio.get_running_loop().time() - begun

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_visit_is_a_little_early_by_chance_and_never_late(chance: float) -> None:
    assert paused(600.0, chance) == pytest.approx(600.0 * (1 - JITTER * chance), abs=0.001)


def test_laptop_that_slept_through_its_visit_notices_soon() -> None:
    async def sleeps(laptop: Laptop, visits: Visits) -> None:
        await asyncio.sleep(100.0)
        laptop.slept_s = 28_800.0

    assert 100.0 < paused(600.0, during=sleeps) <= 100.0 + 600.0 / LOOKS


def test_what_is_to_be_said_ends_the_pause() -> None:
    async def hands_in(laptop: Laptop, visits: Visits) -> None:
        await asyncio.sleep(100.0)
        assert visits.is_pausing
        visits.wake()

    assert paused(600.0, during=hands_in) == pytest.approx(100.0, abs=0.001)


def test_what_was_to_be_said_before_the_end_of_a_visit_was_said() -> None:
    async def main() -> float:
        laptop = Laptop(0.0)
        visits = Visits(laptop.ports, 600.0)
        visits.wake()
        visits.end()
        await visits.pause()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == pytest.approx(600.0, abs=0.001)


def test_agent_that_stays_never_asks() -> None:
    assert not Visits(ports(), None).may_ask
    visits = Visits(ports(), 600.0)
    assert visits.may_ask
    visits.end()
    assert not visits.may_ask
