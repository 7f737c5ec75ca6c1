"""Messages to frames and back: one msgpack map per WebSocket message."""

from typing import Any

import msgpack
from pydantic import ValidationError

from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import BY_TYPE, MAX_FRAME_BYTES, Chunk, Message


def encode(message: Message) -> bytes:
    """Return the frame of a message.

    Raises:
        LocalProtocolError: If no peer would take it: too large, or not to be written in msgpack.
    """
    try:
        frame: bytes = msgpack.packb(message.model_dump())
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"{message.type!r} cannot be written as msgpack: {error}") from error
    if len(frame) > MAX_FRAME_BYTES:
        raise LocalProtocolError(
            f"{message.type!r} has {len(frame)} bytes; at most {MAX_FRAME_BYTES} can be sent"
        )
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
        return message_type.model_validate(fields, strict=message_type is Chunk)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"{kind}: {place}: {first['msg']}"[:200]) from None


def _unpack(frame: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(frame)  # lengths are bounded by the frame's own
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException, OverflowError) as error:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes is not msgpack") from error
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a frame is not a msgpack map")
    return fields
