"""What goes over a hostile connection: HTTP requests, handshakes and WebSocket frames as bytes."""

import struct
from random import Random
from typing import Any

from fl_main.messages import SUBPROTOCOL

from . import hostile

PATHS = [
    b"/",
    b"/healthz",
    b"/readyz",
    b"/healthz?x=1",
    b"/../healthz",
    b"//",
    b"*",
    b"",
    b"/\x00",
    b"/%zz",
    b"http://x/",
]
PATHS += [b"/" + b"a" * 9000, "/ü".encode(), b"/healthz/", b"/metrics", b"/?" + b"&" * 500]
HEADERS: dict[bytes, bytes] = {
    b"Host": b"localhost",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Protocol": SUBPROTOCOL.encode(),
}
OTHER_HEADERS = [
    (b"Content-Length", b"5"),
    (b"Content-Length", b"99999999999999999999"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Expect", b"100-continue"),
    (b"Origin", b"https://example.org"),
    (b"Origin", b"null"),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate; server_max_window_bits=99"),
    (b"Sec-WebSocket-Extensions", b"," * 300),
    (b"Authorization", b"Basic !!!"),
    (b"X-" + b"a" * 200, b"b" * 9000),
    (b"Bad Header", b"x"),
    (b"", b""),
    (b"Cookie", b"\xff\x00\r"),
]
VALUES = [
    b"",
    b" ",
    b"0",
    b"-1",
    b"websocket, websocket",
    b"keep-alive",
    b"\xff",
    b"x" * 8200,
    b'a,b;q="',
    b"13, 8",
]
METHODS = [b"GET", b"GET", b"GET", b"GET", b"POST", b"HEAD", b"PRI", b"", b"get", b"CONNECT", b"G" * 9000]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"SIP/2.0"]


def handshake(rng: Random | None = None) -> bytes:
    """Return a right handshake; with a source of chance, one with a few headers made wrong."""
    headers = list(HEADERS.items())
    if rng is not None:
        for _ in range(rng.choice([1, 1, 2, 4])):
            _changed(rng, headers)
    return request(b"GET", b"/", b"HTTP/1.1", headers)


def _changed(rng: Random, headers: list[tuple[bytes, bytes]]) -> None:
    place = rng.randrange(len(headers)) if headers else 0
    what = rng.random()
    if what < 0.3 and headers:
        del headers[place]
    elif what < 0.6 and headers:
        headers[place] = (headers[place][0], rng.choice(VALUES))
    elif what < 0.7 and headers:
        headers.insert(place, headers[place])
    elif what < 0.72:
        headers.extend([(b"X-Many", b"x")] * rng.choice([100, 129, 1000]))
    else:
        headers.insert(place, rng.choice(OTHER_HEADERS))


def request(method: bytes, path: bytes, version: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return an HTTP request."""
    lines = [b"%b %b %b" % (method, path, version), *(b"%b: %b" % header for header in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def http(rng: Random) -> bytes:
    """Return a request to any path, right or wrong, whole or damaged; or bytes that are none."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(1, 100))
    headers = [(b"Host", b"localhost")]
    for _ in range(rng.choice([0, 0, 1, 2])):
        _changed(rng, headers)
    made = request(rng.choice(METHODS), rng.choice(PATHS[:4] * 3 + PATHS), rng.choice(VERSIONS), headers)
    if rng.random() < 0.1:
        made = made.replace(b"\r\n", b"\n")
    return hostile.damaged(rng, made) if rng.random() < 0.3 else made


# --- WebSocket ---------------------------------------------------------------------------


def frame(
    payload: bytes, opcode: int = 2, *, fin: bool = True, mask: bytes | None = bytes(4), size: int = -1
) -> bytes:
    """Return a WebSocket frame as a client sends it; the size may be another than the payload's."""
    size = len(payload) if size < 0 else size
    first, masked = (0x80 if fin else 0) | opcode, 0 if mask is None else 0x80
    if size < 126:
        head = struct.pack(">BB", first & 0xFF, masked | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first & 0xFF, masked | 126, size)
    else:
        head = struct.pack(">BBQ", first & 0xFF, masked | 127, size & (2**64 - 1))
    return head + (mask or b"") + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes | None) -> bytes:
    if not mask or not any(mask):
        return payload
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(len(payload))


def broken_frame(rng: Random) -> bytes:
    """Return a WebSocket frame with something wrong about it, or in it."""
    payload = (
        hostile.frame(rng) if rng.random() < 0.3 else rng.randbytes(rng.choice([0, 1, 2, 125, 126, 300]))
    )
    changes: dict[str, Any] = {"opcode": rng.choice([0, 1, 2, 2, 3, 8, 8, 9, 9, 10, 11, 15])}
    if rng.random() < 0.3:
        changes["opcode"] |= rng.choice([0x10, 0x20, 0x40, 0x70])  # reserved bits
    if rng.random() < 0.3:
        changes["fin"] = False
    if rng.random() < 0.2:
        changes["mask"] = rng.choice([None, rng.randbytes(4)])
    if rng.random() < 0.15:
        changes["size"] = rng.choice(
            [0, 125, 126, 65535, 65536, 4 << 20, (4 << 20) + 1, 2**31, 2**63, 2**64 - 1]
        )
    made = frame(payload, **changes)
    return hostile.damaged(rng, made) if rng.random() < 0.2 else made
