"""Whoever breaks the protocol loses that session, with a code and a sentence; the round goes on."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from fl_main.agent import TrainResult
from fl_main.codec import encode
from fl_main.messages import (
    Assign,
    Chunk,
    Fetch,
    Join,
    Message,
    Offer,
    Ping,
    Reply,
    Send,
)
from fl_main.training import TrainingTask
from tests.system.conftest import StartAgent, StartDaemon
from tests.system.daemons import DaemonThread, run_of, until
from tests.system.peers import Deaf, Peer, offer_of, small

TASK = "0" * 24
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> DaemonThread:
    """One round for two; it can be done by one."""
    np.savez(tmp_path / "initial.npz", **small())
    return start_daemon(
        run_of(
            initial={"file": str(tmp_path / "initial.npz")},
            end={"rounds": 1},
            round={"min_updates": 1, "rejoin_s": 0.0},
        ),
        limits={"join_s": 0.5, "ping_interval_s": 0.2, "ping_timeout_s": 0.6, "model_bytes": 1000},
    )


def train(task: TrainingTask) -> TrainResult:
    return TrainResult({name: array + 1 for name, array in task.weights.items()}, 5)


def claim(**changes: Any) -> dict[str, Any]:
    """The fields of a correct offer, with some of its payload's changed."""
    fields = offer_of(TASK, small()).model_dump()
    fields["payloads"][0] |= changes
    return fields


def sent_into_the_transfer(**changes: Any) -> Callable[[Peer, Assign], None]:
    """Offer a right update, then send a chunk with something wrong about it."""

    def act(peer: Peer, assign: Assign) -> None:
        peer.say(offer_of(assign.task_id, small()))
        send = peer.hear(Send)
        fields: dict[str, Any] = {
            "transfer": f"{send.task_id}/weights",
            "offset": 0,
            "data": bytes(16),
        } | changes
        peer.say(Chunk(**fields))

    return act


BEFORE_JOIN: dict[str, tuple[Callable[[Peer], None], int, str]] = {
    "garbage": (lambda peer: peer.say_raw(b"\xc1garbage"), 1002, "not msgpack"),
    "half a message": (lambda peer: peer.say_raw(encode(Ping())[:-2]), 1002, "not msgpack"),
    "no map": (lambda peer: peer.say_raw(msgpack.packb([1, 2])), 1002, "not a msgpack map"),
    "unknown type": (
        lambda peer: peer.say_raw(msgpack.packb({"type": "x"})),
        1002,
        "unknown message type 'x'",
    ),
    "missing fields": (lambda peer: peer.say_raw(msgpack.packb({"type": "join"})), 1002, "join: run"),
    "text": (lambda peer: peer.say_raw("hello"), 1003, "text frames"),
    "oversized": (lambda peer: peer.say_raw(bytes(5 << 20)), 1009, ""),
    "work before join": (lambda peer: peer.say(offer_of(TASK, small())), 1008, "'offer' in a session"),
    "an aggregator's message": (lambda peer: peer.say(Reply(number=1)), 1008, "'reply' in a session"),
    "nothing at all": (lambda peer: None, 1008, "no word within 0.5 s"),
}

AFTER_JOIN: dict[str, tuple[Callable[[Peer, Assign], None], int, str]] = {
    "garbage": (lambda peer, assign: peer.say_raw(b"\xc1"), 1002, "not msgpack"),
    "text": (lambda peer, assign: peer.say_raw("x"), 1003, "text frames"),
    "oversized": (lambda peer, assign: peer.say_raw(bytes(5 << 20)), 1009, ""),
    "join twice": (
        lambda peer, assign: peer.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id="b", instance_id="1", name="b")
        ),
        1008,
        "'join' in a session that is joined",
    ),
    "an aggregator's message": (lambda peer, assign: peer.say(assign), 1008, "'assign' in a session"),
    "a chunk that nobody asked for": (
        lambda peer, assign: peer.say(Chunk(transfer=f"{TASK}/weights", offset=0, data=bytes(8))),
        1002,
        "which nobody asked for",
    ),
    "a model that is not offered": (
        lambda peer, assign: peer.say(Fetch(digest=DIGEST)),
        1008,
        "is not offered to this agent",
    ),
    "a chunk at the wrong place": (
        sent_into_the_transfer(offset=8, data=bytes(8)),
        1002,
        "byte 8 came where",
    ),
    "more than there is": (sent_into_the_transfer(data=bytes(24)), 1002, "24 of 16 bytes"),
    "an empty chunk": (sent_into_the_transfer(data=b""), 1002, "0 of 16 bytes"),
    "a chunk that cuts a number": (sent_into_the_transfer(data=bytes(7)), 1002, "no multiple of 8"),
    "another transfer": (sent_into_the_transfer(transfer=f"{TASK}/weights"), 1002, "which nobody asked for"),
    "a layout that lies about its size": (
        lambda peer, assign: peer.say(Offer(**claim(size=64))),
        1002,
        "do not fit together",
    ),
    "a layout that is not its digest's": (
        lambda peer, assign: peer.say(Offer(**claim(layout=DIGEST))),
        1002,
        "do not fit together",
    ),
    "a layout of impossible shapes": (
        lambda peer, assign: peer.say(
            Offer(**claim(rows=[("w", "F32", [2**40, 2**40], "parameter")], size=2**62))
        ),
        1002,
        "offer: ",
    ),
    "a layout of an unknown type": (
        lambda peer, assign: peer.say(Offer(**claim(rows=[("w", "X9", [4], "parameter")]))),
        1002,
        "offer: ",
    ),
    "a layout that is not told": (
        lambda peer, assign: peer.say(Offer(**claim(rows=None, layout=DIGEST))),
        1002,
        "neither described nor the run's own",
    ),
    "more than a model may have": (
        lambda peer, assign: peer.say(offer_of(TASK, {"w": np.zeros(300, np.float32)})),
        1009,
        "1200 bytes; this aggregator takes 1000",
    ),
    "nothing for too long": (lambda peer, assign: None, 1001, "no byte for 0.6 s"),
}


@pytest.mark.parametrize("what", BEFORE_JOIN)
def test_bad_start_ends_that_session_only(what: str, daemon: DaemonThread, start_agent: StartAgent) -> None:
    act, code, words = BEFORE_JOIN[what]
    first = start_agent(daemon.url, 1, train, initial_weights=None)
    until(lambda: daemon.host().seats)
    with Peer(daemon.url) as peer:
        with contextlib.suppress(ConnectionClosed):  # the answer may come before all is said
            act(peer)
        found, reason = peer.closed()
    assert found == code
    assert words in reason
    second = start_agent(daemon.url, 2, train, initial_weights=None)
    assert first.join().status == second.join().status == "finished"


@pytest.mark.parametrize("what", AFTER_JOIN)
def test_bad_frame_in_a_round_ends_that_session_only(
    what: str, daemon: DaemonThread, start_agent: StartAgent
) -> None:
    act, code, words = AFTER_JOIN[what]
    with Peer(daemon.url).join() as peer:
        honest = start_agent(daemon.url, 1, train, initial_weights=None)
        task = peer.assigned()
        with contextlib.suppress(ConnectionClosed):  # the answer may come before all is said
            act(peer, task)
        found, reason = peer.closed()
        assert found == code
        assert words in reason
    assert honest.join().status == "finished"
    done = daemon.db().run("r").rounds()[-1]
    assert (done.status, done.invited, done.accepted) == ("done", 2, 1)


def test_connection_that_is_cut_within_a_frame_ends_that_session_only(
    daemon: DaemonThread, start_agent: StartAgent
) -> None:
    with Peer(daemon.url).join() as peer:
        honest = start_agent(daemon.url, 1, train, initial_weights=None)
        peer.assigned()
        peer.connection.socket.sendall(struct.pack(">BBH", 0x82, 0x80 | 126, 1000) + bytes(100))
        peer.connection.socket.shutdown(socket.SHUT_RDWR)
        assert honest.join().status == "finished"


def test_daemon_stops_in_time_though_a_peer_never_reads(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(run_of())
    with Deaf(daemon.port) as deaf:
        deaf.send(Ping(), 900)
        daemon.stop()


@pytest.fixture
def deaf(start_daemon: StartDaemon, tmp_path: Path) -> Iterator[tuple[DaemonThread, Deaf]]:
    """A peer that asked for more than the network holds, and does not read it."""
    np.savez(tmp_path / "initial.npz", w=np.zeros(2 << 20))
    daemon = start_daemon(
        run_of(initial={"file": str(tmp_path / "initial.npz")}),
        limits={"ping_interval_s": 0.2, "ping_timeout_s": 0.6},
    )
    with Deaf(daemon.port) as peer:
        until(lambda: daemon.host().seats)
        peer.send(Fetch(digest=next(iter(daemon.host().machine.models.values())).payload.digest))
        yield daemon, peer


def test_peer_that_reads_nothing_is_taken_for_gone(deaf: tuple[DaemonThread, Deaf]) -> None:
    until(lambda: not deaf[0].host().seats)


def test_daemon_stops_in_time_though_a_peer_reads_nothing(deaf: tuple[DaemonThread, Deaf]) -> None:
    deaf[0].stop()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (offer_of(TASK, small()), "requests at once"),
        (Fetch(digest=DIGEST), ""),
    ],
    ids=["offers", "fetches"],
)
def test_flood_of_requests_ends_that_session_only(
    what: Message, words: str, daemon: DaemonThread, start_agent: StartAgent
) -> None:
    with Peer(daemon.url).join() as peer:
        honest = start_agent(daemon.url, 1, train, initial_weights=None)
        peer.assigned()
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5000):
                peer.say(what)
        code, reason = peer.closed()
        assert code == 1008
        assert words in reason
        assert honest.join().status == "finished"


def test_a_long_request_that_is_no_http_ends_without_a_traceback(
    daemon: DaemonThread, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = daemon.url.removeprefix("ws://").partition(":")
    for _ in range(5):
        peer = socket.create_connection((host, int(port)), timeout=5.0)
        with peer, contextlib.suppress(OSError):  # by then it may be cut off
            peer.sendall(b"no http\r\n" + b"x" * 100_000)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 16):
                pass
    with Peer(daemon.url):  # the next one is served
        pass
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]
