"""Attacks that go on until they are killed: `python -m tests.hostile.attacks NAME PORT …`.

Each says `under way` once it is, and runs in a process of its own: what it costs is not the honest
agent's loss.
"""

import contextlib
import itertools
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

import msgpack

from fl_main.codec import encode
from fl_main.messages import SUBPROTOCOL, Fetch, Join, Message, Ping, Pong

PATIENCE_S = 20.0
BINARY, PING = 0x82, 0x89
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode() + b"\r\n"
)


def frame(payload: bytes, head: int = BINARY) -> bytes:
    """A WebSocket frame as a client sends it; masked with zeros, which change nothing."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB4x", head, 0x80 | size) + payload
    if size < 1 << 16:
        return struct.pack(">BBH4x", head, 0x80 | 126, size) + payload
    return struct.pack(">BBQ4x", head, 0x80 | 127, size) + payload


def claim(size: int) -> bytes:
    """The head of a frame of so many bytes, none of which follow."""
    return struct.pack(">BBQ4x", BINARY, 0x80 | 127, size)


def connected(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """A TCP connection on which nothing was said."""
    link = socket.socket()
    if receive_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.settimeout(PATIENCE_S)
    link.connect(("127.0.0.1", port))
    return link


def opened(port: int, *, origin: str = "", receive_buffer: int = 0) -> socket.socket:
    """A WebSocket on which nothing was said."""
    link = connected(port, receive_buffer=receive_buffer)
    link.sendall(REQUEST + (f"Origin: {origin}\r\n" if origin else "").encode() + b"\r\n")
    assert b"101" in link.recv(4096)
    return link


def joined(port: int, agent_id: str, *, receive_buffer: int = 0) -> socket.socket:
    """The link of an agent that joined the run `r`, as soon as it was welcomed."""
    link = opened(port, receive_buffer=receive_buffer)
    say(link, Join(digest_algorithms=["blake3"], run="r", agent_id=agent_id, instance_id="1", name=agent_id))
    assert b"welcome" in link.recv(4096)
    return link


def say(link: socket.socket, message: Message) -> None:
    link.sendall(frame(encode(message)))


def under_way() -> None:
    print("under way", flush=True)


# --- attacks ---------------------------------------------------------------------------------


def half_open(port: int, number: str) -> None:
    """Connect so many times, say nothing, and connect once more for each that is dropped."""
    held = [connected(port) for _ in range(int(number))]
    under_way()
    for place in itertools.cycle(range(len(held))):
        held[place].close()
        held[place] = connected(port)


def partial_frames(port: int, number: str, size: str) -> None:
    """Begin frames that never end, on connections that have not joined."""
    _hold(lambda count: opened(port), int(number), int(size))


def partial_messages(port: int, number: str, size: str) -> None:
    """Begin messages that never end, as agents."""
    _hold(lambda count: joined(port, f"p{count}"), int(number), int(size))


def _hold(connect: Callable[[int], socket.socket], number: int, size: int) -> None:
    held = []
    for count in itertools.count():
        with contextlib.suppress(OSError):
            link = connect(count)
            link.sendall(claim(size) + bytes(size - 1))
            held.append(link)
        if count == number:
            under_way()
        if len(held) > number:
            held.pop(0).close()


def tiny_frames(port: int) -> None:
    """Send as many frames of no content as fit, on connections that have not joined."""
    _flood(lambda: opened(port), frame(b"") * 40_000)


def random_bytes(port: int) -> None:
    """Send noise, before and after the handshake."""
    connects: list[Callable[[int], socket.socket]] = [connected, opened]
    links = itertools.cycle(connects)
    for count in itertools.count():
        with contextlib.suppress(OSError, AssertionError), next(links)(port) as link:
            link.sendall(os.urandom(1 << 14))
        if count == 10:
            under_way()


def wrong_origins(port: int) -> None:
    """Ask for a WebSocket from a page that may not, again and again."""
    for count in itertools.count():
        with contextlib.suppress(OSError), connected(port) as link:
            link.sendall(REQUEST + b"Origin: https://evil.example\r\n\r\n")
            assert b"403" in link.recv(4096)
        if count == 100:
            under_way()


def guesses(port: int) -> None:
    """Try tokens, many at once."""
    held: list[socket.socket] = []
    for count in itertools.count():
        with contextlib.suppress(OSError, AssertionError):
            link = opened(port)
            say(
                link,
                Join(
                    digest_algorithms=["blake3"],
                    run="r",
                    agent_id=f"g{count}",
                    instance_id="1",
                    name="g",
                    token=str(count),
                ),
            )
            held.append(link)
        if len(held) > 100:
            held.pop(0).close()
        if count == 100:
            under_way()


def pings(port: int) -> None:
    """Flood with valid messages as an agent, and read the answers."""
    link = joined(port, "pings")
    link.setblocking(False)
    under_way()
    _pour(link, frame(encode(Ping())) * 1000)


def unread_pings(port: int) -> None:
    """Flood with WebSocket pings as an agent, and never read the answers."""
    with joined(port, "unread", receive_buffer=4096) as link:
        under_way()
        link.settimeout(None)
        with contextlib.suppress(OSError):
            while True:
                link.sendall(frame(bytes(125), PING) * 1000)
    time.sleep(PATIENCE_S)


def joins(port: int) -> None:
    """Join and vanish again and again, each time as somebody else."""
    for count in itertools.count():
        with contextlib.suppress(OSError), opened(port) as link:
            say(
                link,
                Join(digest_algorithms=["blake3"], run="r", agent_id=f"j{count}", instance_id="1", name="j"),
            )
            link.recv(4096)
        if count == 300:
            under_way()


def byte_by_byte(port: int) -> None:
    """Send valid messages as an agent, one byte at a time."""
    link = joined(port, "slow")
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    under_way()
    while True:
        for byte in frame(encode(Pong())):
            link.sendall(bytes([byte]))


def stalled_readers(port: int, number: str, digest: str) -> None:
    """Ask for a model as many agents, and read nothing of it."""
    held = []
    for count in range(int(number)):
        link = joined(port, f"s{count}", receive_buffer=4096)
        say(link, Fetch(digest=digest))
        held.append(link)
    under_way()
    time.sleep(PATIENCE_S * 10)


def nested(port: int) -> None:
    """Send msgpack that is nested as deep as a frame holds, and counts that nothing backs."""
    bodies = (deep(1 << 20), deep(100_000), b"\x81\xa1a" * (1 << 18), claimed_bytes(2**32 - 1))
    _flood(lambda: opened(port), *map(frame, bodies))


def _flood(connect: Callable[[], socket.socket], *bodies: bytes) -> None:
    sent: Iterator[bytes] = itertools.cycle(bodies)
    for count in itertools.count():
        with contextlib.suppress(OSError, AssertionError), connect() as link:
            link.sendall(next(sent))
            link.recv(4096)
        if count == 10:
            under_way()


def _pour(link: socket.socket, data: bytes) -> None:
    """Write and read as fast as the other end takes it."""
    left = memoryview(data)
    while True:
        with contextlib.suppress(BlockingIOError):
            left = left[link.send(left) :] or memoryview(data)
        with contextlib.suppress(BlockingIOError):
            assert link.recv(1 << 16), "the daemon hung up"


def claimed_bytes(size: int) -> bytes:
    """A message that says it has so many bytes in it, and has none."""
    return b"\x81\xa4type\xc6" + struct.pack(">I", size)


def deep(levels: int) -> bytes:
    """A list in a list in a list, …"""
    return b"\x91" * levels + bytes(msgpack.packb(1))


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
