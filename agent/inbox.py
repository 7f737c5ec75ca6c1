"""Tasks from the aggregator to the program, over any number of connections.

A task is *given* until the program takes it, and is *handed out* from then on until it is answered.
"""

import asyncio
from collections.abc import Awaitable, Callable

from fl_main.errors import FLError
from fl_main.messages import Assign

from .exchange import Ending, Work

_ENDING = ""  # what is prepared when the run is over, among ids of tasks


class Inbox:
    """The tasks of an agent that are not answered yet."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[Work | Ending | FLError] = asyncio.Queue()
        self._given: dict[str, Assign] = {}
        self._preparing: dict[str, asyncio.Task[None]] = {}  # what is fetched on this connection
        self._handed_out: set[str] = set()
        self._credits: dict[str, int] = {}  # bytes of answers that need not be asked for on this connection

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._handed_out or task_id in self._given

    @property
    def task_ids(self) -> set[str]:
        """The tasks that are here."""
        return self._given.keys() | self._handed_out

    @property
    def is_handed_out(self) -> bool:
        """Whether the program is at work on a task."""
        return bool(self._handed_out)

    @property
    def has_next(self) -> bool:
        """Whether there is something that the program need not wait for."""
        return not self._ready.empty()

    # --- from the aggregator --------------------------------------------------------------

    def give(self, assign: Assign, preparing: "asyncio.Task[None]") -> None:
        """Take a task, and what fetches all that it needs and then calls `put`."""
        self._given[assign.task_id] = assign
        if assign.credit:
            self._credits = {assign.task_id: assign.credit}
        self._preparing[assign.task_id] = preparing

    def put(self, work: Work) -> None:
        """Take a task that was given and is prepared."""
        self._preparing.pop(work.assign.task_id, None)
        self._ready.put_nowait(work)

    def take_back(self, task_id: str) -> bool:
        """Forget a task unless the program has taken it; return whether it had not."""
        return self._given.pop(task_id, None) is not None

    def end(self, preparing: "asyncio.Task[None]") -> None:
        """The run is over: take what fetches all that it came to and then calls `put_last`."""
        self._preparing[_ENDING] = preparing

    def put_last(self, last: Ending | FLError) -> None:
        """Take how the run ended, or why the agent cannot go on."""
        if isinstance(last, Ending):
            self._preparing.pop(_ENDING, None)
        self._ready.put_nowait(last)

    def pause(self) -> None:
        """The connection is over: forget tasks without their models, which are given again if still wanted.

        What was fetched of a model stays; its download goes on where it stopped.
        """
        for task_id, task in self._preparing.items():
            task.cancel()
            self._given.pop(task_id, None)
        self._preparing.clear()
        self._credits.clear()

    # --- for the program ------------------------------------------------------------------

    async def next(self, settle: Callable[[Assign], Awaitable[None]]) -> Work | Ending:
        """Return the next task, or how the run ended.

        Args:
            settle: Called before a task is handed out.

        Raises:
            FLError: If the agent cannot go on.
        """
        while True:
            found = await self._ready.get()
            if isinstance(found, FLError):
                raise found
            if isinstance(found, Ending):
                return found
            task_id = found.assign.task_id
            if task_id not in self._given:  # cancelled meanwhile: what it says of rollbacks is old, too
                continue
            try:
                await settle(found.assign)
            except asyncio.CancelledError:
                self._ready.put_nowait(found)  # for whoever asks next
                raise
            if self.take_back(task_id):
                self._handed_out.add(task_id)
                return found

    def credit(self, task_id: str) -> int:
        """Return how many bytes of an answer may follow its offer unasked; once."""
        return self._credits.pop(task_id, 0)

    def answered(self, task_id: str) -> None:
        """Forget a task that the program was at work on."""
        self._handed_out.discard(task_id)
