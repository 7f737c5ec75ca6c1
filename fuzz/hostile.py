"""What a hostile peer says: messages of every type, made wrong in ways that know their structure.

Everything is drawn from a `random.Random`: of a seed, of atheris, or of hypothesis.
"""

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import msgpack
import numpy as np

from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.messages import BY_TYPE, MAX_FRAME_BYTES, Payload
from fl_main.weights import Layout, pack

RUN = "r"
TASK = "0" * 32
DIGEST = "blake3:" + "0" * 64
WEIGHTS = {"w": np.arange(4, dtype=np.float32), "steps": np.array(3)}
LAYOUT = Layout.of(WEIGHTS)
DATA = bytes(pack(WEIGHTS, LAYOUT))
ROWS: list[Any] = LAYOUT.to_wire()
_digest = file_digest(LAYOUT, DigestAlgorithm.BLAKE3)
_digest.update(DATA)
PAYLOAD = Payload(layout=LAYOUT.digest, digest=tagged(_digest), size=LAYOUT.nbytes, rows=ROWS)

# A right value for every field, by its name, or by its message's type and its name.
FIELDS: dict[str, Any] = {
    **{"run": RUN, "run_id": "1", "session_id": "s", "name": "peer", "actor": "operator", "token": ""},
    **{
        "agent_id": "peer",
        "instance_id": "1",
        "software": "other 1.0",
        "purpose": "to learn",
        "reason": "so",
    },
    **{"attributes": {"age": 3, "place": "here"}, "kind": "train", "kinds": ["train"], "rows": ROWS},
    **{"task_id": TASK, "held": [TASK], "counted": {TASK: 1}, "transfer": f"{TASK}/weights"},
    **{"digest": PAYLOAD.digest, "settings_digest": DIGEST, "layout": LAYOUT.digest, "channel": "weights"},
    **{"digest_algorithm": "blake3", "digest_algorithms": ["blake3", "sha256"]},
    **{"payloads": [PAYLOAD.model_dump()], "final": PAYLOAD.model_dump(), "statistics": None},
    **{"size": len(DATA), "offset": 0, "credit": len(DATA), "data": DATA},
    **{"num_examples": 5, "num_steps": 3, "metrics": {"loss": 0.5}, "seconds": 0.1, "started_at": 1.7e9},
    **{"round_id": 1, "model_round": 0, "seed": 7, "config": {"lr": 0.1}, "deadline_s": 60.0},
    **{"ping_interval_s": 20.0, "retry_s": 1.0, "lasting": False, "late": False},
    **{"stores_local_models": "no", "status": "finished", "verdict": "accepted", "code": "skipped"},
    **{
        "number": 1,
        "order": "status",
        "about": "",
        "settings": {"name": "made1"},
        "content": {},
        "error": "",
    },
    **{"packed": None, "width": 4, "packings": ["zstd"], "packing": "zstd"},
    **{"frozen": None, "arrays": [], "follows": False},
    **{"n": 1},  # the number of a message in its session
    **{"sending.transfer": PAYLOAD.digest, "refuse.code": "full"},
}
SMALL = [
    "",
    "a",
    "\x00",
    "x" * 201,
    "x" * 2001,
    "../../etc/passwd",
    "9" * 5000,
    "9" * 30,
    "%s%n",
    "\udcff",
    "ü" * 70,
    TASK,
    RUN,
]
NUMBERS = [
    0,
    1,
    -1,
    7,
    8,
    255,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**31),
    -(2**63),
]
FLOATS = [0.0, -0.0, 0.5, 1e-308, 1e308, math.nan, math.inf, -math.inf]
OTHERS = [None, True, False, b"", b"\xff" * 9, [], {}, [[]], [None] * 30, msgpack.ExtType(5, b"x")]
OTHERS += [msgpack.Timestamp(2**33, 999_999_999), msgpack.ExtType(127, bytes(16)), {"": {}}]
# Heads that promise more than there is, types that no message has, text that is none.
BYTES = [
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
]
BYTES += [
    b"\xc1",
    b"\xc7\x00\x00",
    b"\xd8",
    b"\xa2\xff\xff",
    b"\x91" * 600,
    b"\x81\xa0" * 300,
    b"\xcb\x7f\xf8" + bytes(6),
]


def right(kind: str, **changes: Any) -> dict[str, Any]:
    """Return the fields of a right message of a type; those not in `FIELDS` have their defaults."""
    fields: dict[str, Any] = {"type": kind}
    for name, field in BY_TYPE[kind].model_fields.items():
        if name != "type":
            fields[name] = FIELDS.get(f"{kind}.{name}", FIELDS.get(name, field.get_default()))
    return fields | changes


def packed(value: Any) -> bytes:
    """Return a value as msgpack; text with half a surrogate becomes invalid UTF-8."""
    try:
        frame: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    except (ValueError, OverflowError, TypeError):
        return b"\xc1"
    return frame


def value(rng: Random) -> Any:
    """Return a value that is right nowhere, or only by chance."""
    pools: list[list[Any]] = [SMALL, NUMBERS, FLOATS, OTHERS, list(FIELDS.values())]
    return rng.choice(rng.choice(pools))


def nested(rng: Random, inner: Any) -> Any:
    """Return a value within lists or maps, up to deeper than anybody reads."""
    for _ in range(rng.choice([1, 2, 30, 300, 600])):
        inner = [inner] if rng.random() < 0.5 else {"x": inner}
    return inner


def many(rng: Random, entry: Any) -> Any:
    """Return a list or map of the same entry again and again."""
    room = MAX_FRAME_BYTES if rng.random() < 0.001 else 20_000
    count = min(rng.choice([2, 21, 101, 1001, 10_001, 100_000]), 1 + room // len(packed(entry)))
    return [entry] * count if rng.random() < 0.7 else dict.fromkeys(map(str, range(count)), entry)


def made_wrong(rng: Random, fields: Any, depth: int = 0) -> Any:
    """Return a value with one place in it changed; the value itself stays as it is."""
    if isinstance(fields, dict) and fields and rng.random() < (0.98 if depth == 0 else 0.7):
        key = rng.choice(list(fields))
        return _in_map(rng, fields, key, depth)
    if isinstance(fields, list | tuple) and fields and rng.random() < 0.7:
        place = rng.randrange(len(fields))
        return [*fields[:place], made_wrong(rng, fields[place], depth + 1), *fields[place + 1 :]]
    if isinstance(fields, int | float) and rng.random() < 0.5:
        return fields + rng.choice([1, -1, 8, -8, 0.5, 2**20])
    wrongs: list[Callable[[], Any]] = [
        lambda: value(rng),
        lambda: nested(rng, fields),
        lambda: many(rng, fields),
    ]
    return rng.choice(wrongs)()


def _in_map(rng: Random, fields: dict[Any, Any], key: Any, depth: int) -> dict[Any, Any]:
    what = rng.random()
    if what < 0.1:
        return {name: inner for name, inner in fields.items() if name != key}
    if what < 0.2:
        return fields | {rng.choice([*SMALL, *FIELDS, 5, b"x"]): value(rng)}
    return fields | {key: made_wrong(rng, fields[key], depth + 1)}


def fields_of(rng: Random, kinds: list[str] | None = None) -> dict[str, Any]:
    """Return the fields of a message: right, or wrong in one place or in a few."""
    fields = right(rng.choice(kinds or list(BY_TYPE)))
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        fields = made_wrong(rng, fields)
    return fields


def damaged(rng: Random, frame: bytes) -> bytes:
    """Return bytes with some of them changed, cut out, put in or said twice."""
    first, second = sorted(rng.randrange(len(frame) + 1) for _ in range(2))
    damages: list[Callable[[], bytes]] = [
        lambda: bytes([rng.randrange(256)]),
        lambda: b"",
        lambda: rng.choice(BYTES),
        lambda: frame[first:second] * 2,
        lambda: rng.randbytes(rng.randrange(20)),
        lambda: struct.pack(">Q", rng.choice(NUMBERS) & (2**64 - 1)),
    ]
    middle = rng.choice(damages)()
    last = second if rng.random() < 0.5 else min(first + len(middle), len(frame))
    return frame[:first] + middle + frame[last:]


def frame(rng: Random, kinds: list[str] | None = None) -> bytes:
    """Return a frame: of a message, right or wrong, damaged or not; or of nothing at all."""
    what = rng.random()
    if what < 0.03:
        return rng.randbytes(rng.randrange(60))
    if what < 0.0302:
        return heavy(rng)
    made = packed(fields_of(rng, kinds))
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2])):
        made = damaged(rng, made)
    return made[: MAX_FRAME_BYTES + 1]


def heavy(rng: Random) -> bytes:
    """Return a frame that is as large as one may be, and costs as much as it can."""
    start = packed(right(rng.choice(list(BY_TYPE))))
    start = (
        bytes([start[0] + 1]) + start[1:] + packed(rng.choice(["x", "rows", "held", "config", "payloads"]))
    )
    entry = rng.choice(
        [b"\x90", b"\x80", b"\xc0", b"\x91\x90", b"\x94\xa0\xa0\x90\xa0", b"\xcb" + bytes(8), *BYTES]
    )
    count = (MAX_FRAME_BYTES - len(start) - 5) // len(entry)
    return start + struct.pack(">BI", 0xDD, rng.choice([count, 2**32 - 1, 1000])) + entry * count


# --- layouts -----------------------------------------------------------------------------


def rows(rng: Random) -> Any:
    """Return rows of a layout, most of them hardly wrong."""
    count = rng.choice([0, 1, 2, 3, 10])
    made: Any = [[f"a{n}", *rng.choice(ROWS)[1:]] for n in range(count)]
    for _ in range(rng.choice([0, 1, 1, 2])):
        made = made_wrong(rng, made, 1)
    return made


def header(rng: Random) -> bytes:
    """Return the JSON part of a safetensors header, right or wrong."""
    text: bytes = LAYOUT.header[8:]
    if rng.random() < 0.7:
        entries = made_wrong(rng, json.loads(text))
        text = json.dumps(entries, default=str, skipkeys=True).encode("utf-8", "surrogatepass")
    return text if rng.random() < 0.5 else damaged(rng, text)
