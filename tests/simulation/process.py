"""Simulated processes: every port they have is counted, and may be where they are killed."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from random import Random
from typing import Any, TypeVar

from fl_main.ports import Ports

T = TypeVar("T")

CURRENT: ContextVar["Process | None"] = ContextVar("CURRENT", default=None)


class Killed(BaseException):
    """The process is dead: nothing that it still does may have an effect."""


class Process:
    """A process with tasks and ports of its own.

    From the moment it is killed every port raises `Killed`, so that no clean-up of it can do
    anything: as with kill -9, what it did not do before stays undone.

    Args:
        name: For the story.
        random: Where its delays and its death come from.
        thread_s: Mean time that a thread takes to begin, and again to be heard of.
        calls_left: Calls of ports until it is killed; None: it lives.
        on_kill: Told what it was doing when it was killed.

    Attributes:
        calls: Calls of ports so far.
        wall_offset_s: How far its wall clock is from the true one.
    """

    def __init__(
        self,
        name: str,
        random: Random,
        thread_s: float,
        calls_left: int | None,
        on_kill: Callable[["Process", str], None],
    ) -> None:
        self.name = name
        self.calls = 0
        self.is_dead = False
        self.has_ended = False
        self.wall_offset_s = 0.0
        self._random = random
        self._thread_s = thread_s
        self._calls_left = calls_left
        self._on_kill = on_kill
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._pending: dict[asyncio.Future[Any], None] = {}
        self._endings: list[Callable[[], None]] = []
        self._free_at = {"writer": 0.0, "thread": 0.0}
        self._loop = asyncio.get_running_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let a coroutine run as a task of this process; tasks that it makes are its own, too."""
        context = copy_context()
        context.run(CURRENT.set, self)
        return self._loop.create_task(work, context=context)

    def owns(self, task: asyncio.Task[Any]) -> None:
        """Take a task that was made in this process."""
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that are not done."""
        return list(self._tasks)

    def at_the_end(self, act: Callable[[], None]) -> None:
        """Do something when the process is dead: what the system does for it."""
        self._endings.append(act)

    def call(self, what: str) -> None:
        """Count a call of a port; it may be the last.

        Raises:
            Killed: If the process is dead, or dies now.
        """
        if self.is_dead:
            raise Killed
        self.calls += 1
        if self._calls_left is not None and self.calls >= self._calls_left:
            self.kill(what)
            raise Killed

    def kill(self, what: str) -> None:
        """End the process at this moment."""
        if self.is_dead:
            return
        self.is_dead = True
        self._on_kill(self, what)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(Killed())
        for task in self.tasks:
            task.cancel()
        self._loop.call_soon(self._end)  # not now: who killed it may be in the middle of a transaction

    def kill_quietly(self) -> None:
        """End a process that ended by itself: its system frees what it held."""
        self._on_kill = lambda process, what: None
        self.kill("")

    def live_on(self) -> None:
        """Let it not be killed any more."""
        self._calls_left = None

    def _end(self) -> None:
        self.has_ended = True
        for act in reversed(self._endings):
            act()
        self._endings.clear()

    # --- ports ----------------------------------------------------------------------------

    def ports(self) -> Ports:
        """Return the ports of this process."""
        return Ports(
            wall_time=self._wall_time,
            monotonic=self._monotonic,
            run_in_thread=lambda function, /, *args: self._in("thread", function, *args),
            run_in_writer=lambda function, /, *args: self._in("writer", function, *args),
            new_id=self._new_id,
            chance=self._chance,
        )

    def _wall_time(self) -> float:
        self.call("the clock")
        return 1_800_000_000.0 + self._loop.time() + self.wall_offset_s

    def _monotonic(self) -> float:
        self.call("the clock")
        return self._loop.time()

    def _new_id(self) -> str:
        self.call("a new id")
        return f"{self._random.getrandbits(96):024x}"

    def _chance(self) -> float:
        self.call("chance")
        return self._random.random()

    def _in(self, where: str, function: Callable[..., T], /, *args: Any) -> "asyncio.Future[T]":
        """Do blocking work a little later, as a thread does; the writer does one after the other."""
        name = getattr(function, "__name__", "work")
        self.call(f"handing {name} to a thread")
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending[future] = None
        future.add_done_callback(self._pending.pop)
        begins = self._loop.time() + self._delay()
        if where == "writer":
            begins = self._free_at["writer"] = max(begins, self._free_at["writer"] + 1e-5)
        # Who waits for it may be cancelled. Work that a thread has begun goes on all the same.
        has_begun = self._random.random() < 0.5
        self._loop.call_at(begins, self._work, future, has_begun, function, args)
        return future

    def _delay(self) -> float:
        return self._random.expovariate(1 / self._thread_s)

    def _work(
        self, future: "asyncio.Future[Any]", has_begun: bool, function: Callable[..., Any], args: Any
    ) -> None:
        if self.is_dead or (future.cancelled() and not has_begun):
            return
        try:
            result, error = function(*args), None
        except Killed:
            return
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits
            result, error = None, raised
        self._loop.call_later(self._delay(), self._settle, future, result, error)

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task that its process knows of."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    process = context[CURRENT] if context is not None and CURRENT in context else CURRENT.get()
    if process is not None:
        process.owns(task)
    return task
