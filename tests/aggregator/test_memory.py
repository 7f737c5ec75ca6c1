"""What the C library keeps goes back to the system now and then."""

import asyncio
import ctypes
import platform
from collections.abc import Callable
from typing import TypeVar

import pytest

from fl_main.aggregator import memory

T = TypeVar("T")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_glibc_is_asked_again_and_again_until_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TRIM_EVERY_S", 0.0)

    async def story() -> None:
        asked = asyncio.Semaphore(0)

        async def run(function: Callable[..., T], /, *args: object) -> T:
            asked.release()
            return function(*args)

        chore = asyncio.create_task(memory.keep_small(run))
        for _ in range(3):
            await asked.acquire()
        chore.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chore

    asyncio.run(asyncio.wait_for(story(), 10))


def test_where_it_cannot_be_asked_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert memory.give_back() is None
