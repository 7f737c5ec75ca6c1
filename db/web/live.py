"""What moves: one look at the database for all listeners, told to each as server-sent events."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator

from fl_main.db import queries, sqlite
from fl_main.db.faults import translated
from fl_main.db.model_db import ModelDB
from fl_main.errors import StoreError

from .source import Source

POLL_S = 0.25  # between two looks at `PRAGMA data_version`: a look takes microseconds
HEARTBEAT_S = 15.0  # proxies take a silent connection for dead after 30 s or more
MAX_LISTENERS = 100
RETRY_MS = 2000
CLOSE_S = 0.1


class Changes:
    """Tells listeners which runs moved; looks only while somebody listens.

    Of one event loop. A listener that reads slowly costs no more than one number for each run.

    Args:
        source: The database.
        poll_s: Seconds between two looks.
        heartbeat_s: Seconds of silence after which a listener gets a comment.
    """

    def __init__(self, source: Source, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._source = source
        self._watch = _Watch(source)
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._listeners: set[_Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._heads: dict[str, int] | None = None
        self._trouble = ""
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether nobody more may listen."""
        return self._is_closed or len(self._listeners) >= MAX_LISTENERS

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def is_looking(self) -> bool:
        """Whether the database is looked at again and again."""
        return self._looking is not None

    def close(self) -> None:
        """Let every listener end, and take no more; may be called twice."""
        self._is_closed = True
        for listener in self._listeners:
            listener.moved.set()
        self._stop()

    async def listen(self) -> AsyncIterator[str]:
        """Yield server-sent events until the page ends: first where each run stands, then what moves."""
        listener = _Listener(self._heads, self._trouble)
        self._listeners.add(listener)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield f"retry: {RETRY_MS}\n\n"
            while not self._is_closed:
                yield await self._news(listener)
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._stop()

    async def _news(self, listener: "_Listener") -> str:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                await listener.moved.wait()
        except TimeoutError:
            return ": nothing new\n\n"
        return listener.take()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking, self._heads, self._trouble = None, None, ""
        self._watch.close()
        self._watch = _Watch(self._source)

    async def _look(self) -> None:
        watch = self._watch
        while True:
            try:
                heads = await asyncio.to_thread(watch.heads)
            except StoreError as error:
                self._tell_trouble(str(error))
            else:
                if heads is not None:
                    self._tell(heads)
            await asyncio.sleep(self._poll_s)

    def _tell(self, heads: dict[str, int]) -> None:
        """Tell where all runs stand to who does not know, and to the others what differs."""
        known, self._heads, self._trouble = self._heads, heads, ""
        for listener in self._listeners:
            if known is None:
                listener.begin(heads)
            else:
                listener.add({run: seq for run, seq in heads.items() if known.get(run) != seq})

    def _tell_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._heads, self._trouble = None, trouble
            for listener in self._listeners:
                listener.fail(trouble)


class _Listener:
    """What one listener has not been told yet."""

    def __init__(self, heads: dict[str, int] | None, trouble: str) -> None:
        self.moved = asyncio.Event()
        self._heads: dict[str, int] | None = None
        self._moved: dict[str, int] = {}
        self._trouble = ""
        if heads is not None:
            self.begin(heads)
        elif trouble:
            self.fail(trouble)

    def begin(self, heads: dict[str, int]) -> None:
        self._heads, self._moved, self._trouble = heads, {}, ""
        self.moved.set()

    def add(self, moved: dict[str, int]) -> None:
        if moved:
            self._moved |= moved
            self.moved.set()

    def fail(self, trouble: str) -> None:
        self._heads, self._moved, self._trouble = None, {}, trouble
        self.moved.set()

    def take(self) -> str:
        """Return events of what is new, and forget it."""
        text = ""
        if self._heads is not None:
            text += _event(self._heads, "heads")
        text += "".join(_event({"run_id": run_id, "seq": seq}) for run_id, seq in self._moved.items())
        if self._trouble:
            text += _event({"detail": self._trouble}, "trouble")
        self._heads, self._moved, self._trouble = None, {}, ""
        self.moved.clear()
        return text


def _event(data: object, name: str = "") -> str:
    """Return a server-sent event (html.spec.whatwg.org, 9.2.6); JSON has no line ends in it."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


class _Watch:
    """A connection that notices commits of others: `PRAGMA data_version` differs after each."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._looking = threading.Lock()
        self._database: ModelDB | None = None
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._is_closed = False

    def heads(self) -> dict[str, int] | None:
        """Return how far the chain of each run is; None if nothing was committed since the last look.

        Raises:
            StoreError: If the database is not there, or cannot be read.
        """
        with self._looking:
            try:
                return self._heads()
            except StoreError:
                self._let_go()
                raise
            finally:
                if self._is_closed:
                    self._let_go()

    def _heads(self) -> dict[str, int] | None:
        database = self._source.database()
        with translated(database.file, "read the model database"):
            if self._connection is None or database is not self._database:
                self._let_go()
                self._database = database
                self._connection = sqlite.connected(database.uri, sqlite.READ_ONLY)
            [version] = self._connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return None
            self._version = version
            return queries.heads(self._connection)

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._database = self._connection = self._version = None

    def close(self) -> None:
        """Close it, or have the thread do that which looks just now: the event loop does not wait for it."""
        self._is_closed = True
        if self._looking.acquire(timeout=CLOSE_S):
            self._let_go()
            self._looking.release()
