"""A peer that says whatever a test wants, over a real connection."""

import contextlib
import os
import socket
import struct
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from fl_main.codec import decode, encode
from fl_main.digests import DigestAlgorithm, file_digest, tagged
from fl_main.messages import SUBPROTOCOL, Assign, Chunk, Join, Message, Offer, Payload, Send, Welcome
from fl_main.weights import Layout, Weights, pack
from tests.system.daemons import PATIENCE_S

M = TypeVar("M", bound=Message)


class Peer:
    """A WebSocket client without manners of its own.

    Attributes:
        welcome: What the aggregator said to the last join.
    """

    def __init__(self, url: str, subprotocol: str = SUBPROTOCOL) -> None:
        self._opened = ExitStack()
        self.connection: ClientConnection = self._opened.enter_context(
            connect(
                url, subprotocols=[Subprotocol(subprotocol)], compression=None, proxy=None, ping_interval=None
            )
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def say(self, message: Message) -> None:
        self.connection.send(encode(message))

    def say_raw(self, frame: bytes | str) -> None:
        self.connection.send(frame)

    def hear(self, kind: type[M]) -> M:
        """Return the next message of a kind; others are passed over."""
        while True:
            message = decode(self.connection.recv(PATIENCE_S))
            if isinstance(message, kind):
                return message

    def join(self, agent_id: str = "peer", run: str = "r", **fields: Any) -> "Peer":
        self.say(
            Join(
                digest_algorithms=["blake3"],
                run=run,
                agent_id=agent_id,
                name=agent_id,
                **{"instance_id": "1"} | fields,
            )
        )
        self.welcome = self.hear(Welcome)
        return self

    def assigned(self) -> Assign:
        return self.hear(Assign)

    def closed(self) -> tuple[int, str]:
        """Wait until the aggregator closes, and return the code and its sentence."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.connection.recv(PATIENCE_S)
        frame = self.connection.protocol.close_rcvd
        return (frame.code, frame.reason) if frame else (1006, "")


class Deaf:
    """A peer that joined a run and never reads again."""

    def __init__(self, port: int, agent_id: str = "deaf", **fields: Any) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode() + b"\r\n\r\n"
        )
        assert b"101" in self.socket.recv(4096)
        self.send(
            Join(
                digest_algorithms=["blake3"],
                run="r",
                agent_id=agent_id,
                instance_id="1",
                name=agent_id,
                **fields,
            )
        )

    def __enter__(self) -> "Deaf":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, message: Message, times: int = 1) -> None:
        self.socket.sendall(_masked(encode(message)) * times)


def _masked(frame: bytes) -> bytes:
    """A WebSocket frame as a client sends it."""
    size = len(frame)
    head = bytes([0x82, 0x80 | size]) if size < 126 else struct.pack(">BBH", 0x82, 0x80 | 126, size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(frame))


def offer_of(task_id: str, weights: Weights, num_examples: int = 1, **fields: Any) -> Offer:
    """An offer whose facts are as they should be."""
    layout = Layout.of(weights)
    digest = file_digest(layout, DigestAlgorithm.BLAKE3)
    digest.update(pack(weights, layout))
    payload = Payload(
        layout=layout.digest,
        digest=tagged(digest),
        size=layout.nbytes,
        rows=layout.to_wire(),
    )
    facts: dict[str, Any] = {"task_id": task_id, "payloads": [payload], "num_examples": num_examples}
    return Offer(**facts | fields)


def upload(peer: Peer, offer: Offer, weights: Weights) -> None:
    """Offer an update and send its bytes as they are asked for, in one chunk."""
    peer.say(offer)
    send = peer.hear(Send)
    data = bytes(pack(weights, Layout.of(weights)))
    peer.say(Chunk(transfer=f"{send.task_id}/weights", offset=send.offset, data=data[send.offset :]))


def small() -> dict[str, Any]:
    return {"w": np.arange(4, dtype=np.float32)}
