"""Holding memory small: what a C library keeps after rounds of megabytes is a lot.

Buffers of very different sizes come and go with every round. glibc keeps the room between those
that stay, in a place of its own for each thread, and the process grows slowly though nothing is
lost. So there is one place for all, and what is free there is given back now and then.
"""

import asyncio
import ctypes
from contextlib import suppress
from typing import Any

from fl_main.ports import RunInThread

TRIM_EVERY_S = 30.0
M_ARENA_MAX = -8  # malloc.h of glibc; whoever has no such setting says no, and nothing is changed


def share_one_arena() -> None:
    """Let all threads take memory from one place; for a process of our own, before it has threads.

    With 1,000 agents and a model of 1 MB the arenas of eight threads grew by 25 MB in four minutes,
    and went on; one for all does not grow.
    """
    if mallopt := _of_c_library("mallopt"):
        mallopt(M_ARENA_MAX, 1)


async def keep_small(run_in_thread: RunInThread) -> None:
    """Give memory back every now and then, until cancelled."""
    if (trim := _of_c_library("malloc_trim")) is None:
        return
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await run_in_thread(trim, 0)


def _of_c_library(name: str) -> Any:
    """Return a function of the C library; None where there is none of that name: musl, macOS, Windows."""
    with suppress(AttributeError, OSError, TypeError):
        return getattr(ctypes.CDLL(None), name)
    return None
