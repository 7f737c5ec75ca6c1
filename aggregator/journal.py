"""What a run decided, on its way into the database: one transaction after the other, in order."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from fl_main.errors import StoreError
from fl_main.ledger import Outcome
from fl_main.ports import Ports
from fl_main.store import EventRecord, Record, RunRecord, Store

logger = logging.getLogger("fl_main.aggregator")

RETRY_S = 5.0
MAX_UNSTORED = 1000  # decisions that wait for a database in trouble before nobody is listened to
RECORDS = "records"  # what can be in trouble here; others name what they try


class Journal:
    """Stores outcomes; what is decided while the database writes goes into its next transaction.

    While the database cannot be written the same transaction is tried again and again, and what
    is decided meanwhile waits behind it.

    Args:
        run: Returns the run as it stands.
        store: The model database.
        ports: Clocks and threads.
        hold: Is told of outcomes whose effects have to wait.

    Attributes:
        troubles: What the database cannot do at the moment, by what is tried.
        trouble_since: Wall time at which the first of them began.
    """

    def __init__(
        self, run: Callable[[], RunRecord], store: Store, ports: Ports, hold: Callable[[Outcome], None]
    ) -> None:
        self.troubles: dict[str, str] = {}
        self.trouble_since = 0.0
        self._run = run
        self._store = store
        self._ports = ports
        self._hold = hold
        self._queue: deque[Outcome] = deque()
        self._wake = asyncio.Event()
        self._decided = self._taken = self._done = 0  # outcomes: put, taken by a transaction, carried out
        self._flushers: deque[tuple[int, asyncio.Event]] = deque()
        self._troubled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    # --- writing --------------------------------------------------------------------------

    def put(self, outcome: Outcome) -> None:
        """Take what was decided; `stored` returns it once it is."""
        if not (outcome.records or outcome.effects):
            return
        self._queue.append(outcome)
        self._decided += 1
        self._wake.set()
        if len(self._queue) >= MAX_UNSTORED:
            self._has_room.clear()
        if RECORDS in self.troubles:
            self._hold(outcome)

    async def stored(self) -> Outcome:
        """Store everything that was decided, and return it; waits until there is something.

        Whoever calls it again has carried out the effects of the last time.
        """
        self._done = self._taken
        while self._flushers and self._flushers[0][0] <= self._done:
            self._flushers.popleft()[1].set()
        await self._wake.wait()
        self._wake.clear()
        outcomes, self._queue = list(self._queue), deque()
        self._taken = self._decided
        self._has_room.set()
        decided = Outcome(
            _last_run_only([record for outcome in outcomes for record in outcome.records]),
            [effect for outcome in outcomes for effect in outcome.effects],
        )
        await self._commit(decided)
        return decided

    async def _commit(self, decided: Outcome) -> None:
        while decided.records:
            try:
                await self._ports.run_in_writer(self._store.commit, decided.records, self._ports.wall_time())
                break
            except StoreError as error:
                self.set_trouble(RECORDS, str(error))
                self._hold(decided)
                await asyncio.sleep(RETRY_S)
        self.set_trouble(RECORDS, "")

    # --- waiting --------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until everything decided so far is stored and done, however much is decided meanwhile."""
        if self._done < self._decided:
            turn = (self._decided, asyncio.Event())
            self._flushers.append(turn)
            try:
                await turn[1].wait()
            except asyncio.CancelledError:  # while the database is in trouble many ask, and do not wait
                with suppress(ValueError):  # its turn has just come
                    self._flushers.remove(turn)
                raise

    async def flush_or_trouble(self) -> bool:
        """Wait as `flush` does, but not for a database in trouble; return whether all is stored."""
        waits = [asyncio.create_task(self.flush()), asyncio.create_task(self._troubled.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return waits[0] in done  # what was decided since then is another matter

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the database that nothing more should be decided."""
        return not self._has_room.is_set()

    async def room(self) -> None:
        """Wait while it is full: memory is bounded also in trouble."""
        await self._has_room.wait()

    # --- trouble --------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        """What the database cannot do at the moment, or an empty text."""
        return next(iter(self.troubles.values()), "")

    def set_trouble(self, what: str, reason: str) -> None:
        """Note that something cannot be stored or read at the moment; an empty reason: it can again."""
        before = self.trouble
        self.troubles.pop(what, None)
        if reason:
            self.troubles[what] = reason
        # Decisions do not wait for what else is in trouble, such as a model that cannot be read.
        if RECORDS in self.troubles:
            self._troubled.set()
        else:
            self._troubled.clear()
        name = self._run().name
        if self.trouble and not before:
            self.trouble_since = self._ports.wall_time()
            logger.error("%s; it is tried again, what was acknowledged is safe run=%s", reason, name)
        elif before and not self.trouble:
            logger.info("the database works again run=%s", name)
            self.put(Outcome([self._past_trouble(before)]))

    def _past_trouble(self, reason: str) -> EventRecord:
        """Return what is stored of a trouble once it is over: while it lasts nothing can be."""
        run, lasted_s = self._run(), self._ports.wall_time() - self.trouble_since
        details = {"reason": reason, "since_at": self.trouble_since, "seconds": round(lasted_s, 3)}
        return EventRecord(run.run_id, "database_trouble", run.round_id, details=details)


def _last_run_only(records: list[Record]) -> list[Record]:
    """Leave out what a run was between two decisions of one transaction."""
    last = next((record for record in reversed(records) if isinstance(record, RunRecord)), None)
    return [record for record in records if not isinstance(record, RunRecord) or record is last]
