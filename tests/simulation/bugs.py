"""Bugs to be planted, so that it is known that the simulation finds such.

Each one is a mistake that somebody might make one day, and that no ordinary test would see.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from fl_main.agent import client
from fl_main.aggregator import host
from fl_main.aggregator.door import Door
from fl_main.aggregator.host import RunHost
from fl_main.aggregator.uploads import Upload
from fl_main.db import ModelStore
from fl_main.db.files import StagedFile
from fl_main.errors import StoreError
from fl_main.events import Answer
from fl_main.ledger import Outcome
from fl_main.messages import Join
from fl_main.session import Session
from fl_main.store import ModelRecord, Record, TaskRecord, UpdateRecord

Plant = Callable[[ExitStack], None]
BUGS: dict[str, Plant] = {}


def bug(plant: Plant) -> Plant:
    """Take a bug into the list, under its name with hyphens."""
    BUGS[plant.__name__.replace("_", "-")] = plant
    return plant


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for as long as the context lasts; an empty name plants none."""
    with ExitStack() as stack:
        if name:
            BUGS[name](stack)
        yield


@bug
def ack_before_commit(stack: ExitStack) -> None:
    """*Accepted* is said before the update is stored."""
    put = RunHost._put

    def acknowledged(self: RunHost, outcome: Outcome) -> None:
        for effect in outcome.effects:
            if isinstance(effect, Answer):
                self._perform(effect)
        put(self, outcome)

    stack.enter_context(patch.object(RunHost, "_put", acknowledged))


@bug
def rename_before_transaction(stack: ExitStack) -> None:
    """Files are moved into their places before the transaction, and deleted again if that fails."""
    commit = ModelStore.commit

    def moved_first(self: ModelStore, records: Sequence[Record], at: float) -> None:
        payloads = [record.payload for record in records if isinstance(record, ModelRecord)]
        moves = [(payload.staged, payload.digest) for payload in payloads if payload.staged]
        self._files.place(moves)
        try:
            with patch.object(self._files, "place", lambda moves: None):
                commit(self, records, at)
        except StoreError:
            for _, digest in moves:
                self._files.remove(digest)
            raise

    stack.enter_context(patch.object(ModelStore, "commit", moved_first))


@bug
def rename_after_transaction(stack: ExitStack) -> None:
    """Files are moved into their places once the rows that name them are committed."""
    commit = ModelStore.commit

    def committed_first(self: ModelStore, records: Sequence[Record], at: float) -> None:
        moves: list[Any] = []
        place = self._files.place
        with patch.object(self._files, "place", moves.extend):
            commit(self, records, at)
        place(moves)

    stack.enter_context(patch.object(ModelStore, "commit", committed_first))


@bug
def unlink_before_transaction(stack: ExitStack) -> None:
    """Files that retention lets go are deleted before the rows say so."""
    mark = ModelStore._mark_removed

    def deleted_first(self: ModelStore, connection: Any, batch: Any, gone: Any, digests: list[str]) -> None:
        for digest in digests:
            self._files.set_aside(digest)
        mark(self, connection, batch, gone, digests)

    stack.enter_context(patch.object(ModelStore, "_mark_removed", deleted_first))


@bug
def two_transactions(stack: ExitStack) -> None:
    """What was decided together is stored in two transactions."""
    commit = ModelStore.commit

    def in_two(self: ModelStore, records: Sequence[Record], at: float) -> None:
        kinds = (ModelRecord, UpdateRecord, TaskRecord)
        commit(self, [record for record in records if isinstance(record, kinds)], at)
        commit(self, [record for record in records if not isinstance(record, kinds)], at)

    stack.enter_context(patch.object(ModelStore, "commit", in_two))


@bug
def lost_fence(stack: ExitStack) -> None:
    """A new connection of an agent does not end the old one."""

    async def fence(self: Door, key: tuple[str, str], join: Join) -> None:
        await asyncio.sleep(0)

    stack.enter_context(patch.object(Door, "_fence", fence))


@bug
def no_sync(stack: ExitStack) -> None:
    """A model's file is committed before the disk has it."""
    finish = StagedFile.finish

    def unsynced(self: StagedFile) -> str:
        self._durable = False
        return finish(self)

    stack.enter_context(patch.object(StagedFile, "finish", unsynced))


@bug
def counted_said_once(stack: ExitStack) -> None:
    """An agent that missed that its update was counted never hears of it."""

    async def counted(self: Door, join: Join) -> dict[str, int]:
        return {}

    stack.enter_context(patch.object(Door, "_counted", counted))


@bug
def leaking_budget(stack: ExitStack) -> None:
    """An upload that is cut keeps its credit for ever."""
    receive = Upload._receive

    async def leaking(self: Upload, name: str, payload: Any) -> str:
        try:
            return await receive(self, name, payload)
        except asyncio.CancelledError:
            self._budget._left -= 64
            raise

    stack.enter_context(patch.object(Upload, "_receive", leaking))


@bug
def endless_join(stack: ExitStack) -> None:
    """An agent whose connection dies before it was welcomed waits for ever."""
    stack.enter_context(patch.object(client, "JOIN_S", 1e9))
    stack.enter_context(patch.object(client, "PING_INTERVAL_S", 1e9))


@bug
def staging_left_behind(stack: ExitStack) -> None:
    """What came of an update that is not wanted any more stays on the disk."""
    stack.enter_context(patch.object(host, "_over", lambda decided: []))


@bug
def unordered_messages(stack: ExitStack) -> None:
    """A message that came twice, or too late, is taken as if nothing were wrong."""
    stack.enter_context(patch.object(Session, "_require_next", lambda self, number: None))
