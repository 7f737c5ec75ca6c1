"""Messages to frames and back: one msgpack map per WebSocket message."""

from typing import Any

import msgpack
from pydantic import ValidationError

from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import BY_TYPE, MAX_FRAME_BYTES, MAX_FRAME_VALUES, MAX_MAP_ENTRIES, Chunk, Message
from fl_main.msgpack_count import count_values
from fl_main.ports import HEADROOM
from fl_main.printable import first_fault

NUMBER = "n"  # beside the fields of the message
HEAD_BYTES = 1 << 10  # of a Chunk's frame, in which its head lies: its longest field is a name

# The parts of a Chunk's frame that never change: a map of four or seven, its keys, and bytes of any length.
_TYPE = b"".join(msgpack.packb(text) for text in ("type", "chunk"))
_TRANSFER, _OFFSET, _DATA = (msgpack.packb(text) for text in ("transfer", "offset", "data"))
_PLAIN, _PACKED = b"\x84", b"\x87"
_KEYS = {
    _PLAIN: ("type", "transfer", "offset"),
    _PACKED: ("type", "transfer", "offset", "packed", "size", "width"),
}
_BIN = {1: 0xC4, 2: 0xC5, 4: 0xC6}
_WIDTH = {first: width for width, first in _BIN.items()}


def encode(message: Message, number: int = 0) -> bytes:
    """Return the frame of a message.

    Args:
        message: What is said.
        number: Its place among the messages of its session, from 1; 0: it is not numbered.

    Raises:
        LocalProtocolError: If no peer would take it: too large, or not to be written in msgpack.
    """
    try:
        frame: bytes = msgpack.packb(message.model_dump() | ({NUMBER: number} if number else {}))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"{message.type!r} cannot be written as msgpack: {error}") from error
    if len(frame) > MAX_FRAME_BYTES:
        raise LocalProtocolError(
            f"{message.type!r} has {len(frame)} bytes; at most {MAX_FRAME_BYTES} can be sent"
        )
    # A value has at least a byte: most frames need not be counted.
    if len(frame) > MAX_FRAME_VALUES and count_values(frame, MAX_FRAME_VALUES) > MAX_FRAME_VALUES:
        raise LocalProtocolError(f"{message.type!r} has more than {MAX_FRAME_VALUES} values in it")
    return frame


def chunk_head(transfer: str, offset: int, size: int) -> bytes:
    """Return what a Chunk's frame has before its data, so that these can be read in behind it."""
    return b"".join((_PLAIN, *_place(transfer, offset), *_data(size)))


def _place(transfer: str, offset: int) -> tuple[bytes, ...]:
    return _TYPE, _TRANSFER, msgpack.packb(transfer), _OFFSET, msgpack.packb(offset)


def _data(size: int) -> tuple[bytes, ...]:
    width = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    return _DATA, bytes([_BIN[width]]), size.to_bytes(width)


def frame_of(chunk: Chunk) -> memoryview:
    """Return a packed Chunk's frame with room before it, as links take it."""
    facts = (chunk.packed, "size", chunk.size, "width", chunk.width)
    how = b"".join(msgpack.packb(part) for part in ("packed", *facts))
    parts = (bytes(HEADROOM), _PACKED, *_place(chunk.transfer, chunk.offset), how, *_data(len(chunk.data)))
    return memoryview(bytearray().join((*parts, chunk.data)))


def frame_in(buffer: memoryview, transfer: str, offset: int, size: int) -> tuple[memoryview, memoryview]:
    """Write a Chunk's frame to a buffer, but for its data.

    Args:
        buffer: At least `HEADROOM` + `HEAD_BYTES` + size bytes.
        transfer: Which one.
        offset: Where the data belong.
        size: How many bytes they are.

    Returns:
        The frame with room before it, as links take it, and the part of it that is for the data.
    """
    head = chunk_head(transfer, offset, size)
    start = HEADROOM + len(head)
    buffer[HEADROOM:start] = head
    return buffer[: start + size], buffer[start : start + size]


def read_chunk_head(frame: memoryview) -> tuple[Chunk, int, int] | None:
    """Return a Chunk without its data, where they begin, and how many bytes they are.

    Args:
        frame: Its first `HEAD_BYTES`, or all of it.

    Returns:
        None if it is not a Chunk as we write them; `decode` says what it is.
    """
    names = _KEYS.get(bytes(frame[:1]))
    if names is None or frame[1 : 1 + len(_TYPE)] != _TYPE:
        return None
    unpacker = msgpack.Unpacker(read_size=HEAD_BYTES, max_buffer_size=HEAD_BYTES)
    try:
        unpacker.feed(frame[:HEAD_BYTES])
        unpacker.read_map_header()
        fields = {name: unpacker.unpack() for key in names if (name := unpacker.unpack()) == key}
        if set(fields) != set(names) or unpacker.unpack() != "data":
            return None
        width = _WIDTH[frame[start := unpacker.tell()]]
    except (ValueError, LookupError, TypeError, msgpack.UnpackException):
        return None
    start += 1 + width
    chunk, size = _without_data(fields), int.from_bytes(frame[start - width : start])
    return None if chunk is None or (chunk.packed and size > chunk.size) else (chunk, start, size)


def _without_data(fields: dict[str, Any]) -> Chunk | None:
    """Return the Chunk of a head's fields; None if there is anything wrong with them."""
    if "packed" in fields:
        try:
            return Chunk.model_validate(fields | {"data": b""}, strict=True)
        except ValidationError:
            return None
    if [type(value) for value in fields.values()] != [str, str, int] or fields["offset"] < 0:
        return None
    return Chunk.model_construct(**fields, data=b"")


def decode(frame: bytes | str) -> Message:
    """Return the message in a frame.

    Raises:
        RemoteProtocolError: Whatever else the bytes are.
    """
    return decode_numbered(frame)[0]


def decode_numbered(frame: bytes | str) -> tuple[Message, int]:
    """Return the message in a frame and its number, 0 if it has none.

    Raises:
        RemoteProtocolError: Whatever else the bytes are.
    """
    if isinstance(frame, str):
        raise RemoteProtocolError("text frames are not part of this protocol", 1003)
    if len(frame) > MAX_FRAME_BYTES:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes; at most {MAX_FRAME_BYTES} are taken", 1009)
    fields = _unpack(frame)
    kind = fields.get("type")
    message_type = BY_TYPE.get(kind) if isinstance(kind, str) else None
    if message_type is None:
        name = kind[:40] if isinstance(kind, str) else type(kind).__name__
        raise RemoteProtocolError(f"unknown message type {name!r}")
    try:
        return message_type.model_validate(fields, strict=message_type is Chunk), _number(fields)
    except ValidationError as error:
        raise RemoteProtocolError(f"{kind}: {first_fault(error)}"[:200]) from None


def _number(fields: dict[str, Any]) -> int:
    number = fields.get(NUMBER, 0)
    if type(number) is not int or number < 0:
        raise RemoteProtocolError("the number of a message is no whole number from 0 on")
    return number


def _unpack(frame: bytes) -> dict[str, Any]:
    try:
        if count_values(frame, MAX_FRAME_VALUES) > MAX_FRAME_VALUES:
            raise RemoteProtocolError(f"a frame of more than {MAX_FRAME_VALUES} values", 1009)
        fields = msgpack.unpackb(frame, max_map_len=MAX_MAP_ENTRIES)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException, OverflowError) as error:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes is not msgpack") from error
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a frame is not a msgpack map")
    return fields
