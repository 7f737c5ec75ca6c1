"""Threads for blocking work: what a function returns or raises, order, and an end."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fl_main.threads import Threads


def play(number: int, story: Callable[[Threads], Coroutine[Any, Any, None]]) -> None:
    threads = Threads(number, "test")
    try:
        asyncio.run(story(threads))
    finally:
        threads.shutdown()


def test_result_and_error_are_the_callers() -> None:
    async def story(threads: Threads) -> None:
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)
        assert await threads.run(threading.get_ident) != threading.get_ident()

    play(1, story)


def test_one_thread_does_one_after_the_other_in_order() -> None:
    async def story(threads: Threads) -> None:
        done: list[int] = []
        await asyncio.gather(*(threads.run(done.append, number) for number in range(100)))
        assert done == list(range(100))
        assert len({await threads.run(threading.get_ident) for _ in range(5)}) == 1

    play(1, story)


def test_several_threads_work_at_once() -> None:
    async def story(threads: Threads) -> None:
        meeting = threading.Barrier(3, timeout=30)  # broken unless all three are there
        await asyncio.gather(*(threads.run(meeting.wait) for _ in range(3)))

    play(3, story)


def test_how_long_a_thread_is_at_one_thing_is_known() -> None:
    async def story(threads: Threads) -> None:
        begun, may_end = threading.Event(), threading.Event()
        assert threads.busy_s() == 0

        def work() -> None:
            begun.set()
            may_end.wait(30)

        job = threads.run(work)
        assert begun.wait(30)
        before = threads.busy_s()
        assert 0 <= before < threads.busy_s()
        may_end.set()
        await job

    threads = Threads(1, "test")
    asyncio.run(story(threads))
    threads.shutdown()
    assert threads.busy_s() == 0


def test_work_whose_caller_was_cancelled_is_done_all_the_same() -> None:
    async def story(threads: Threads) -> None:
        begun, may_end, done = threading.Event(), threading.Event(), list[bool]()

        def work() -> None:
            begun.set()
            done.append(may_end.wait(30))

        future = threads.run(work)
        assert begun.wait(30)
        future.cancel()
        may_end.set()
        assert await threads.run(lambda: done) == [True]

    play(1, story)


def test_end_waits_for_what_was_given() -> None:
    threads, done = Threads(1, "test"), list[int]()

    async def story() -> None:
        for number in range(10):
            threads.run(done.append, number)

    asyncio.run(story())
    threads.shutdown()
    assert done == list(range(10))

    async def too_late() -> None:
        with pytest.raises(RuntimeError, match="have ended"):
            await threads.run(done.append, 10)

    asyncio.run(too_late())
