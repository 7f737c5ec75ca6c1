"""Chunks that travel compressed: the same bytes come out, and whatever else came in is refused."""

import contextlib
import sys
from collections.abc import Iterator
from importlib import reload

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fl_main import lossless
from fl_main.errors import RemoteProtocolError, SettingsError
from fl_main.lossless import packed, require_packing, unpacked
from fl_main.messages import MAX_CHUNK_BYTES, MIN_PACKED_BYTES, Chunk


def floats(number: int) -> bytes:
    return (0.05 * np.random.default_rng(0).standard_normal(number)).astype(np.float32).tobytes()


def chunk_of(data: bytes, size: int, width: int = 1) -> Chunk:
    return Chunk(transfer="t", offset=0, packed="zstd", size=size, width=width, data=data)


@given(
    content=st.binary(max_size=40),
    times=st.integers(MIN_PACKED_BYTES // 16, 1000),
    rest=st.binary(max_size=9),
    width=st.integers(1, 8),
)
def test_what_is_packed_comes_out_the_same(content: bytes, times: int, rest: bytes, width: int) -> None:
    data = content * times + rest
    made = packed("t", 8, memoryview(data), width)
    if made is not None:
        assert (made.plain_size, made.width) == (len(data), width)
        assert len(made.data) <= 0.95 * len(data)
        assert unpacked(made) == data


def test_floats_pay_by_their_exponents_once_they_are_shuffled() -> None:
    data = memoryview(floats(131_072))
    plain, shuffled = packed("t", 0, data, 1), packed("t", 0, data, 4)
    assert shuffled is not None
    assert len(shuffled.data) < 0.87 * len(data)  # a quarter of the bytes takes less than half of its place
    assert plain is None or len(shuffled.data) < len(plain.data)


def test_what_cannot_be_packed_by_a_twentieth_goes_as_it_is() -> None:
    noise = np.random.default_rng(0).bytes(1 << 16)
    assert packed("t", 0, memoryview(noise), 4) is None
    assert packed("t", 0, memoryview(noise + bytes(1 << 10)), 1) is None  # 65 of 66 parts are noise
    assert packed("t", 0, memoryview(noise + bytes(1 << 13)), 1) is not None  # 8 of 9


def test_what_is_small_goes_as_it_is() -> None:
    assert packed("t", 0, memoryview(bytes(MIN_PACKED_BYTES - 1)), 1) is None
    assert packed("t", 0, memoryview(bytes(MIN_PACKED_BYTES)), 1) is not None


def test_plain_chunk_is_its_data() -> None:
    chunk = Chunk(transfer="t", offset=0, data=b"12345678")
    assert unpacked(chunk) is chunk.data
    assert chunk.plain_size == 8


COMPRESSOR = zstandard.ZstdCompressor()
ZEROS = COMPRESSOR.compress(bytes(8192))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (ZEROS, 8200),  # less than it says
        (ZEROS, 8184),  # more than it says
        (ZEROS[:-1], 8192),
        (ZEROS + b"x", 8192),
        (ZEROS * 2, 8192),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8192)), 8192),
        (COMPRESSOR.compress(bytes(1 << 28)), MAX_CHUNK_BYTES),  # 256 MB in 8 KB
        (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8, MAX_CHUNK_BYTES),  # 2^64 - 1 bytes, it says
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip", 8192),  # a frame to be skipped
        (b"not zstd at all", 8192),
        (b"", 8192),
    ],
)
def test_what_is_not_the_packed_form_of_so_many_bytes_is_the_peers_fault(data: bytes, size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^t: a chunk that "):
        unpacked(chunk_of(data, size))


@given(st.binary(min_size=1, max_size=200), st.integers(1, 8), st.booleans())
def test_any_bytes_are_so_many_plain_bytes_or_the_peers_fault(data: bytes, width: int, begins: bool) -> None:
    chunk = chunk_of((ZEROS[:6] if begins else b"") + data, 8192, width)
    with contextlib.suppress(RemoteProtocolError):
        assert len(unpacked(chunk)) == 8192


def test_frame_with_a_window_larger_than_a_chunk_is_refused() -> None:
    # Magic, a descriptor with a content size of 8 bytes, a window of 2^30 bytes, content of 8192 bytes,
    # and one last block that repeats a byte 8192 times: right but for the window, and that it is cut.
    # Of a frame that is whole and whose content has its place, no window is made, whatever it says.
    block = (1 | 1 << 1 | 8192 << 3).to_bytes(3, "little") + b"\x00"
    frame = b"\x28\xb5\x2f\xfd" + b"\xc0" + bytes([20 << 3]) + (8192).to_bytes(8, "little") + block
    assert unpacked(chunk_of(frame, 8192)) == bytes(8192)
    with pytest.raises(RemoteProtocolError, match="too much memory"):
        unpacked(chunk_of(frame[:-1], 8192))


@pytest.fixture
def without_zstandard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "zstandard", None)
        reload(lossless)
        yield
    reload(lossless)


@pytest.mark.usefixtures("without_zstandard")
def test_who_lacks_the_package_is_told_what_to_install() -> None:
    assert lossless.PACKINGS == ()
    lossless.require_packing("none")
    with pytest.raises(SettingsError, match=r"compression\.lossless: zstd needs .*'fl_main\[compression\]'"):
        lossless.require_packing("zstd")


def test_who_has_the_package_may_want_it() -> None:
    assert lossless.PACKINGS == ("zstd",)
    require_packing("zstd")
