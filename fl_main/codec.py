"""Messages to frames and back: one msgpack map per WebSocket message."""

from typing import Any

import msgpack
from pydantic import ValidationError

from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import BY_TYPE, MAX_FRAME_BYTES, MAX_FRAME_VALUES, MAX_MAP_ENTRIES, Chunk, Message
from fl_main.msgpack_count import count_values

NUMBER = "n"  # beside the fields of the message


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


def encode_chunk(transfer: str, offset: int, data: memoryview | bytes | bytearray) -> bytes:
    """Return the frame of a Chunk without copying its data on the way into the frame."""
    frame: bytes = msgpack.packb({"type": "chunk", "transfer": transfer, "offset": offset, "data": data})
    return frame


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
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"{kind}: {place}: {first['msg']}"[:200]) from None


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
