"""Giving memory back to the system: what a C library keeps after rounds of megabytes is a lot.

Buffers of very different sizes come and go with every round. glibc keeps the room between those
that stay, and the process grows slowly though nothing is lost; asked for it, it gives that back.
"""

import asyncio
import ctypes
from collections.abc import Callable
from contextlib import suppress

from fl_main.ports import RunInThread

TRIM_EVERY_S = 30.0


def give_back() -> Callable[[], None] | None:
    """Return what asks the C library for the memory that it keeps; None where it cannot be asked."""
    with suppress(AttributeError, OSError, TypeError):  # musl, macOS, Windows
        trim = ctypes.CDLL(None).malloc_trim
        return lambda: trim(0)
    return None


async def keep_small(run_in_thread: RunInThread) -> None:
    """Give memory back every now and then, until cancelled."""
    if (trim := give_back()) is None:
        return
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        await run_in_thread(trim)
