"""Bugs to be planted, so that it is known that the simulation finds such.

Each one is a mistake that somebody might make one day, and that no ordinary test would see.
"""

import asyncio
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sqlalchemy import false, literal, select

from fl_main import members, rounds
from fl_main.agent import client, joining
from fl_main.agent.client import Client
from fl_main.agent.shelf import Shelf
from fl_main.aggregator import host
from fl_main.aggregator.door import Door
from fl_main.aggregator.host import RunHost
from fl_main.aggregator.uploads import Upload
from fl_main.answers import Answers
from fl_main.assignments import Assignments
from fl_main.db import ModelStore, retention
from fl_main.db.files import StagedFile
from fl_main.errors import StoreError
from fl_main.events import AgentJoined, Answer
from fl_main.ledger import Ledger, Outcome
from fl_main.messages import Join, Nothing
from fl_main.results import Results
from fl_main.rounds import RoundMachine
from fl_main.session import Session
from fl_main.store import ModelKind, ModelRecord, Record, RunSnapshot, TaskRecord, UpdateRecord
from fl_main.strategies.base import Contribution
from fl_main.training import Kind

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
                self._files.set_aside(digest)
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

    def deleted_first(self: ModelStore, batch: Any, gone: Any, reason: str) -> list[str]:
        digests = mark(self, batch, gone, reason)
        for digest in digests:
            self._files.set_aside(digest)
        return digests

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
    stack.enter_context(patch.object(joining, "JOIN_S", 1e9))
    stack.enter_context(patch.object(client, "PING_INTERVAL_S", 1e9))


@bug
def staging_left_behind(stack: ExitStack) -> None:
    """What came of an update that is not wanted any more stays on the disk."""
    stack.enter_context(patch.object(host, "_over", lambda decided: []))


@bug
def unordered_messages(stack: ExitStack) -> None:
    """A message that came twice, or too late, is taken as if nothing were wrong."""
    stack.enter_context(patch.object(Session, "_require_next", lambda self, number: None))


# --- of the modes semi-sync and async, and of agents that poll -------------------------------


@bug
def staleness_off_by_one(stack: ExitStack) -> None:
    """What an update counts is found out after the new model was numbered, not before."""
    contribution_of = Ledger.contribution_of

    def one_more(self: Ledger, update: UpdateRecord) -> Contribution:
        return contribution_of(self, replace(update, version=update.version - 1))

    stack.enter_context(patch.object(Ledger, "contribution_of", one_more))


@bug
def late_counted_twice(stack: ExitStack) -> None:
    """A late update stays in the buffer when it was counted."""
    index = Ledger._index

    def kept(self: Ledger, update: UpdateRecord) -> None:
        if update.counted_in is None or not update.staleness:
            index(self, update)

    stack.enter_context(patch.object(Ledger, "_index", kept))


@bug
def two_votes(stack: ExitStack) -> None:
    """An agent's late update counts beside its new one, also in a median."""
    stack.enter_context(patch.object(Answers, "_supersede", lambda self, task: None))


@bug
def wrong_base(stack: ExitStack) -> None:
    """A difference is added to the newest model, not to that which the agent started from."""
    stack.enter_context(patch.object(Ledger, "base_of", lambda self, update: self.run.model_id))


@bug
def base_forgotten(stack: ExitStack) -> None:
    """The daemon forgets a model when a newer one is there, though somebody is still at work on it."""
    forget = Ledger._forget

    def newest_only(self: Ledger) -> None:
        forget(self)
        for task in self.tasks.values():
            if task.model_id != self.run.model_id:
                self.models.pop(task.model_id or "", None)

    stack.enter_context(patch.object(Ledger, "_forget", newest_only))


@bug
def base_let_go(stack: ExitStack) -> None:
    """Retention lets old global models go, and does not ask who is at work on them."""
    kinds = tuple(kind.value for kind in ModelKind if kind is not ModelKind.STATE)
    stack.enter_context(patch.object(retention, "PASSING", kinds))
    stack.enter_context(patch.object(retention, "UNANSWERED", false()))


@bug
def buffer_lost_at_restart(stack: ExitStack) -> None:
    """A daemon that starts again takes up the updates of the current round only."""
    snapshots = ModelStore.snapshots

    def current_only(self: ModelStore) -> list[RunSnapshot]:
        return [
            replace(found, updates=tuple(u for u in found.updates if u.round_id == found.run.round_id))
            for found in snapshots(self)
        ]

    stack.enter_context(patch.object(ModelStore, "snapshots", current_only))


@bug
def past_lost_at_restart(stack: ExitStack) -> None:
    """A daemon that starts again does not know what its agents did before."""
    snapshots = ModelStore.snapshots

    def without_past(self: ModelStore) -> list[RunSnapshot]:
        return [replace(found, past={}) for found in snapshots(self)]

    stack.enter_context(patch.object(ModelStore, "snapshots", without_past))


@bug
def stale_ones_counted(stack: ExitStack) -> None:
    """What was begun on a model that is too old by now is counted all the same."""
    stack.enter_context(patch.object(Results, "_drop_stale", lambda self: None))


@bug
def too_many_at_work(stack: ExitStack) -> None:
    """Whoever is free is given a task, whatever `cohort` says of how many may be at work."""
    stack.enter_context(patch.object(Assignments, "_chosen_now", lambda self: self.eligible(Kind.TRAIN)))


@bug
def forgotten_between_visits(stack: ExitStack) -> None:
    """An agent that polls forgets what its program is at work on when it hangs up."""
    hang_up = Client._hang_up

    def forgetful(self: Client, nothing: Nothing) -> None:
        hang_up(self, nothing)
        self._inbox._handed_out.clear()

    stack.enter_context(patch.object(Client, "_hang_up", forgetful))


@bug
def given_up_too_soon(stack: ExitStack) -> None:
    """An agent that polls is taken for gone when it missed one visit."""
    stack.enter_context(patch.object(members, "MISSED_POLLS", 1))


# --- of codecs -------------------------------------------------------------------------------


@bug
def delta_of_the_exact_model(stack: ExitStack) -> None:
    """A difference is added to the exact global model, not to that which was sent of it."""
    base_of = Ledger.base_of

    def exact(self: Ledger, update: UpdateRecord) -> str | None:
        return self.whole_of(base_of(self, update) or "")

    def kept(self: Ledger) -> None:
        models = self.models
        forget(self)
        self.models = models

    forget = Ledger._forget
    stack.enter_context(patch.object(Ledger, "base_of", exact))
    stack.enter_context(patch.object(Ledger, "_forget", kept))


@bug
def download_let_go(stack: ExitStack) -> None:
    """Retention deletes what was sent of a global model while updates are still made from it."""
    stack.enter_context(patch.object(retention, "_BASES", select(literal(""))))
    stack.enter_context(patch.object(retention, "UNANSWERED", false()))


@bug
def released_by_coming_again(stack: ExitStack) -> None:
    """Who is left out is forgotten when the agent connects again."""
    join = rounds._HANDLERS[AgentJoined]

    def forgiven(self: RoundMachine, event: AgentJoined) -> None:
        if member := self.members.get(event.agent_id):
            member.record = replace(member.record, quarantined="")
        join(self, event)

    stack.enter_context(patch.dict(rounds._HANDLERS, {AgentJoined: forgiven}))


@bug
def kept_before_counted(stack: ExitStack) -> None:
    """What a site keeps with its update is what its next task begins with as soon as that was accepted."""
    settle = Shelf.settle

    def hasty(self: Shelf, task_id: str, *, is_accepted: bool) -> None:
        settle(self, task_id, is_accepted=is_accepted)
        if is_accepted and type(self) is Shelf:
            self.promote(task_id)

    stack.enter_context(patch.object(Shelf, "settle", hasty))


@bug
def kept_until_it_ends(stack: ExitStack) -> None:
    """What a site keeps with its update is lost if the process ends before it hears that that was counted."""

    def cleared(self: Shelf, whole: Container[str]) -> None:
        sweep(self, whole)
        for kept in self._all():
            if not kept.is_current and type(self) is Shelf:
                self._remove(kept)

    sweep = Shelf.sweep
    stack.enter_context(patch.object(Shelf, "sweep", cleared))


@bug
def kept_though_undone(stack: ExitStack) -> None:
    """What a site keeps stays when the run is rolled back to a round before it was made."""
    stack.enter_context(patch.object(Shelf, "clear", lambda self: None))
