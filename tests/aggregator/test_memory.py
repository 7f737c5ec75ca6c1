"""What the C library keeps goes back to the system now and then."""

import asyncio
import ctypes
import platform
import subprocess
import sys
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_all_threads_take_memory_from_one_place() -> None:
    script = """
import ctypes, threading
from fl_main.aggregator.memory import share_one_arena

share_one_arena()
for _ in range(4):
    worker = threading.Thread(target=bytes, args=(100_000,))
    worker.start()
    worker.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.count("<heap nr=") == 1


def test_where_it_cannot_be_asked_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    memory.share_one_arena()
    asyncio.run(asyncio.wait_for(memory.keep_small(None), 10))  # type: ignore[arg-type]
