"""Chunks that travel compressed where that pays: nothing but the bytes on the wire is another.

Neighbouring floats have little in common but their exponents, which lie at every fourth byte: so the
first bytes of all numbers come first, then the second ones, and so on, as Blosc's shuffle filter has
it, and then Zstandard finds what repeats. Places, sizes, credit and digests are those of the plain bytes.
"""

from typing import TypeAlias

import numpy as np

from fl_main.codec import frame_of
from fl_main.errors import RemoteProtocolError, SettingsError
from fl_main.messages import MAX_CHUNK_BYTES, MIN_PACKED_BYTES, Chunk

try:
    import zstandard
except ModuleNotFoundError as error:
    if error.name != "zstandard":  # a broken installation has its own story to tell
        raise
    PACKINGS: tuple[str, ...] = ()  # what this installation can do
else:
    PACKINGS = ("zstd",)
INSTALL = "pip install 'fl_main[compression]'"

Piece: TypeAlias = bytes | bytearray | memoryview

LEVEL = 1  # higher ones take longer and save no more of shuffled floats
WORTH_IT = 0.95  # of the plain bytes: what saves less travels as it is


def require_packing(name: str) -> None:
    """Check that chunks can be packed here as a run's settings want it.

    Raises:
        SettingsError: If what that needs is not installed.
    """
    if name != "none" and name not in PACKINGS:
        raise SettingsError(f"compression.lossless: {name} needs the package zstandard: {INSTALL}")


def packed(transfer: str, offset: int, data: memoryview, width: int) -> Chunk | None:
    """Return a chunk, packed; None if it is to travel as it is.

    Args:
        transfer: Which one.
        offset: Where the data belong.
        data: Plain bytes; only read.
        width: Bytes of each number in them, by which they are shuffled.
    """
    if len(data) < MIN_PACKED_BYTES:
        return None
    made: bytes = zstandard.ZstdCompressor(LEVEL).compress(_shuffled(data, width))
    if len(made) > WORTH_IT * len(data):
        return None
    return Chunk(transfer=transfer, offset=offset, packed="zstd", size=len(data), width=width, data=made)


def packed_frame(transfer: str, offset: int, data: memoryview, width: int) -> memoryview | None:
    """Return the frame of a packed chunk as links take it; None if it is to travel as it is."""
    chunk = packed(transfer, offset, data, width)
    return None if chunk is None else frame_of(chunk)


def unpacked(chunk: Chunk) -> Piece:
    """Return the plain bytes of a chunk: `chunk.plain_size` of them.

    Raises:
        RemoteProtocolError: If its data are not the packed form of so many bytes.
    """
    if chunk.packed is None:
        return chunk.data
    try:
        # Before any memory is taken: the decompressor takes what the frame asks for.
        if zstandard.frame_content_size(chunk.data) != chunk.size:
            raise RemoteProtocolError(
                f"{chunk.transfer}: a chunk that is not of the {chunk.size} bytes it says"
            )
        plain = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK_BYTES).decompress(
            chunk.data, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"{chunk.transfer}: a chunk that cannot be unpacked: {error}") from error
    return _in_order(plain, chunk.width)


def _shuffled(data: memoryview, width: int) -> memoryview:
    """Return the bytes of numbers with their first bytes first; what is no whole number stays behind."""
    whole = len(data) - len(data) % width
    if width == 1 or not whole:
        return data
    shuffled = np.empty(len(data), np.uint8)
    shuffled[:whole].reshape(width, -1)[:] = np.frombuffer(data[:whole], np.uint8).reshape(-1, width).T
    shuffled[whole:] = np.frombuffer(data[whole:], np.uint8)
    return shuffled.data


def _in_order(data: bytes, width: int) -> bytes | memoryview:
    """Undo `_shuffled`."""
    whole = len(data) - len(data) % width
    if width == 1 or not whole:
        return data
    plain = np.empty(len(data), np.uint8)
    numbers = plain[:whole].reshape(-1, width)
    for place, part in enumerate(np.frombuffer(data, np.uint8, whole).reshape(width, -1)):
        numbers[:, place] = part
    plain[whole:] = np.frombuffer(data, np.uint8, len(data) - whole, whole)
    return plain.data
