"""Models on their way out: read once for everybody, from any byte on."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_main.aggregator import downloads
from fl_main.aggregator.downloads import Frames
from fl_main.codec import decode
from fl_main.db import ModelStore
from fl_main.errors import StoreDamagedError
from fl_main.lossless import packed_frame, unpacked
from fl_main.messages import CHUNK_BYTES, Chunk
from fl_main.ports import HEADROOM, LinkClosedError
from fl_main.session import Incoming
from fl_main.store import ModelKind, ModelRecord, StoredPayload
from fl_main.weights import Layout, pack
from tests.aggregator.memory_link import MemoryLink, link_pair, ports
from tests.db.building import RUN, RUN_ID

SIZE = 9 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    with ModelStore(tmp_path / "models") as opened:
        yield opened


def stored(store: ModelStore, number: int = 0) -> tuple[StoredPayload, bytes]:
    weights = {"w": np.random.default_rng(number).standard_normal(SIZE // 8)}
    layout = Layout.of(weights)
    data = bytes(pack(weights, layout))
    staging = store.stage(f"s{number}", layout)
    staging.write(data)
    payload = StoredPayload("weights", staging.finish(), len(data), layout, f"s{number}")
    record = ModelRecord(f"m{number}", RUN_ID, 0, ModelKind.GLOBAL, payload)
    store.commit([RUN, record], 1.0)
    return payload, data


async def received(link: MemoryLink, payload: StoredPayload, offset: int) -> bytes:
    """Take chunks as an agent does, and return their bytes."""
    incoming = Incoming(payload.digest, payload.size, offset, payload.size)
    found = b""
    while not incoming.is_complete:
        chunk = decode(await link.receive())
        assert isinstance(chunk, Chunk)
        assert len(chunk.data) <= CHUNK_BYTES
        incoming.take(chunk)
        found += unpacked(chunk)
    return found


@pytest.mark.parametrize("offset", [0, 8, CHUNK_BYTES, 5_000_000, SIZE - 8, SIZE, SIZE + 800])
def test_model_is_sent_from_any_byte_on(offset: int, store: ModelStore) -> None:
    payload, data = stored(store)

    async def story() -> bytes:
        frames = Frames(store, ports())
        mine, theirs = link_pair()
        await frames.send(mine, payload, offset)
        frames.close()
        return await received(theirs, payload, offset) if offset < SIZE else b""

    assert asyncio.run(story()) == data[offset:]


def test_model_is_read_once_for_many(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    payload, data = stored(store)
    reads = []

    def read(digest: str, *rest: Any) -> Any:
        reads.append(digest)
        return real(digest, *rest)

    real = store.read
    monkeypatch.setattr(store, "read", read)

    async def story() -> None:
        frames = Frames(store, ports())
        pairs = [link_pair() for _ in range(5)]
        await asyncio.gather(*(frames.send(mine, payload, 0) for mine, _ in pairs))
        for _, theirs in pairs:
            assert await received(theirs, payload, 0) == data
        frames.close()
        frames.close()

    asyncio.run(story())
    assert reads == [payload.digest]


def test_model_is_packed_once_for_all_who_can_unpack(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, data = stored(store)
    places: list[int] = []

    def packed(transfer: str, offset: int, part: memoryview, width: int) -> memoryview | None:
        places.append(offset)
        assert width == 8
        return packed_frame(transfer, offset, part, width)

    monkeypatch.setattr(downloads, "packed_frame", packed)

    async def story() -> None:
        frames = Frames(store, ports())
        pairs = [(link_pair(), packing) for packing in ("zstd", None, "zstd", "zstd")]
        await asyncio.gather(*(frames.send(mine, payload, 0, packing) for (mine, _), packing in pairs))
        for (_, theirs), packing in pairs:
            assert await received(theirs, payload, 0) == data
            assert (theirs.bytes_received < 0.97 * SIZE) == (packing is not None)
        frames.close()

    asyncio.run(story())
    assert places == list(range(0, SIZE, CHUNK_BYTES))


def test_packed_model_goes_on_within_a_chunk(store: ModelStore) -> None:
    payload, data = stored(store)

    async def story() -> None:
        frames = Frames(store, ports())
        mine, theirs = link_pair()
        await frames.send(mine, payload, 5_000_000, "zstd")
        frames.close()
        assert await received(theirs, payload, 5_000_000) == data[5_000_000:]
        assert theirs.bytes_received < 0.97 * (SIZE - 5_000_000)

    asyncio.run(story())


def test_memory_and_open_files_are_bounded(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "OPEN_FILES", 2)
    models = [stored(store, number) for number in range(4)]

    async def story() -> None:
        frames = Frames(store, ports())
        for payload, data in models * 2:
            mine, theirs = link_pair()
            await frames.send(mine, payload, 0)
            assert await received(theirs, payload, 0) == data
        assert len(frames._files) <= 2
        assert sum(len(batch) for batch in frames._kept.values()) * CHUNK_BYTES <= 40 << 20
        frames.close()

    asyncio.run(story())


def test_chunks_are_smaller_where_many_fetch_at_once(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, _ = stored(store)
    monkeypatch.setattr(downloads, "SEND_BYTES", 4 * CHUNK_BYTES)

    async def largest(number: int) -> int:
        frames = Frames(store, ports())
        pairs = [link_pair() for _ in range(number)]
        sending = [asyncio.create_task(frames.send(mine, payload, 0)) for mine, _ in pairs]
        await asyncio.gather(*sending)
        _, theirs = pairs[-1]
        sizes = [len(await theirs.receive()) for _ in range(4)]
        frames.close()
        return max(sizes)

    def in_chunks(number: int) -> int:
        return asyncio.run(largest(number)) // downloads.SMALLEST_CHUNK

    assert [in_chunks(number) for number in (1, 4, 8, 100)] == [8, 8, 4, 1]


class Slow:
    """A reader that takes a frame when it is told to."""

    def __init__(self) -> None:
        self.found = b""
        self.is_held = asyncio.Event()
        self.may_go = asyncio.Event()

    async def send_framed(self, framed: memoryview) -> None:
        self.is_held.set()
        await self.may_go.wait()
        chunk = decode(bytes(framed[HEADROOM:]))
        assert isinstance(chunk, Chunk)
        self.found += chunk.data


def test_slow_reader_goes_on_though_what_it_reads_was_forgotten(store: ModelStore) -> None:
    payload, data = stored(store)

    async def story() -> None:
        frames, slow = Frames(store, ports()), Slow()
        sending = asyncio.create_task(frames.send(slow, payload, 0))
        await slow.is_held.wait()
        frames._kept.clear()
        slow.may_go.set()
        await sending
        assert slow.found == data
        frames.close()

    asyncio.run(story())


def test_slow_reader_keeps_one_chunk_in_memory(store: ModelStore) -> None:
    payload, _ = stored(store)

    async def story() -> None:
        frames, slow = Frames(store, ports()), Slow()
        sending = asyncio.create_task(frames.send(slow, payload, 0))
        await slow.is_held.wait()
        [batch] = frames._kept.values()
        chunks = [weakref.ref(chunk) for chunk in batch]
        del batch
        frames._kept.clear()
        gc.collect()
        assert [chunk() is not None for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        slow.may_go.set()
        await sending
        frames.close()

    asyncio.run(story())


def test_link_that_ends_ends_only_its_own_transfer(store: ModelStore) -> None:
    payload, data = stored(store)

    async def story() -> None:
        frames = Frames(store, ports())
        (gone, other), (mine, theirs) = link_pair(), link_pair()
        await other.close(1006, "cut")
        results = await asyncio.gather(
            frames.send(gone, payload, 0), frames.send(mine, payload, 0), return_exceptions=True
        )
        assert isinstance(results[0], LinkClosedError)
        assert await received(theirs, payload, 0) == data
        frames.close()

    asyncio.run(story())


def test_file_that_is_missing_is_an_error_each_time(store: ModelStore, tmp_path: Path) -> None:
    payload, _ = stored(store)
    for file in (tmp_path / "models" / "models").rglob("*.safetensors"):
        file.unlink()

    async def story() -> None:
        frames = Frames(store, ports())
        mine, _ = link_pair()
        for _ in range(2):
            with pytest.raises(StoreDamagedError):
                await frames.send(mine, payload, 0)
        frames.close()

    asyncio.run(story())
