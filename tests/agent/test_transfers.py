"""Single transfers: what is sent is paid for, and what comes is checked."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_main.agent.outgoing import Outgoing
from fl_main.agent.state_folder import StateFolder
from fl_main.agent.transfers import Download, Sender
from fl_main.codec import decode
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.disk import REAL_DISK
from fl_main.errors import RemoteProtocolError
from fl_main.messages import CHUNK_BYTES, Chunk, Payload, Sending
from fl_main.ports import HEADROOM
from fl_main.session import Incoming
from fl_main.weights import Layout, pack

WEIGHTS = {"w": np.arange(200_000.0), "odd": np.arange(5, dtype=np.uint8)}
LAYOUT = Layout.of(WEIGHTS)
DATA = bytes(pack(WEIGHTS, LAYOUT))
TASK = "a" * 24


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An update in an outbox."""
    folder = StateFolder(tmp_path_factory.mktemp("state"))
    folder.put(TASK, 1, None, {}, {"weights": Outgoing.of(WEIGHTS, LAYOUT)}, None, 0.0)
    folder.close()
    return folder.payload_file(TASK, "weights")


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(main())


# --- out ---------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offset=st.integers(0, len(DATA) // 8).map(lambda place: place * 8),
    credits=st.lists(st.integers(0, len(DATA)), max_size=4),
)
def test_sender_never_goes_beyond_its_credit_and_ends_with_every_byte(
    file: Path, offset: int, credits: list[int]
) -> None:
    async def story() -> None:
        incoming = Incoming("t", len(DATA), offset, 0)
        found = bytearray(DATA[:offset])

        async def send(framed: memoryview) -> None:
            chunk = decode(bytes(framed[HEADROOM:]))
            assert isinstance(chunk, Chunk)
            incoming.take(chunk)  # raises if it is out of order, too long, unpaid or cuts a number
            assert len(chunk.data) <= CHUNK_BYTES
            found.extend(chunk.data)

        sender = Sender("t", lambda: REAL_DISK.open(file), LAYOUT, send)
        running = asyncio.create_task(sender.run(offset))
        for credit in [*sorted(credits), len(DATA)]:
            incoming.credit = credit
            sender.allow(credit)
            for _ in range(10):
                await asyncio.sleep(0)
        await running
        assert found == DATA

    play(story)


def test_sender_of_nothing_is_done_at_once(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    empty = {"w": np.zeros(0)}
    folder.put(TASK, 1, None, {}, {"weights": Outgoing.of(empty, Layout.of(empty))}, None, 0.0)

    async def send(framed: memoryview) -> None:
        raise AssertionError

    play(lambda: Sender("t", lambda: folder.open_payload(TASK, "weights"), Layout.of(empty), send).run(0))
    folder.close()


# --- in ----------------------------------------------------------------------------------


def payload(digest: str = "") -> Payload:
    running = file_digest(LAYOUT, DigestAlgorithm.BLAKE3)
    running.update(DATA)
    return Payload(layout=LAYOUT.digest, digest=digest or tagged(running), size=len(DATA))


def sending(**changes: Any) -> Sending:
    fields = {"transfer": "t", "offset": 0, "size": len(DATA), "rows": LAYOUT.to_wire()}
    return Sending.model_validate(fields | changes)


def test_download_is_whole_when_its_digest_says_so() -> None:
    async def story() -> None:
        download = Download(payload(), None)
        assert download.request().layout is None
        download.begin(sending())
        for place in range(0, len(DATA), CHUNK_BYTES):
            assert not download.finish()
            download.take(Chunk(transfer="t", offset=place, data=DATA[place : place + CHUNK_BYTES]))
        assert download.finish()
        fetched = await download.done
        layout, buffer = fetched.layout, fetched.data
        assert (layout, bytes(buffer)) == (LAYOUT, DATA)

    play(story)


def test_download_with_a_known_layout_needs_no_description() -> None:
    async def story() -> None:
        download = Download(payload(), LAYOUT)
        assert download.request().layout == LAYOUT.digest
        download.begin(sending(rows=None))
        download.take(Chunk(transfer="t", offset=0, data=DATA[:800]))
        again = download.request()
        assert again.offset == 800
        with pytest.raises(RemoteProtocolError, match="a chunk before its announcement"):
            download.take(Chunk(transfer="t", offset=800, data=DATA[800:1600]))

    play(story)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": None}, "another layout than announced"),
        ({"rows": [("w", "F64", [1], "parameter")]}, "another layout than announced"),
        ({"rows": [("w", "X1", [1], "parameter")]}, "badly described"),
        ({"size": 8}, "another size than announced"),
        ({"offset": 8}, "a model from byte 8, asked for was 0"),
    ],
)
def test_announcement_that_does_not_fit_is_an_error(changes: dict[str, Any], words: str) -> None:
    async def story() -> None:
        with pytest.raises(RemoteProtocolError, match=words):
            Download(payload(), None).begin(sending(**changes))

    play(story)


def test_memory_is_taken_for_what_came_not_for_what_was_announced() -> None:
    async def story() -> None:
        layout = Layout.free(1 << 59)
        huge = payload().model_copy(update={"layout": layout.digest, "size": layout.nbytes})
        download = Download(huge, None)
        download.begin(sending(size=layout.nbytes, rows=layout.to_wire()))
        download.take(Chunk(transfer="t", offset=0, data=DATA[:CHUNK_BYTES]))
        assert not download.finish()

    play(story)


def test_wrong_digest_begins_anew_twice_at_most() -> None:
    async def story() -> None:
        download = Download(payload("blake3:" + "0" * 64), LAYOUT)
        for _ in range(2):
            assert download.request().offset == 0
            download.begin(sending())
            download.take(Chunk(transfer="t", offset=0, data=DATA[:CHUNK_BYTES]))
            for place in range(CHUNK_BYTES, len(DATA), CHUNK_BYTES):
                download.take(Chunk(transfer="t", offset=place, data=DATA[place : place + CHUNK_BYTES]))
            assert not download.finish()
            assert download.must_ask_again
        download.request()
        download.begin(sending())
        for place in range(0, len(DATA), CHUNK_BYTES):
            download.take(Chunk(transfer="t", offset=place, data=DATA[place : place + CHUNK_BYTES]))
        with pytest.raises(RemoteProtocolError, match="do not match its digest"):
            download.finish()

    play(story)
