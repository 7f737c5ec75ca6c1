"""What a run decided is stored in order, whatever the disk does, and its time though nothing happens."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fl_main.aggregator.host import KEEP_TIME_S, RunHost
from fl_main.aggregator.journal import MAX_UNSTORED
from fl_main.db import ModelStore
from fl_main.errors import StoreFullError
from fl_main.events import AgentJoined, AgentLeft, Offered, Steered, UpdateOffered, UpdateReceived
from fl_main.messages import Message
from fl_main.ports import Ports
from fl_main.settings import EndSettings, RunSettings
from fl_main.store import Phase, Record, RunRecord, RunSnapshot, RunStatus, StoredPayload, UpdateRecord
from tests.fl_main.story import LAYOUT
from tests.simulation.loop import VirtualLoop

T = TypeVar("T")
SETTINGS = RunSettings.model_validate({"name": "r", "round": {"min_agents": 1, "min_updates": 1}})


async def at_once(function: Callable[..., T], /, *args: Any) -> T:
    await asyncio.sleep(0)
    return function(*args)


def play(
    store: ModelStore,
    story: Callable[[RunHost], Coroutine[Any, Any, None]],
    settings: RunSettings = SETTINGS,
) -> None:
    """Let a host live in virtual time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ports = Ports(loop.time, loop.time, at_once, at_once, lambda: "id", lambda: 0.5)
        run = RunRecord.begun("run", settings)
        store.commit([run], 0.0)
        host = RunHost(settings, RunSnapshot(run), store, ports, asyncio.Semaphore(1))
        worker = asyncio.create_task(host.work())
        host.start()
        await story(host)
        await host.stop()
        worker.cancel()
        await asyncio.sleep(0)

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    with ModelStore(tmp_path / "models") as opened:
        yield opened


@contextmanager
def full_disk(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def full(*args: object) -> None:
        raise StoreFullError("no room left")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", full)
        yield


def join(agent_id: str) -> AgentJoined:
    return AgentJoined(agent_id, agent_id, ("train", "initialise"))


def test_time_of_a_round_is_kept_though_nothing_happens(store: ModelStore) -> None:
    async def story(host: RunHost) -> None:
        host.tell(join("a"))
        await asyncio.sleep(500.0)
        [snapshot] = store.snapshots()
        assert 500.0 - snapshot.run.run_time_s <= KEEP_TIME_S + 1.0
        assert snapshot.step is not None

    play(store, story)


def test_time_of_a_wait_that_ends_the_run_is_kept(store: ModelStore) -> None:
    async def story(host: RunHost) -> None:
        await asyncio.sleep(500.0)
        [snapshot] = store.snapshots()
        assert snapshot.run.phase is Phase.WAITING
        assert 500.0 - snapshot.run.run_time_s <= KEEP_TIME_S + 1.0

    play(store, story, SETTINGS.model_copy(update={"end": EndSettings(max_s=1000.0)}))


def test_what_is_decided_while_the_disk_is_full_is_stored_once_there_is_room(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(host: RunHost) -> None:
        with full_disk(store, monkeypatch):
            host.tell(join("a"))
            assert not await host.journal.flush_or_trouble()
            assert host.journal.trouble == "no room left"
            assert store.snapshots()[0].agents == ()
        await host.journal.flush()
        assert host.journal.trouble == ""
        assert [agent.agent_id for agent in store.snapshots()[0].agents] == ["a"]

    play(store, story)


def test_those_who_do_not_wait_for_a_full_disk_are_forgotten(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(host: RunHost) -> None:
        with full_disk(store, monkeypatch):
            host.tell(join("a"))
            for _ in range(100):  # agents poll, people look
                assert not await host.journal.flush_or_trouble()
            await asyncio.sleep(0)
            assert not host.journal._flushers
        await host.journal.flush()

    play(store, story)


def test_model_that_cannot_be_read_does_not_keep_decisions_from_being_stored(store: ModelStore) -> None:
    async def story(host: RunHost) -> None:
        host.journal.set_trouble("model 1 for a", "model file 1 is missing")
        host.tell(Steered("stop", "me"))
        assert await host.journal.flush_or_trouble()
        assert host.journal.trouble == "model file 1 is missing"
        assert store.snapshots()[0].run.status is RunStatus.STOPPED

    play(store, story)


def test_nobody_is_listened_to_while_too_much_waits_for_the_disk(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(host: RunHost) -> None:
        with full_disk(store, monkeypatch):
            host.tell(join("a"))
            await host.journal.flush_or_trouble()
            for _ in range(MAX_UNSTORED):
                host.tell(AgentLeft("a"))
                host.tell(join("a"))
            assert host.journal.is_full
            room = asyncio.create_task(host.journal.room())
            await asyncio.sleep(60.0)
            assert not room.done()
        await room
        await host.journal.flush()
        assert not host.journal.is_full

    play(store, story)


def test_run_that_was_stopped_and_resumed_before_that_was_stored_goes_on(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Message] = []

    class Seat:
        transfer = None

        def post(self, message: Message) -> None:
            said.append(message)

    async def story(host: RunHost) -> None:
        host.seats["a"] = Seat()  # type: ignore[assignment]
        host.tell(join("a"))
        await host.journal.flush()
        with full_disk(store, monkeypatch):
            host.tell(Steered("stop", "me"))
            await host.journal.flush_or_trouble()
            host.tell(Steered("resume", "me"))
        await host.journal.flush()
        await asyncio.sleep(1.0)
        assert "run_ended" not in [message.type for message in said]

    play(store, story)


def test_step_that_was_given_up_before_its_end_could_be_stored_is_not_folded(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(host: RunHost) -> None:
        host.tell(join("a"))
        host.tell(answer(host, store))  # the first weights
        with full_disk(store, monkeypatch):
            host.tell(answer(host, store))
            assert [step.status for step in [host.machine.step] if step] == ["frozen"]
            await host.journal.flush_or_trouble()
            host.tell(Steered("stop", "me"))
            host.tell(Steered("resume", "me"))
        await host.journal.flush()
        await asyncio.sleep(1.0)
        host.tell(answer(host, store))
        await asyncio.sleep(1.0)
        assert host.run.rounds_done == 1

    play(store, story)
    assert "failed" not in caplog.text


def test_updates_that_come_while_the_database_writes_go_together_into_its_next_transaction(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions: list[list[str]] = []

    async def story(host: RunHost) -> None:
        for agent_id in "abcdefghij":
            host.tell(join(agent_id))
        host.tell(answer(host, store))  # the first weights; now all of them train
        await host.journal.flush()
        tasks = list(host.machine.unanswered)
        first, *others = [answer_to(task_id, host, store) for task_id in tasks]
        commit = store.commit

        def hearing(records: Sequence[Record], at: float) -> None:
            if not transactions:
                for other in others:
                    host.tell(other)
            transactions.append([record.task_id for record in records if isinstance(record, UpdateRecord)])
            commit(records, at)

        monkeypatch.setattr(store, "commit", hearing)
        host.tell(first)
        await host.journal.flush()
        await host.journal.flush()  # what was decided meanwhile
        assert len(tasks) == 10
        assert transactions[:2] == [tasks[:1], tasks[1:]]

    play(store, story)


def answer(host: RunHost, store: ModelStore) -> UpdateReceived:
    """Return the answer to the task that is out; its bytes are staged."""
    [task_id] = host.machine.unanswered
    return answer_to(task_id, host, store)


def answer_to(task_id: str, host: RunHost, store: ModelStore) -> UpdateReceived:
    staging = store.stage(f"{task_id}.weights", LAYOUT)
    staging.write(bytes(LAYOUT.nbytes))
    payload = StoredPayload("weights", staging.finish(), LAYOUT.nbytes, LAYOUT, staging.name)
    staging.close()
    agent_id = host.machine.tasks[task_id].agent_id
    return UpdateReceived(Offered(task_id, agent_id, num_examples=1, payloads={"weights": payload}))


def test_flush_waits_for_what_was_decided_before_and_for_nothing_after(store: ModelStore) -> None:
    async def story(host: RunHost) -> None:
        joins = 0

        def join_again(_: Any = None) -> None:
            nonlocal joins
            if joins < 50:  # each transaction finds another decision waiting
                joins += 1
                host.tell(AgentJoined(f"a{joins}", f"site{joins}", ("train",)))
                asyncio.get_running_loop().call_later(0.0, join_again)

        join_again()
        await host.journal.flush()
        stored = store.snapshots()[0].agents
        assert 1 <= len(stored) < 50

    play(store, story)


def test_update_that_was_offered_twice_is_received_once(store: ModelStore) -> None:
    received: list[str] = []

    class Seat:
        transfer = None

        def post(self, message: Message) -> None:
            pass

        def receive(self, offer: Offered) -> None:
            received.append(offer.task_id)

    async def story(host: RunHost) -> None:
        host.seats["a"] = Seat()  # type: ignore[assignment]
        host.tell(join("a"))
        first = answer(host, store)
        host.tell(UpdateOffered(first.offer))
        await host.journal.flush()
        assert received == [first.offer.task_id]
        host.tell(UpdateOffered(first.offer))
        host.tell(first)  # before what comes of the second offer is carried out
        await host.journal.flush()
        assert received == [first.offer.task_id]
        host.tell(UpdateOffered(answer(host, store).offer))
        await host.journal.flush()
        assert len(received) == 2

    play(store, story)


def test_offer_of_a_task_of_another_agent_deletes_nothing_of_it(store: ModelStore) -> None:
    async def story(host: RunHost) -> None:
        host.tell(join("a"))
        first = answer(host, store)  # on its way
        host.tell(join("b"))
        host.tell(UpdateOffered(Offered(first.offer.task_id, "b", num_examples=1)))
        await asyncio.sleep(1.0)
        assert store.is_staged(f"{first.offer.task_id}.weights")
        host.tell(first)
        await host.journal.flush()
        assert host.journal.trouble == ""

    play(store, story)
