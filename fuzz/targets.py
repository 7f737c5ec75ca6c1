"""The targets in one process: bytes in; an answer, or an exception that nobody may raise.

Each target has `make`, which returns an input; `change`, which returns one that is like another;
and `check`, which judges an input and returns in a word what became of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgpack

from fl_main.codec import decode, encode
from fl_main.compression import Check as EncodedCheck
from fl_main.compression import chance_of, update_codec_of
from fl_main.errors import LocalProtocolError, RemoteProtocolError, WeightsError
from fl_main.lossless import packed, unpacked
from fl_main.messages import BY_TYPE, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MIN_PACKED_BYTES, Chunk
from fl_main.session import Incoming, Session, Side, State
from fl_main.settings import CompressionSettings
from fl_main.sources import Packed
from fl_main.weights import ArraySpec, DType, FiniteCheck, Layout, Role

from . import hostile


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to be fuzzed.

    Attributes:
        largest: Bytes of an input.
    """

    make: Callable[[Random], bytes]
    change: Callable[[Random, bytes], bytes]
    check: Callable[[bytes], str]
    largest: int = 1 << 16


# --- codec -------------------------------------------------------------------------------


def check_codec(frame: bytes) -> str:
    """A frame is a message, which can be said again, or the peer's fault."""
    try:
        message = decode(frame)
    except RemoteProtocolError as refused:
        if refused.code not in (1002, 1003, 1009) or len(str(refused)) > 200:
            raise AssertionError(f"refused with {refused.code}: {refused}") from refused
        return f"refused {refused.code}"
    try:
        again = encode(message)
    except LocalProtocolError:  # a timestamp, or text that only msgpack's own reader takes
        return "message that we would not send"
    assert encode(decode(again)) == again
    return "message"


# --- session -----------------------------------------------------------------------------

# An input is a list of steps: who speaks, what, and whether the session of the speaker is asked.
Steps = list[tuple[int, bytes, int]]
TALK: list[tuple[int, str]] = [
    (0, "join"),
    (1, "welcome"),
    (1, "assign"),
    (0, "fetch"),
    (1, "sending"),
    (1, "chunk"),
]
TALK += [
    (0, "offer"),
    (1, "send"),
    (0, "chunk"),
    (1, "credit"),
    (1, "verdict"),
    (1, "counted"),
    (1, "run_ended"),
]
TALK += [(0, "leave")]
OPERATOR: list[tuple[int, str]] = [
    (0, "operate"),
    (0, "ask"),
    (1, "reply"),
    (0, "ping"),
    (1, "pong"),
    (1, "refuse"),
]


def make_talk(rng: Random) -> bytes:
    """Return a conversation that goes as it should up to somewhere."""
    talk = rng.choice([TALK, OPERATOR])
    steps = [
        (side, hostile.packed(hostile.right(kind)), 1) for side, kind in talk[: rng.randrange(len(talk)) + 1]
    ]
    for _ in range(rng.choice([0, 1, 2, 5])):
        place = rng.randrange(len(steps) + 1)
        steps.insert(place, (rng.randrange(2), hostile.frame(rng), rng.randrange(2)))
    return hostile.packed(steps)


def change_talk(rng: Random, data: bytes) -> bytes:
    """Return a conversation with a step left out, said twice, or made wrong."""
    steps = steps_of(data)
    if not steps:
        return make_talk(rng)
    place = rng.randrange(len(steps))
    side, frame, asked = steps[place]
    changed: Steps = rng.choice(
        [[], [steps[place]] * 2, [(side, hostile.damaged(rng, frame), asked)], [(1 - side, frame, 1 - asked)]]
    )
    return hostile.packed([*steps[:place], *changed, *steps[place + 1 :]])


def steps_of(data: bytes) -> Steps:
    """Return the steps in an input; none if it is no conversation."""
    try:
        found = msgpack.unpackb(data)
        return [(int(side) % 2, bytes(frame), int(asked) % 2) for side, frame, asked in found]
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return []


def check_session(data: bytes) -> str:
    """Both ends only ever raise protocol errors, and agree about their state while they talk rightly."""
    ends = [Session(Side.CLIENT), Session(Side.AGGREGATOR)]
    incoming = Incoming(f"{hostile.TASK}/weights", 1 << 20, 0, 1 << 19)
    is_honest = True
    for side, frame, asked in steps_of(data):
        before = [end.state for end in ends]
        if asked and not (frame := _said(ends[side], frame)):
            assert [end.state for end in ends] == before
            continue
        is_honest &= bool(asked)
        try:
            message = ends[1 - side].receive(frame)
        except RemoteProtocolError:
            assert ends[1 - side].state is State.CLOSED
            assert not is_honest
            return f"refused when {before[1 - side]}"
        assert not is_honest or ends[0].state is ends[1].state
        if isinstance(message, Chunk):
            _taken(incoming, message)
    return f"ended {ends[1].state}"


def _said(end: Session, frame: bytes) -> bytes:
    """Let an end say what is in a frame; return its own frame, or none if it will not say that."""
    try:
        return end.send(decode(frame))
    except (LocalProtocolError, RemoteProtocolError):
        return b""


def _taken(incoming: Incoming, chunk: Chunk) -> None:
    before = incoming.place
    try:
        incoming.take(chunk)
    except RemoteProtocolError:
        assert incoming.place == before
    assert before <= incoming.place <= min(incoming.credit, incoming.size)


# --- layouts -----------------------------------------------------------------------------


def make_layout(rng: Random) -> bytes:
    """Return rows as msgpack, or a header as JSON."""
    return hostile.packed(hostile.rows(rng)) if rng.random() < 0.5 else hostile.header(rng)


def check_layout(data: bytes) -> str:
    """Rows and headers are a layout, which can be written again, or a WeightsError."""
    rows = _rows_of(data)
    try:
        layout = Layout.from_header(data) if rows is None else Layout.from_wire(rows)
    except WeightsError:
        return "refused header" if rows is None else "refused rows"
    _check_whole(layout)
    return "header" if rows is None else "rows"


def _rows_of(data: bytes) -> list[Any] | None:
    """Return rows as a message brings them: validated; or None if the bytes are none."""
    try:
        fields = hostile.right("join", rows=msgpack.unpackb(data))
        return BY_TYPE["join"].model_validate(fields).rows  # type: ignore[attr-defined, no-any-return]
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return None


def _check_whole(layout: Layout) -> None:
    ends = [layout.offsets[spec.name] + spec.nbytes for spec in layout.arrays]
    assert layout.nbytes == max(ends, default=0)
    assert sum(segment.nbytes for segment in layout.segments) == layout.nbytes
    assert Layout.from_header(layout.header[8:]).nbytes == layout.nbytes
    if layout.nbytes <= 1 << 16:
        FiniteCheck(layout).first_bad(0, bytes(layout.nbytes))


# --- packed chunks -----------------------------------------------------------------------


def make_packed(rng: Random) -> bytes:
    """Return a packed chunk: right, with another size or width, or with damaged data."""
    data = (rng.randbytes(40) * (MIN_PACKED_BYTES // 8))[: rng.choice([MIN_PACKED_BYTES, 8192, 20_001])]
    made = packed("t", 0, memoryview(data), rng.randint(1, 8))
    assert made is not None
    fields = made.model_dump()
    changes: list[dict[str, Any]] = [
        {},
        {"size": rng.choice([8192, *hostile.NUMBERS])},
        {"width": rng.randint(0, 9)},
    ]
    changes += [{"data": hostile.damaged(rng, fields["data"])}] * 3
    return hostile.packed(fields | rng.choice(changes))


def check_packed(data: bytes) -> str:
    """A packed chunk is as many plain bytes as it says, or the peer's fault."""
    try:
        chunk = decode(data)
    except RemoteProtocolError:
        return "refused frame"
    if not isinstance(chunk, Chunk):
        return "another message"
    try:
        plain = unpacked(chunk)
    except RemoteProtocolError:
        return "refused data"
    assert len(plain) == chunk.plain_size
    return "unpacked" if chunk.packed else "plain"


# --- encoded updates ---------------------------------------------------------------------

MODEL = Layout(
    [
        ArraySpec("w", DType.F32, (7, 5)),
        ArraySpec("v", DType.F64, (3,)),
        ArraySpec("half", DType.F16, (9,)),
        ArraySpec("n", DType.I64, (), Role.BUFFER),
    ]
)
ENCODERS = [
    update_codec_of(CompressionSettings.model_validate(options))
    for options in (
        {"codec": "float16"},
        {"codec": "bfloat16"},
        {"codec": "int8", "block": 16},
        {"codec": "qsgd", "levels": 7, "block": 16},
        {"codec": "top-k", "fraction": 0.3},
        {"codec": "random-k", "fraction": 0.3},
    )
]


def make_encoded(rng: Random) -> bytes:
    """Return which codec, and an update that it encoded: as it was, or damaged."""
    number = rng.randrange(len(ENCODERS))
    codec = ENCODERS[number]
    assert codec is not None
    values = bytes(rng.choice([0, 60]) for _ in range(MODEL.nbytes))  # 60: small floats of any width
    data = b"".join(codec.encode(codec.signal(Packed(MODEL, values)), chance_of(rng.randrange(9))))
    return bytes([number]) + rng.choice([data, hostile.damaged(rng, data)])


def check_encoded(data: bytes) -> str:
    """Whatever it is, it is read within bounds; what the check lets pass is finite."""
    codec = ENCODERS[data[0] % len(ENCODERS)] if data else None
    if codec is None:
        return "nothing"
    layout = codec.layout(MODEL)
    arrived = data[1:][: layout.nbytes].ljust(layout.nbytes, b"\0")
    check, step = EncodedCheck(codec, MODEL), 8 * (1 + data[0] % 5)
    places = range(0, len(arrived), step)
    is_right = not any(check.first_wrong(place, arrived[place : place + step]) for place in places)
    decoded, plain = codec.decoded(Packed(layout, arrived), MODEL), bytearray(MODEL.nbytes)
    for place in range(0, len(plain), 13):  # reads begin and end anywhere
        decoded.read_into(place, memoryview(plain)[place : place + 13])
    whole = bytearray(MODEL.nbytes)
    decoded.read_into(0, memoryview(whole))
    assert not is_right or (whole == plain and FiniteCheck(MODEL).first_bad(0, whole) is None)
    return f"{codec.name} {'taken' if is_right else 'refused'}"


TARGETS: dict[str, Target] = {
    "packed": Target(make_packed, hostile.damaged, check_packed, 2 * MAX_CHUNK_BYTES),
    "codec": Target(hostile.frame, hostile.damaged, check_codec, MAX_FRAME_BYTES + 1),
    "session": Target(make_talk, change_talk, check_session),
    "layout": Target(make_layout, hostile.damaged, check_layout),
    "encoded": Target(make_encoded, hostile.damaged, check_encoded),
}
