"""Whoever has not joined costs bounded memory, and keeps nobody out, whatever bytes come."""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from fl_main.aggregator.guest import MAX_EARLY_FRAMES
from fl_main.codec import encode
from fl_main.gate import STRANGER_BYTES
from fl_main.messages import Join, Operate, Ping, Refuse
from tests.hostile.attacks import REQUEST, claim, claimed_bytes, connected, deep, frame, opened
from tests.hostile.scene import Scene
from tests.system.peers import Peer

SetScene = Callable[..., Scene]
MEGABYTES = STRANGER_BYTES >> 20
TOO_MANY = "too many connections have not said who they are"


def heard(link: socket.socket, words: str = "never said") -> str:
    """What the daemon says, up to some words or until it hangs up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):  # it did not read all that was said
        while words not in said.decode(errors="replace") and (part := link.recv(4096)):
            said += part
    return said.decode(errors="replace")


def test_thousands_of_silent_connections_keep_nobody_out(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=60):
        with connected(here.port) as oldest:
            here.attack("half_open", 2500)
            assert "503" in (said := heard(oldest))
            assert TOO_MANY in said
        here.newcomer("second")
    assert TOO_MANY in here.daemon.text
    assert here.connections() < 1100  # the strangers that it may have, two agents and what listens
    assert here.daemon.text.count("Traceback") == 0


def test_daemon_without_descriptors_goes_on_once_there_are_some(scene: SetScene) -> None:
    here = scene()
    with here.few_descriptors(10):
        attack = here.attack("half_open", 100)
        here.daemon.seen("no more connections at the moment: Too many open files")
        attack.kill()
    here.newcomer("second")
    here.rounds(3)
    assert "Traceback" not in here.daemon.text


def test_opened_websockets_that_say_nothing_are_told_to_go(scene: SetScene) -> None:
    here = scene(strangers=10)
    links = [Peer(here.daemon.url) for _ in range(11)]
    code, reason = links[0].closed()
    assert (code, TOO_MANY in reason) == (1013, True)
    links[10].join()
    here.rounds(3)
    for link in links:
        link.__exit__(None, None, None)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a request"])
def test_slow_handshake_is_ended_with_a_sentence(said: bytes, scene: SetScene) -> None:
    here = scene(join_s=0.5)
    with connected(here.port) as link:
        for byte in said:
            link.sendall(bytes([byte]))
        assert "no WebSocket was opened within 0.5 s" in heard(link, "0.5 s")
    here.rounds(3)


@pytest.fixture
def secure(scene: SetScene, tmp_path: Path) -> Callable[..., Scene]:
    """A scene with TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = {"certificate": str(tmp_path / "both.pem"), "key": str(tmp_path / "both.pem")}

    def set_up(**limits: Any) -> Scene:
        return scene(settings={"tls": tls}, options={"ca_file": tmp_path / "ca.pem"}, **limits)

    return set_up


def test_half_open_tls_keeps_nobody_out(secure: SetScene) -> None:
    here = secure(strangers=100)
    with here.unharmed(megabytes=160):  # of which TLS takes 256 KiB for each
        here.attack("half_open", 1000)
        here.newcomer("second")
    assert here.connections() < 150


def test_tls_handshake_that_does_not_end_is_ended(secure: SetScene) -> None:
    here = secure(join_s=0.5)
    with connected(here.port) as link:
        link.sendall(b"\x16\x03\x01")  # the first bytes of a ClientHello
        assert heard(link) == ""
    here.daemon.seen("refused peer=.*: no TLS: ")


def test_whoever_hangs_up_before_tls_is_logged_with_a_reason(secure: SetScene) -> None:
    here = secure()
    connected(here.port).close()
    here.daemon.seen(r"refused peer=.*: no TLS: \w+ \(1 from there")


def test_join_byte_by_byte_has_to_be_quick_enough(scene: SetScene) -> None:
    here = scene(join_s=0.5)
    join = frame(encode(Join(digest_algorithms=["blake3"], run="r", agent_id="a", instance_id="1", name="a")))
    with opened(here.port) as link:
        for byte in join[:-1]:
            link.sendall(bytes([byte]))
        assert "no word within 0.5 s" in heard(link, "0.5 s")
    with opened(here.port) as link:
        for byte in join:
            link.sendall(bytes([byte]))
        assert b"welcome" in link.recv(4096)


CLAIMS: dict[str, tuple[bytes, str]] = {
    "a frame of 2^62 bytes": (claim(2**62), "frame with 4611686018427387904 bytes exceeds limit"),
    "a frame of 2^63 bytes": (claim(2**63), "exceeds limit"),
    "4 GiB in a message": (frame(claimed_bytes(2**32 - 1)), "is not msgpack"),
    "4 billion fields": (frame(b"\xdf\xff\xff\xff\xff"), "is not msgpack"),
    "a million lists in each other": (frame(deep(1 << 20)), "a frame of more than 262144 values"),
    "many lists in each other": (frame(deep(100_000)), "is not msgpack"),
    "noise": (b"\xff" * 1000, ""),
    "too much before a join": (frame(encode(Ping())) * (MAX_EARLY_FRAMES + 1), ""),
}


def test_claims_and_nonsense_are_answered_with_a_sentence(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=40):
        for what, (body, words) in CLAIMS.items():
            with opened(here.port) as link:
                link.sendall(body)
                assert words in heard(link, words), what


def test_request_without_an_end_is_cut_off(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=10), connected(here.port) as link:
        link.sendall(REQUEST)
        with pytest.raises(ConnectionError):
            link.sendall(b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(100_000)))


@pytest.mark.parametrize("name", ["tiny_frames", "random_bytes", "nested"])
def test_flood_of_nonsense_costs_bounded_memory(name: str, scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=MEGABYTES + 40):
        here.attack(name)
    assert here.daemon.text.count("refused peer=") < 20  # the 1st, 10th, 100th, …


def test_frames_that_never_end_share_a_bounded_room(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=2 * MEGABYTES + 40):
        here.attack("partial_frames", 100, 4 << 20)
    with Peer(here.daemon.url) as peer:
        peer.join()


def test_wrong_origins_are_refused_without_filling_the_log(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=30):
        here.attack("wrong_origins")
    assert 1 <= here.daemon.text.count("https://evil.example") < 10


# --- tokens ----------------------------------------------------------------------------------


def answered(port: int, what: Join | Operate) -> float:
    """Return how many seconds the daemon took to refuse a token."""
    begun = time.monotonic()
    with Peer(f"ws://127.0.0.1:{port}") as peer:
        peer.say(what)
        assert peer.hear(Refuse).code == "bad_token"
    return time.monotonic() - begun


@pytest.fixture
def guarded(scene: SetScene, tmp_path: Path) -> Scene:
    """A daemon with a join token."""
    (tmp_path / "join.token").write_text("right\n")
    return scene(settings={"join_token": {"file": str(tmp_path / "join.token")}}, options={"token": "right"})


def test_wrong_tokens_are_answered_ever_more_slowly(guarded: Scene) -> None:
    wrong = Join(
        digest_algorithms=["blake3"], run="r", agent_id="a", instance_id="1", name="a", token="wrong"
    )
    assert answered(guarded.port, wrong) >= 0.5
    assert answered(guarded.port, Operate(token="wrong")) >= 1.0
    assert answered(guarded.port, wrong) >= 2.0
    with Peer(guarded.daemon.url) as peer:  # the right one need not wait
        begun = time.monotonic()
        peer.join(token="right")
        assert time.monotonic() - begun < 2.0


def test_many_guesses_are_logged_counted_and_kept_as_one_event(guarded: Scene) -> None:
    with guarded.unharmed(megabytes=60):
        guarded.attack("guesses")
        with Peer(guarded.daemon.url) as peer:
            peer.join(token="right")
    found = guarded.status()["guesses"]
    assert found["count"] >= 100
    assert found["addresses"] == 1
    assert found["last_at"] > 0
    assert 2 <= guarded.daemon.text.count("join token is not the aggregator's") <= 5
    assert guarded.events().count("tokens_guessed") == 1
