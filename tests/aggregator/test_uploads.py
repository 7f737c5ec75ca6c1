"""Updates on their way in: bounded memory, whole files, and a way on after every cut."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.aggregator import uploads
from fl_main.aggregator.uploads import Budget, Upload
from fl_main.db import ModelStore
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.errors import RemoteProtocolError, StoreFullError
from fl_main.events import Event, Offered, UpdateReceived, UpdateSpoiled
from fl_main.lossless import packed
from fl_main.messages import Chunk, Credit, Hold, Message, Send
from fl_main.store import StagingFile, StoredPayload
from fl_main.weights import Layout, Weights, pack
from tests.aggregator.memory_link import ports

TASK = "a" * 24
VALUES = {"w": np.arange(1 << 20, dtype=np.float64)}  # 8 MiB: two windows


def payload_of(weights: Weights, channel: str = "weights") -> StoredPayload:
    layout = Layout.of(weights)
    digest = file_digest(layout, DigestAlgorithm.BLAKE3)
    digest.update(pack(weights, layout))
    return StoredPayload(channel, tagged(digest), layout.nbytes, layout)


class Site:
    """An upload and the agent at its other end, which sends as it is told.

    Attributes:
        said: What the aggregator said.
        told: The event that ended the upload.
        furthest: The most bytes that were under way at once.
        sent_bytes: What its chunks had, packed or not.
    """

    def __init__(
        self, store: ModelStore, weights: Weights, budget: Budget | None = None, *, is_packed: bool = False
    ) -> None:
        self.sent_bytes = 0
        self._is_packed = is_packed
        self.said: list[Message] = []
        self.told: list[Event] = []
        self.data = {"weights": bytes(pack(weights, Layout.of(weights)))}
        payload = payload_of(weights)
        self.offer = Offered(TASK, "site", 1, payloads={"weights": payload})
        self.upload = Upload(
            self.offer,
            store,
            ports(),
            budget or Budget(64 << 20, time.monotonic),
            "r",
            self.said.append,
            self.told.append,
        )
        self.furthest = 0
        self._place = 0

    async def serve(self, *, stop_at: int | None = None, chunk: int = 512 << 10) -> None:
        """Send what may be sent until the upload is over, or so many bytes are out."""
        running = asyncio.create_task(self.upload.run())
        seen, credit = 0, 0
        while not running.done():
            for message in self.said[seen:]:
                seen += 1
                if isinstance(message, Send):
                    self._place = message.offset
                if isinstance(message, Send | Credit):
                    credit = message.credit
            data = self.data["weights"]
            end = min(self._place + chunk, credit, len(data), stop_at or len(data))
            if self._place < end:
                self.upload.take(made := self._chunk(data[self._place : end]))
                self.sent_bytes += len(made.data)
                self._place = end
                self.furthest = max(self.furthest, credit - self._place)
            elif self._place == stop_at:
                running.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(running, return_exceptions=True)

    def _chunk(self, data: bytes) -> Chunk:
        transfer = f"{TASK}/weights"
        made = packed(transfer, self._place, memoryview(data), 8) if self._is_packed else None
        return made or Chunk(transfer=transfer, offset=self._place, data=data)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    with ModelStore(tmp_path / "models") as opened:
        yield opened


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(main())


def assert_received(site: Site) -> None:
    [event] = site.told
    assert isinstance(event, UpdateReceived)
    assert event.offer.payloads["weights"].staged == f"{TASK}.weights"


def test_update_named_by_another_algorithm_is_refused_before_its_bytes(store: ModelStore) -> None:
    site = Site(store, VALUES)
    payload = replace(site.offer.payloads["weights"], digest="sha256:" + "0" * 64)
    site.upload.offer = replace(site.offer, payloads={"weights": payload})

    async def story() -> None:
        await site.serve()
        assert site.said == []
        [event] = site.told
        assert isinstance(event, UpdateSpoiled)
        assert event.reason.endswith("and model files are named by blake3 digests here")

    play(story)


def test_update_is_staged_and_told(store: ModelStore) -> None:
    site = Site(store, VALUES)
    play(site.serve)
    assert_received(site)
    assert site.said[0] == Send(task_id=TASK, channel="weights", offset=0, credit=4 << 20)
    assert store.is_staged(f"{TASK}.weights")


def test_credit_is_a_window_that_moves(store: ModelStore) -> None:
    site = Site(store, VALUES)
    play(site.serve)
    credits = [message.credit for message in site.said if isinstance(message, Credit)]
    assert credits == sorted(set(credits))
    assert site.furthest <= 4 << 20


@pytest.mark.parametrize("cut", [8, 512 << 10, 5 << 20, (8 << 20) - 8])
def test_upload_that_was_cut_goes_on_where_it_stopped(cut: int, store: ModelStore) -> None:
    first = Site(store, VALUES)
    play(lambda: first.serve(stop_at=cut))
    assert first.told == []
    second = Site(store, VALUES)
    play(second.serve)
    assert_received(second)
    start = second.said[0]
    assert isinstance(start, Send)
    assert 0 <= cut - start.offset <= 4 << 20
    assert start.offset > 0 or cut < 1 << 20


def test_other_weights_after_a_cut_begin_anew(store: ModelStore) -> None:
    first = Site(store, VALUES)
    play(lambda: first.serve(stop_at=6 << 20))
    second = Site(store, {"w": VALUES["w"] + 1})
    play(second.serve)
    assert_received(second)
    assert [message.offset for message in second.said if isinstance(message, Send)][1:] == [0]


def test_empty_payload_needs_no_chunk(store: ModelStore) -> None:
    site = Site(store, {"w": np.zeros((0, 3))})
    play(site.serve)
    assert_received(site)


def test_value_that_is_not_finite_is_named_and_nothing_stays(store: ModelStore) -> None:
    bad = VALUES["w"].copy()
    bad[700_000] = np.nan
    site = Site(store, {"v": np.zeros(3), "w": bad})
    play(site.serve)
    [event] = site.told
    assert isinstance(event, UpdateSpoiled)
    assert event.reason == "array 'w' has values that are NaN or infinite"
    assert not store.is_staged(f"{TASK}.weights")


def test_upload_that_is_cut_ends_when_no_thread_touches_its_file_any_more(store: ModelStore) -> None:
    is_begun, may_end = asyncio.Event(), asyncio.Event()

    async def in_thread(function: Callable[..., Any], /, *args: Any) -> Any:
        if function.__name__ == "discard":
            is_begun.set()
            await may_end.wait()
        return function(*args)

    async def story() -> None:
        site = Site(store, {"w": np.array([np.nan])})
        site.upload._ports = replace(site.upload._ports, run_in_thread=in_thread)
        running = asyncio.create_task(site.upload.run())
        while not site.said:  # noqa: ASYNC110 - the loop's own turns
            await asyncio.sleep(0)
        site.upload.take(Chunk(transfer=f"{TASK}/weights", offset=0, data=site.data["weights"]))
        await is_begun.wait()
        running.cancel()
        await asyncio.sleep(0.01)
        assert not running.done()  # a new session would begin with the file that is about to go
        may_end.set()
        await asyncio.gather(running, return_exceptions=True)
        assert not store.is_staged(f"{TASK}.weights")

    play(story)


def test_wrong_bytes_are_asked_for_three_times(store: ModelStore) -> None:
    site = Site(store, VALUES)
    site.data["weights"] = bytes(len(site.data["weights"]))
    play(site.serve)
    [event] = site.told
    assert isinstance(event, UpdateSpoiled)
    assert event.reason == "its bytes do not match its digest, after 3 tries"
    assert len([message for message in site.said if isinstance(message, Send)]) == 3


def test_full_disk_holds_the_agent_until_there_is_room(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(store, VALUES)
    tries = []

    def stage(name: str, layout: Layout, *, resume: bool = False) -> StagingFile:
        tries.append(name)
        if len(tries) == 1:
            raise StoreFullError("no room") from OSError(errno.ENOSPC, "")
        return real(name, layout, resume=resume)

    real = store.stage
    monkeypatch.setattr(store, "stage", stage)
    monkeypatch.setattr(uploads, "DISK_RETRY_S", 0.0)
    play(site.serve)
    assert Hold(task_id=TASK, reason="no room") in site.said
    assert_received(site)


@pytest.mark.parametrize("chunk", [512 << 10, 4096, 8192 + 8])
def test_packed_chunks_are_staged_as_plain_ones(chunk: int, store: ModelStore) -> None:
    site = Site(store, {"w": np.arange(60_000, dtype=np.float64)}, is_packed=True)
    play(lambda: site.serve(chunk=chunk))
    assert_received(site)
    assert site.sent_bytes < 0.5 * 480_000
    [event] = site.told
    assert isinstance(event, UpdateReceived)
    assert event.offer.saved_bytes == 480_000 - site.sent_bytes


def test_packed_chunk_that_is_garbage_ends_its_session_and_what_came_before_it_stays(
    store: ModelStore,
) -> None:
    async def story() -> None:
        site = Site(store, VALUES, is_packed=True)
        await site.serve(stop_at=4 << 20)
        running = asyncio.create_task(site.upload.run())
        while not isinstance(site.said[-1], Send) or site.said[-1].offset == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
        place = site.said[-1].offset
        transfer = f"{TASK}/weights"
        site.upload.take(Chunk(transfer=transfer, offset=place, packed="zstd", size=8192, data=b"garbage"))
        with pytest.raises(RemoteProtocolError, match="a chunk that cannot be unpacked"):
            await running
        assert site.told == []
        await site.serve()
        assert_received(site)

    play(story)


def test_chunk_of_another_upload_is_not_taken(store: ModelStore) -> None:
    site = Site(store, VALUES)
    assert not site.upload.take(Chunk(transfer=f"{'b' * 24}/weights", offset=0, data=bytes(8)))
    assert site.upload.take(Chunk(transfer=f"{TASK}/weights", offset=0, data=bytes(8)))  # early: ignored
    assert site.upload.transfer.place == 0


def test_chunk_of_a_channel_that_is_not_due_is_an_error(store: ModelStore) -> None:
    async def story() -> None:
        site = Site(store, VALUES)
        running = asyncio.create_task(site.upload.run())
        while not site.said:  # noqa: ASYNC110 - a list, as the upload knows it
            await asyncio.sleep(0)
        with pytest.raises(RemoteProtocolError, match=r"drift came where .*weights was due"):
            site.upload.take(Chunk(transfer=f"{TASK}/drift", offset=0, data=bytes(8)))
        running.cancel()

    play(story)


# --- the budget --------------------------------------------------------------------------


def test_budget_is_granted_first_come_first_served() -> None:
    async def story() -> None:
        budget = Budget(10, time.monotonic)
        await budget.take(6)
        order: list[str] = []

        async def wait(name: str, amount: int) -> None:
            await budget.take(amount)
            order.append(name)

        waiting = [asyncio.create_task(wait("large", 8)), asyncio.create_task(wait("small", 1))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == []  # the small one fits, but must not starve the large one
        budget.give_back(6)
        await asyncio.gather(*waiting)
        assert order == ["large", "small"]

    play(story)


def test_budget_survives_those_who_give_up() -> None:
    async def story() -> None:
        budget = Budget(10, time.monotonic)
        await budget.take(10)
        first, second = asyncio.create_task(budget.take(10)), asyncio.create_task(budget.take(10))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        budget.give_back(10)
        await second
        third = asyncio.create_task(budget.take(10))
        await asyncio.sleep(0)
        budget.give_back(10)  # granted, but not yet noticed ...
        third.cancel()  # ... when it gives up
        await asyncio.gather(third, return_exceptions=True)
        await budget.take(10)

    play(story)


def test_who_gives_up_lets_those_behind_it_have_what_is_free() -> None:
    async def story() -> None:
        budget = Budget(10, time.monotonic)
        await budget.take(6)  # for an upload of hours, on a slow line
        large = asyncio.create_task(budget.take(8))
        small = asyncio.create_task(budget.take(1))
        other = asyncio.create_task(budget.take(1, "another run"))
        await asyncio.sleep(0)
        large.cancel()
        async with asyncio.timeout(1.0):
            await asyncio.gather(small, other)

    play(story)


def test_run_of_many_does_not_hold_up_a_run_of_few() -> None:
    async def story() -> None:
        budget = Budget(10, time.monotonic)
        await budget.take(10)
        order: list[str] = []

        async def use(name: str, run: str) -> None:
            await budget.take(10, run)
            order.append(name)
            budget.give_back(10)

        crowd = [asyncio.create_task(use(f"c{number}", "crowd")) for number in range(5)]
        await asyncio.sleep(0)
        pair = [asyncio.create_task(use(f"p{number}", "pair")) for number in range(2)]
        await asyncio.sleep(0)
        budget.give_back(10)
        await asyncio.gather(*crowd, *pair)
        assert order == ["c0", "p0", "c1", "p1", "c2", "c3", "c4"]

    play(story)


def test_who_waits_for_the_budget_is_told_its_place_and_about_how_long() -> None:
    now = 0.0

    async def story() -> None:
        nonlocal now
        budget = Budget(10, lambda: now)
        said: list[str] = []
        for _ in range(2):  # ten bytes a second
            await budget.take(10)
            now += 1.0
            budget.give_back(10)
        await budget.take(10)
        now += 1.0
        waiting = [asyncio.create_task(budget.take(10, "r", said.append)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert said == [
            "it is the next, about 1 s",
            "1 are before it, about 2 s",
            "2 are before it, about 3 s",
            "3 are before it, about 4 s",
        ]

    play(story)


@given(st.lists(st.tuples(st.integers(1, 10), st.booleans(), st.sampled_from("abc")), max_size=30))
def test_budget_is_never_overdrawn_and_comes_back_whole(wishes: list[tuple[int, bool, str]]) -> None:
    async def story() -> None:
        budget = Budget(10, time.monotonic)
        held = 0

        async def use(amount: int, run: str) -> None:
            nonlocal held
            await budget.take(amount, run)
            try:
                held += amount
                assert held <= 10
                await asyncio.sleep(0)
            finally:
                held -= amount
                budget.give_back(amount)

        tasks = []
        for amount, gives_up, run in wishes:
            tasks.append(asyncio.create_task(use(amount, run)))
            await asyncio.sleep(0)
            if gives_up:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await budget.take(10)

    play(story)


def test_uploads_share_the_budget(store: ModelStore) -> None:
    async def story() -> None:
        budget = Budget(8, time.monotonic)
        await budget.take(8)
        site = Site(store, {"w": np.zeros(1)}, budget)
        running = asyncio.create_task(site.serve())
        await asyncio.sleep(0.01)
        hold = site.said[0]
        assert isinstance(hold, Hold)
        assert hold.reason == "it waits for its turn (limits.receive_bytes): it is the next"
        budget.give_back(8)
        await running
        assert_received(site)

    play(story)


def test_tiny_chunks_are_put_together(store: ModelStore) -> None:
    async def story() -> None:
        site = Site(store, {"w": np.arange(20_000, dtype=np.float64)})
        running = asyncio.create_task(site.upload.run())
        await asyncio.sleep(0.01)  # until it asks for bytes
        assert isinstance(site.said[0], Send)
        for place in range(0, 160_000 - 8, 8):
            site.upload.take(
                Chunk(transfer=f"{TASK}/weights", offset=place, data=site.data["weights"][place : place + 8])
            )
        assert len(site.upload._pieces) == 3
        last = Chunk(transfer=f"{TASK}/weights", offset=160_000 - 8, data=site.data["weights"][-8:])
        site.upload.take(last)
        await running
        assert_received(site)

    play(story)


SMALL = {"w": np.arange(1000.0)}  # 8,000 bytes


def early_site(store: ModelStore, budget: Budget) -> Site:
    """A site whose update was granted with its task."""
    assert budget.take_early(8000)
    site = Site(store, SMALL, budget)
    made = site.upload
    site.upload = Upload(
        site.offer, store, ports(), budget, "r", site.said.append, site.told.append, early=8000
    )
    made.give_up()
    return site


def chunks(site: Site, data: bytes) -> list[Chunk]:
    parts = range(0, len(data), 4000)
    return [
        Chunk(transfer=f"{TASK}/weights", offset=place, data=data[place : place + 4000]) for place in parts
    ]


def test_update_may_be_there_before_it_is_wanted(store: ModelStore) -> None:
    async def story() -> None:
        site = early_site(store, budget := Budget(32_000, time.monotonic))
        assert site.upload.credit == 8000
        for chunk in chunks(site, site.data["weights"]):
            assert site.upload.take(chunk)
        assert site.upload.credit == 0
        await site.upload.run()
        assert_received(site)
        assert site.said == []  # nothing was asked for
        assert budget.take_early(8000)

    play(story)


def test_early_update_begins_anew_whatever_was_staged(store: ModelStore) -> None:
    async def story() -> None:
        with contextlib.closing(store.stage(f"{TASK}.weights", Layout.of(SMALL))) as staged:
            staged.write(bytes(800))
        site = early_site(store, Budget(32_000, time.monotonic))
        for chunk in chunks(site, site.data["weights"]):
            site.upload.take(chunk)
        await site.upload.run()
        assert_received(site)

    play(story)


def test_early_update_with_another_digest_is_asked_for_again(store: ModelStore) -> None:
    async def story() -> None:
        site = early_site(store, Budget(32_000, time.monotonic))
        for chunk in chunks(site, bytes(8000)):
            site.upload.take(chunk)
        running = asyncio.create_task(site.upload.run())
        while not site.said:  # noqa: ASYNC110 - the loop's own turns
            await asyncio.sleep(0)
        assert site.said == [Send(task_id=TASK, channel="weights", offset=0, credit=8000)]
        for chunk in chunks(site, site.data["weights"]):
            site.upload.take(chunk)
        await running
        assert_received(site)

    play(story)


def test_early_update_that_is_not_wanted_is_let_go(store: ModelStore) -> None:
    async def story() -> None:
        site = early_site(store, budget := Budget(32_000, time.monotonic))
        first, second = chunks(site, site.data["weights"])
        assert site.upload.take(first)
        site.upload.give_up()
        site.upload.give_up()
        assert site.upload.take(second)  # on its way when it was given up
        assert budget.take_early(8000)
        assert not budget.take_early(8)

    play(story)


def test_early_grants_leave_the_budget_to_those_who_wait(store: ModelStore) -> None:
    async def story() -> None:
        budget = Budget(32_000, time.monotonic)
        await budget.take(30_000)
        assert not budget.take_early(8000)  # there is not so much
        waiting = asyncio.create_task(budget.take(8000))
        await asyncio.sleep(0)
        assert not budget.take_early(8)  # others were there before
        budget.give_back(30_000)
        await waiting
        assert budget.take_early(8)

    play(story)
