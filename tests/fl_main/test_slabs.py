"""Memory for chunks is used again, once nobody looks at it any more."""

import numpy as np

from fl_main.messages import CHUNK_BYTES, MAX_CHUNK_BYTES
from fl_main.slabs import KEPT, Slabs, is_unused


def place_of(part: memoryview) -> int:
    return int(np.frombuffer(part, np.uint8).ctypes.data)


def test_what_nobody_refers_to_any_more_is_used_again() -> None:
    slabs = Slabs()
    part = slabs.take(100)
    place = place_of(part)
    del part
    assert place_of(slabs.take(CHUNK_BYTES)) == place


def test_what_somebody_looks_at_is_left_alone() -> None:
    slabs = Slabs()
    whole, part, array = slabs.take(8), slabs.take(8)[2:4], np.frombuffer(slabs.take(8), np.int64)
    whole[:], part[:], array[:] = b"new year", b"no", 1
    for _ in range(2 * KEPT):
        slabs.take(8)[:] = b"overrode"
    assert (bytes(whole), bytes(part), array.tolist()) == (b"new year", b"no", [1])


def test_buffer_is_unused_while_only_its_collection_has_it() -> None:
    kept = [bytearray(8)]
    assert is_unused(kept, 0)
    view = memoryview(kept[0])
    assert not is_unused(kept, 0)
    part = view[2:4]
    del view
    assert not is_unused(kept, 0)
    del part
    assert is_unused(kept, 0)


def test_more_than_are_kept_at_once_are_still_given() -> None:
    slabs = Slabs()
    held = [slabs.take(8) for _ in range(KEPT + 10)]
    assert len({place_of(part) for part in held}) == len(held)


def test_every_part_is_as_long_as_asked_for_and_aligned() -> None:
    slabs = Slabs()
    for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, MAX_CHUNK_BYTES):
        part = slabs.take(size)
        assert len(part) == size
        assert size == 0 or place_of(part) % 16 == 0
