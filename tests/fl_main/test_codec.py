"""Messages to frames and back; whatever else arrives has one name."""

import contextlib
import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.codec import chunk_head, decode, encode, frame_of, read_chunk_head
from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import (
    BY_TYPE,
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    MAX_FRAME_VALUES,
    MAX_MAP_ENTRIES,
    MIN_PACKED_BYTES,
    Assign,
    Chunk,
    Fetch,
    Join,
    Message,
    Offer,
    Ping,
    Welcome,
)
from fl_main.ports import HEADROOM

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
hexes = st.text("0123456789abcdef", min_size=32, max_size=64)
digests = hexes.map("sha256:".__add__)
task_ids = st.text("0123456789abcdef", min_size=16, max_size=64)
agent_ids = st.text("abcXYZ019._-", min_size=1, max_size=64)
places = st.integers(0, 2**63 - 1)
integers = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | integers | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(texts, plain, max_size=4)
rows = st.none() | st.lists(
    st.tuples(names, st.sampled_from(["F32", "BOOL"]), st.lists(places, max_size=3), st.just("parameter")),
    max_size=3,
)
payloads = st.fixed_dictionaries(
    {"channel": names, "layout": digests, "digest": digests, "size": places, "rows": rows, "codec": texts}
)
attributes = st.dictionaries(names, texts | integers | finite | st.booleans(), max_size=3)
metrics = st.dictionaries(texts, st.floats(allow_nan=False), max_size=3)

# Values for each field by its name; the fields of all messages are covered, or a test fails.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "agent_id": agent_ids,
    "instance_id": agent_ids,
    "start_number": places,
    "attributes": attributes,
    "kinds": st.lists(names, max_size=4),
    "digest_algorithms": st.lists(names, max_size=4),
    "digest_algorithm": names,
    "codecs": st.lists(names, max_size=4),
    "held": st.lists(task_ids, max_size=4),
    "uncounted": st.lists(task_ids, max_size=4),
    "rows": rows,
    "payloads": st.lists(payloads, max_size=2),
    "final": st.none() | payloads,
    "statistics": st.none() | payloads,
    "metrics": metrics,
    "counted": st.dictionaries(task_ids, integers, max_size=3),
    "config": mappings,
    "correction": mappings,
    "settings": mappings,
    "content": mappings,
    "data": st.binary(max_size=100),
    "form": st.sampled_from(["full", "delta"]),
    **dict.fromkeys(["lasting", "late", "feeds_back", "fresh_state"], st.booleans()),
    **dict.fromkeys(["codec", "download"], texts),
    "num_examples": integers,
    "num_steps": st.none() | places,
    **dict.fromkeys(["round_id", "model_round"], integers),
    "seed": integers,
    "number": st.integers(1, 2**63 - 1),
    **dict.fromkeys(["task_id"], task_ids),
    **dict.fromkeys(["digest", "settings_digest"], digests),
    **dict.fromkeys(["offset", "size", "credit", "to", "rollbacks"], places),
    **dict.fromkeys(["started_at", "seconds", "retry_s", "ping_interval_s"], finite),
    **dict.fromkeys(["run", "run_id", "name", "session_id", "channel", "transfer", "kind", "actor"], names),
    **dict.fromkeys(["token", "software", "reason", "purpose", "stores_local_models", "error"], texts),
    "about": texts,
    "frozen": st.none()
    | st.fixed_dictionaries({"digest": digests, "layout": digests, "arrays": places, "size": places}),
    "arrays": st.lists(names, max_size=2),
    "follows": st.booleans(),
    "packings": st.lists(names, max_size=2),
    "packing": st.none() | names,
}
SPECIAL: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "fetch": {"layout": st.none() | digests},
    "chunk": {"packed": st.none(), "size": st.just(0), "width": st.just(1)},
    "join": {"poll_s": st.none() | st.floats(1e-3, 1e9)},
    "assign": {"deadline_s": st.none() | finite},
    "decline": {"code": st.sampled_from(["policy", "skipped", "error", "unsupported", "lost"])},
    "refuse": {"code": names},
    "verdict": {"verdict": st.sampled_from(["accepted", "rejected", "discarded"])},
    "ask": {
        "order": st.sampled_from(
            ["status", "create", "stop", "pause", "resume", "quarantine", "release", "rollback"]
        ),
        "rounds": st.none() | st.integers(1, 2**31 - 1),
    },
    "run_ended": {"status": names},
}


def messages_of(kind: str) -> st.SearchStrategy[Message]:
    message_type = BY_TYPE[kind]
    known = {**FIELDS, **SPECIAL.get(kind, {})}
    fields = {name: known[name] for name in message_type.model_fields if name != "type"}
    return st.fixed_dictionaries(fields).map(lambda values: message_type(**values))


@pytest.mark.parametrize("kind", sorted(BY_TYPE))
def test_every_message_survives_the_wire(kind: str) -> None:
    @given(messages_of(kind))
    def survives(message: Message) -> None:
        assert decode(encode(message)) == message

    survives()


def test_a_chunk_encoded_without_a_copy_is_the_same_frame() -> None:
    data = bytes(range(16))
    chunk = Chunk(transfer="t/weights", offset=8, data=data)
    frame = chunk_head("t/weights", 8, len(data)) + data
    assert frame == encode(chunk)
    assert decode(frame) == chunk


def test_a_packed_chunk_has_one_frame_however_it_is_made() -> None:
    chunk = Chunk(transfer="t/weights", offset=8, packed="zstd", size=5000, width=4, data=b"packed")
    frame = bytes(frame_of(chunk)[HEADROOM:])
    assert frame == encode(chunk)
    assert decode(frame) == chunk
    assert read_chunk_head(memoryview(frame)) == (
        chunk.model_copy(update={"data": b""}),
        len(frame) - len(b"packed"),
        len(b"packed"),
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"packed": "lz5"}, "packed"),
        ({"size": MAX_CHUNK_BYTES + 1}, "size"),
        ({"size": MIN_PACKED_BYTES - 1}, "6 packed bytes cannot be 4095 plain ones"),
        ({"data": bytes(5001)}, "5001 packed bytes cannot be 5000 plain ones"),
        ({"width": 0}, "width"),
        ({"width": 9}, "width"),
        ({"width": "4"}, "width"),
    ],
)
def test_a_chunk_that_promises_what_packing_cannot_be_is_refused(changes: dict[str, Any], what: str) -> None:
    fields = {"type": "chunk", "transfer": "t", "offset": 0, "packed": "zstd", "size": 5000, "width": 4}
    frame = msgpack.packb(fields | {"data": b"packed"} | changes)
    assert read_chunk_head(memoryview(frame)) is None
    with pytest.raises(RemoteProtocolError, match=what):
        decode(frame)


@pytest.mark.parametrize("key", ["packed", "size", "width"])
def test_a_chunk_that_says_half_of_how_it_is_packed_is_not_read_in_place(key: str) -> None:
    fields = {"type": "chunk", "transfer": "t", "offset": 0, "packed": "zstd", "size": 5000, "width": 4}
    renamed = {f"{name}s" if name == key else name: value for name, value in fields.items()}
    assert read_chunk_head(memoryview(msgpack.packb(renamed | {"data": b"packed"}))) is None


def test_metrics_may_be_nan_and_infinite() -> None:
    offer = Offer(task_id="0" * 16, num_examples=1, metrics={"a": math.nan, "b": -math.inf})
    found = decode(encode(offer))
    assert isinstance(found, Offer)
    assert math.isnan(found.metrics["a"])
    assert found.metrics["b"] == -math.inf


def test_unknown_fields_are_ignored() -> None:
    assert decode(msgpack.packb({"type": "ping", "mood": "good"})) == Ping()


# --- garbage -----------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_the_peers_fault(frame: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode(frame), Message)


anything = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | texts | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.binary(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data())
def test_wrong_types_in_any_field_are_the_peers_fault(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(BY_TYPE)))
    fields = {name: data.draw(anything | FIELDS.get(name, anything)) for name in BY_TYPE[kind].model_fields}
    try:
        found = decode(msgpack.packb({**fields, "type": kind}))
    except RemoteProtocolError:
        return
    assert decode(encode(found)).type == kind  # what is taken can be said again


@given(st.sampled_from(sorted(BY_TYPE)).flatmap(messages_of), st.data())
def test_a_damaged_frame_is_a_message_or_the_peers_fault(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    for damaged in (bytes(frame), bytes(frame[:place]), bytes(frame) + b"\x00"):
        try:
            decode(damaged)
        except RemoteProtocolError:
            continue


def fields_of(message: Message, **changes: object) -> bytes:
    frame: bytes = msgpack.packb({**message.model_dump(), **changes})
    return frame


JOIN = Join(run="r", agent_id="a", instance_id="i", name="n")
OFFER = Offer(task_id="0" * 16, num_examples=1)
CHUNK = Chunk(transfer="t", offset=0, data=b"x")
FETCH = Fetch(digest="sha256:" + "0" * 64)
ASSIGN = Assign(task_id="0" * 16, kind="train", round_id=1)
WELCOME = Welcome(
    session_id="s", run="r", run_id="1", settings_digest="sha256:" + "0" * 64, kinds=[], round_id=0
)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",  # a map of 2**32 - 1 entries, it says
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\xa2\xff\xff",  # text that is none
        b"\x91" * 100_000 + b"\x00",
        b"\x81\xa4type" + b"\x91" * 900 + b"\x00",  # deep enough for repr to give up
        b"\x82\xa4type\xa4ping\xa1n" + b"\x91" * 900 + b"\x00",
        msgpack.packb([1, 2]),
        msgpack.packb("ping"),
        msgpack.packb({1: 2}, use_bin_type=True),
        msgpack.packb({"kind": "ping"}),
        msgpack.packb({"type": "pong!"}),
        msgpack.packb({"type": ["ping"]}),
        msgpack.packb({"type": None}),
        fields_of(JOIN, run=""),
        fields_of(JOIN, agent_id="a/b"),
        fields_of(JOIN, agent_id="a" * 65),
        fields_of(JOIN, kinds=["train"] * 21),
        fields_of(JOIN, start_number=-1),
        fields_of(JOIN, attributes={"age": math.inf}),
        fields_of(JOIN, rows=[["w", "F32", [-1], "parameter"]]),
        fields_of(OFFER, task_id="not hexadecimal!"),
        fields_of(OFFER, num_examples=2**63),
        fields_of(OFFER, num_examples="9" * 30),
        fields_of(OFFER, num_examples=1.5),
        fields_of(OFFER, num_steps=-1),
        fields_of(OFFER, num_steps=2**63),
        fields_of(OFFER, seconds=math.nan),
        fields_of(OFFER, metrics={"loss": "low"}),
        fields_of(OFFER, metrics={str(i): 0.0 for i in range(1001)}),
        fields_of(FETCH, offset=2**63),
        fields_of(FETCH, offset="9" * 30),
        fields_of(CHUNK, data="text"),
        fields_of(CHUNK, offset=0.0),
        fields_of(CHUNK, data=bytes(MAX_CHUNK_BYTES + 1)),
    ],
    ids=lambda frame: repr(frame[:40]),
)
def test_what_is_no_message_is_the_peers_fault(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(frame)
    assert caught.value.code == 1002
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            fields_of(JOIN, attributes={"note": "n" * 2001}),
            "join: attributes.note.constrained-str: String should have at most 2000 characters",
        ),
        (
            fields_of(JOIN, attributes={"k" * 300: "on"}),
            f"join: attributes.{'k' * 60}….[key]: String should have at most 200 characters",
        ),
        (
            fields_of(OFFER, metrics={"m" * 300: 0.5}),
            f"offer: metrics.{'m' * 60}….[key]: String should have at most 200 characters",
        ),
    ],
    ids=["attribute", "name of an attribute", "name of a metric"],
)
def test_text_that_is_too_long_is_named_in_one_line(frame: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(frame)
    assert str(caught.value) == reason


def test_text_frames_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="text frames") as caught:
        decode('{"type": "ping"}')
    assert caught.value.code == 1003


def test_oversized_frames_are_refused_before_they_are_read() -> None:
    with pytest.raises(RemoteProtocolError, match="at most") as caught:
        decode(b"\xc1" * (MAX_FRAME_BYTES + 1))
    assert caught.value.code == 1009


def test_a_frame_full_of_wrong_rows_costs_one_error() -> None:
    frame = fields_of(JOIN, rows=[[]] * 200_000)
    with pytest.raises(RemoteProtocolError, match=r"join: rows\.0"):
        decode(frame)


MANY = MAX_FRAME_VALUES - 100  # as many as a frame may have beside the fields of a message


HEAVY: dict[str, dict[str, Any]] = {
    "empty lists": {"x": [[]] * MANY},
    "more empty maps than a frame may have": {"x": [{}] * (MAX_FRAME_BYTES - 1000)},
    "the smallest rows": {**JOIN.model_dump(), "rows": [["", "", [], ""]] * (MANY // 5)},
    "wrong tasks": {**JOIN.model_dump(), "held": [None] * MANY},
    "too many attributes": {**JOIN.model_dump(), "attributes": dict.fromkeys(map(str, range(MANY // 2)))},
    "wrong attributes": {**JOIN.model_dump(), "attributes": dict.fromkeys(map(str, range(MAX_MAP_ENTRIES)))},
    "wrong metrics": {**OFFER.model_dump(), "metrics": dict.fromkeys(map(str, range(MAX_MAP_ENTRIES)))},
    "wrong payloads": {**ASSIGN.model_dump(), "payloads": [{}] * MANY},
    "a large config": {**ASSIGN.model_dump(), "config": {"x": [[]] * MANY}},
    "wrong kinds": {**WELCOME.model_dump(), "kinds": [None] * MANY},
    "wrong counts": {**WELCOME.model_dump(), "counted": dict.fromkeys(map(str, range(MAX_MAP_ENTRIES)))},
}


@pytest.mark.parametrize("what", HEAVY)
def test_memory_for_a_frame_is_bounded_whatever_is_in_it(what: str) -> None:
    frame = msgpack.packb({"type": "ping", **HEAVY[what]})
    tracemalloc.start()
    with contextlib.suppress(RemoteProtocolError):
        decode(frame)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 << 20


def test_what_no_peer_would_take_is_our_own_fault() -> None:
    values = Assign(task_id="0" * 16, kind="train", round_id=1, config={"x": [0] * MAX_FRAME_VALUES})
    with pytest.raises(LocalProtocolError, match="values"):
        encode(values)
    huge = Assign(task_id="0" * 16, kind="train", round_id=1, config={"x": "x" * MAX_FRAME_BYTES})
    with pytest.raises(LocalProtocolError, match="at most"):
        encode(huge)
    for value in (2**64, "\ud800", object()):
        with pytest.raises(LocalProtocolError, match="msgpack"):
            encode(huge.model_copy(update={"config": {"x": value}}))
