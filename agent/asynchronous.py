"""`AsyncAgent`: federated training in an asyncio program."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from fl_main.errors import ConnectionFailedError, RefusedError, UpdateRejectedError
from fl_main.training import Kind, TrainResult

from .base import AgentBase
from .connection import GOODBYE_S, Final, Receipt, receipt_of
from .exchange import Ending, Work
from .state_folder import OutboxEntry
from .tasks import Answering, TaskFacts, submission

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AsyncTask(TaskFacts):
    """A training task; answer it with `await submit(…)` or `await skip()`."""

    _agent: "AsyncAgent"
    _answering: Answering

    async def submit(
        self,
        weights: Mapping[str, Any],
        num_examples: int,
        metrics: Mapping[str, Any] | None = None,
        *,
        num_steps: int | None = None,
        channels: Mapping[str, Mapping[str, Any]] | None = None,
        state: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> Receipt | None:
        """Hand in the local model; see `Task.submit`."""
        answering = self._answering
        result = answering.result(weights, num_examples, metrics, num_steps, channels, state)
        work, seconds, connection = answering.work, answering.seconds, self._agent._connected
        self._agent._tell_ignored(answering)
        entry = await self._agent._store(lambda: connection.entry_of(work, result, seconds))
        answering.is_answered = True
        return await self._agent._hand_in(entry, wait=wait)

    async def skip(self, reason: str = "") -> None:
        """Decline this task; the round goes on without this site."""
        self._answering.is_answered = True
        await self._agent._decline(self.task_id, "skipped", reason)


class AsyncAgent(AgentBase):
    """Takes part in a run from an asyncio program: `async with AsyncAgent(…) as agent:`.

    The same as `Agent`, with the same parameters; handlers may be functions or coroutine
    functions. The network lives in a thread of its own, so training may block the loop.

    Attributes:
        final: What the run came to, once it ended.
    """

    _current: AsyncTask | None = None

    async def __aenter__(self) -> "AsyncAgent":
        await self._in_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._current and not isinstance(error, RefusedError):
            await self._report(self._current, error)
        await self.close()

    async def close(self) -> None:
        """Leave; may be called twice."""
        if self._connection is not None and (goodbye := self._connection.leave()) is not None:
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.wrap_future(goodbye), GOODBYE_S)
            finally:  # also where the program does not wait for it
                await self._in_thread(self._connection.end)

    async def tasks(self) -> AsyncIterator[AsyncTask]:
        """Yield each training task as it comes; end when the run ends. See `Agent.tasks`."""
        while True:
            await self._decline_unanswered()
            work = await self._wait(self._connected.start(self._connected.client.next_work()))
            if isinstance(work, Ending):
                self.final = self._final_of(work)
                return
            if work.assign.kind == Kind.TRAIN:
                self._current = self._task(work)
                yield self._current
            else:
                await self._handle(work)

    async def run(
        self,
        train: Callable[[AsyncTask], TrainResult | Awaitable[TrainResult]],
        *,
        keep_going: bool = False,
    ) -> Final:
        """Answer every task with a function, until the run ends. See `Agent.run`."""
        self._keeps_going = keep_going
        async for task in self.tasks():
            try:
                result = await _called(lambda task=task: train(task))  # type: ignore[misc]
                await task.submit(**submission(result))
            except (RefusedError, ConnectionFailedError):
                raise
            except Exception as error:
                await self._report(task, error)
                if not self._goes_on(error):
                    raise
        if self.final is None:
            raise RefusedError("the agent was closed before the run ended", "closed")
        return self.final

    def _task(self, work: Work) -> AsyncTask:
        facts = self._facts_of(work)
        return AsyncTask(**facts, _agent=self, _answering=self._answering(work, facts["correction"]))

    async def _handle(self, work: Work) -> None:
        begun = self._connected.ports.monotonic()
        try:
            answer = await _called(self._handler(work))
            entry = await self._store(lambda: self._entry(work, answer, begun))
        except Exception as error:
            await self._decline(work.assign.task_id, "error", self._place(error))
            if not self._goes_on(error):
                raise
            return
        try:
            await self._hand_in(entry, wait=True)
        except UpdateRejectedError as error:
            if not self._goes_on(error):
                raise

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Run what blocks beside the program's loop; a simulation has its own way."""
        return await asyncio.to_thread(function)

    async def _store(self, write: Callable[[], OutboxEntry]) -> OutboxEntry:
        return await self._wait(self._connected.start(self._connected.client.store(write)))

    async def _hand_in(self, entry: OutboxEntry, *, wait: bool) -> Receipt | None:
        future = self._connected.start(self._connected.client.hand_in(entry))
        return receipt_of(await self._wait(future)) if wait else None

    async def _decline(self, task_id: str, code: str, reason: str) -> None:
        await self._wait(self._connected.start(self._connected.client.decline(task_id, code, reason)))

    async def _decline_unanswered(self) -> None:
        current, self._current = self._current, None
        if current is not None and not current._answering.is_answered:
            await current.skip("the program went on to the next task")

    async def _report(self, task: AsyncTask, error: Exception) -> None:
        if not task._answering.is_answered:
            task._answering.is_answered = True
            await self._decline(task.task_id, "error", self._place(error))

    async def _wait(self, future: "Future[T]") -> T:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled() and not _is_being_cancelled():
                raise RefusedError("this agent was closed", "closed") from None
            raise


async def _called(function: Callable[[], Any]) -> Any:
    """Call a function, or await it if it is a coroutine function."""
    answer = function()
    return await answer if inspect.isawaitable(answer) else answer


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
