"""Threads for what would hold up an event loop: a hop there and back, at as little cost as can be.

`loop.run_in_executor` makes two futures for each call, with a lock and a condition between them;
here there is one, of the loop, and a queue. A round is a handful of hops.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Threads:
    """A number of threads that do blocking work, in the order in which it is given.

    They are started as they are needed, and end with the process, whatever they are at.

    Args:
        number: How many at most; with one, work is done one after the other.
        name: What their names begin with.
    """

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._begun: dict[int, float | None] = {}  # by thread, when its job was; None while it has none
        self._under_way = 0  # jobs that are not done, as far as the loop has heard
        self._is_closed = False

    def run(self, function: Callable[..., T], /, *args: Any) -> "asyncio.Future[T]":
        """Call a function in a thread; see `fl_main.ports.RunInThread`.

        Raises:
            RuntimeError: If they were ended.
        """
        if self._is_closed:
            raise RuntimeError(f"the threads {self._name} have ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._under_way += 1
        if self._under_way > len(self._threads) < self._number:
            place = len(self._threads)
            thread = Thread(target=self._work, args=(place,), name=f"{self._name}_{place}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((future, function, args))
        return future

    def busy_s(self) -> float:
        """Return for how long the job has been under way that has been longest, 0 if there is none."""
        begun = [at for at in list(self._begun.values()) if at is not None]
        return time.monotonic() - min(begun) if begun else 0.0

    def _work(self, place: int) -> None:
        while (job := self._jobs.get()) is not None:
            self._begun[place] = time.monotonic()
            future, function, args = job
            try:
                result, error = function(*args), None
            except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits
                result, error = None, raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                future.get_loop().call_soon_threadsafe(self._settle, future, result, error)
            self._begun[place] = None
            del job, future, function, args, result, error  # or they stay until the next job

    def _settle(self, future: "asyncio.Future[T]", result: T, error: BaseException | None) -> None:
        self._under_way -= 1
        if future.done():  # cancelled
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def shutdown(self, *, wait: bool = True) -> None:
        """Let the threads end when all that was given is done; may be called twice."""
        self._is_closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()
