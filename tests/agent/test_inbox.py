"""Tasks on their way to the program."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fl_main.agent.exchange import Ending, Work
from fl_main.agent.inbox import Inbox
from fl_main.errors import RefusedError
from fl_main.messages import Assign

Story = Callable[[Inbox], Coroutine[Any, Any, None]]

FIRST, SECOND = (Assign(task_id=letter * 24, kind="train", round_id=1, credit=8) for letter in "ab")
ENDING = Ending("finished", "rounds", 1, {}, {})


@pytest.fixture
def play() -> Callable[[Story], None]:
    """Run a story with an inbox."""

    def run(story: Story) -> None:
        async def main() -> None:
            async with asyncio.timeout(5):
                await story(Inbox())

        asyncio.run(main())

    return run


async def endless() -> None:
    await asyncio.Event().wait()


async def at_once(assign: Assign) -> None:
    """Settle without waiting."""


def give(inbox: Inbox, assign: Assign) -> "asyncio.Task[None]":
    preparing = asyncio.create_task(endless())
    inbox.give(assign, preparing)
    return preparing


def test_a_task_is_here_until_it_is_answered(play: Callable[[Story], None]) -> None:
    async def story(inbox: Inbox) -> None:
        give(inbox, FIRST)
        assert FIRST.task_id in inbox
        assert not inbox.has_next
        inbox.put(Work(FIRST))
        assert inbox.has_next
        assert not inbox.is_handed_out
        assert await inbox.next(at_once) == Work(FIRST)
        assert inbox.is_handed_out
        assert inbox.task_ids == {FIRST.task_id}
        inbox.answered(FIRST.task_id)
        assert FIRST.task_id not in inbox

    play(story)


def test_what_is_prepared_when_a_connection_ends_is_forgotten_and_what_is_ready_stays(
    play: Callable[[Story], None],
) -> None:
    async def story(inbox: Inbox) -> None:
        give(inbox, FIRST)
        inbox.put(Work(FIRST))
        preparing = give(inbox, SECOND)
        inbox.pause()
        assert preparing.cancelling()
        assert inbox.task_ids == {FIRST.task_id}
        assert await inbox.next(at_once) == Work(FIRST)

    play(story)


def test_a_task_that_was_taken_back_is_not_handed_out(play: Callable[[Story], None]) -> None:
    async def story(inbox: Inbox) -> None:
        for assign in (FIRST, SECOND):
            give(inbox, assign)
            inbox.put(Work(assign))
        assert inbox.take_back(FIRST.task_id)
        assert not inbox.take_back(FIRST.task_id)
        assert await inbox.next(at_once) == Work(SECOND)
        assert not inbox.take_back(SECOND.task_id)  # the program is at work on it

    play(story)


def test_a_task_that_is_taken_back_while_it_is_settled_is_not_handed_out(
    play: Callable[[Story], None],
) -> None:
    async def story(inbox: Inbox) -> None:
        async def cancelled_meanwhile(assign: Assign) -> None:
            inbox.take_back(assign.task_id)

        give(inbox, FIRST)
        inbox.put(Work(FIRST))
        inbox.put_last(ENDING)
        assert await inbox.next(cancelled_meanwhile) == ENDING
        assert not inbox.task_ids

    play(story)


def test_credit_is_for_the_last_task_once_and_for_its_connection(play: Callable[[Story], None]) -> None:
    async def story(inbox: Inbox) -> None:
        give(inbox, FIRST)
        give(inbox, SECOND)
        assert [inbox.credit(task.task_id) for task in (FIRST, SECOND, SECOND)] == [0, 8, 0]
        give(inbox, FIRST)
        inbox.pause()
        assert inbox.credit(FIRST.task_id) == 0

    play(story)


def test_an_error_comes_after_what_is_ready(play: Callable[[Story], None]) -> None:
    async def story(inbox: Inbox) -> None:
        give(inbox, FIRST)
        inbox.put(Work(FIRST))
        inbox.put_last(RefusedError("no", "closed"))
        await inbox.next(at_once)
        with pytest.raises(RefusedError, match="no"):
            await inbox.next(at_once)

    play(story)
