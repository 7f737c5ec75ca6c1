"""Whoever has joined can hurt itself only: its flood is slowed, its memory bounded, the rest go on."""

import contextlib
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed

from fl_main.aggregator.sessions import MAX_STRANGE_OFFERS
from fl_main.db import ModelDB
from fl_main.messages import Join, Refuse, Verdict
from tests.hostile.attacks import claim, claimed_bytes, deep, frame, joined
from tests.hostile.scene import Scene
from tests.hostile.test_strangers import heard
from tests.system.peers import Peer, offer_of, small

SetScene = Callable[..., Scene]


CLAIMS: dict[str, tuple[bytes, str]] = {
    "a frame of 2^62 bytes": (claim(2**62), "exceeds limit"),
    "4 GiB in a message": (frame(claimed_bytes(2**32 - 1)), "is not msgpack"),
    "a million lists in each other": (frame(deep(1 << 20)), "a frame of more than 262144 values"),
}


@pytest.mark.parametrize("name", ["pings", "unread_pings", "byte_by_byte"])
def test_flood_of_an_agent_is_slowed_and_nothing_of_it_is_dropped(name: str, scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=30):
        attack = here.attack(name)
    assert attack.is_running
    assert here.status()["agents"] == 2


def test_claims_of_an_agent_end_its_session_with_a_sentence(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=40):
        for what, (body, words) in CLAIMS.items():
            with joined(here.port, "a") as link:
                link.sendall(body)
                assert words in heard(link, words), what


def test_message_of_endless_empty_fragments_is_cut_off(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=30), joined(here.port, "a") as link:
        link.sendall(frame(b"", 0x02))
        with pytest.raises(ConnectionError):
            link.sendall(frame(b"", 0x00) * 5_000_000)


def test_messages_that_never_end_share_a_bounded_room(scene: SetScene) -> None:
    here = scene(receive_bytes=8 << 20)
    with here.unharmed(megabytes=160):
        here.attack("partial_messages", 60, 4 << 20)


def test_offers_of_tasks_that_were_never_given_end_the_session(scene: SetScene) -> None:
    here = scene()
    with here.unharmed(megabytes=30), Peer(here.daemon.url).join() as peer:
        with contextlib.suppress(ConnectionClosed):
            for number in range(10 * MAX_STRANGE_OFFERS):
                peer.say(offer_of(f"{number:024x}", small()))
                assert peer.hear(Verdict).verdict == "rejected"
        code, reason = peer.closed()
        assert (code, "offers of tasks that it was never given" in reason) == (1008, True)
    rejected = list(ModelDB(here.daemon.models).run("r").updates())
    assert len(rejected) <= MAX_STRANGE_OFFERS + 1


def test_offer_of_terabytes_takes_no_memory(scene: SetScene) -> None:
    here = scene()
    fields = offer_of("0" * 24, small()).model_dump()
    fields["payloads"][0]["size"] = 1 << 42
    with here.unharmed(megabytes=10), Peer(here.daemon.url).join() as peer:
        peer.say(type(offer_of("0" * 24, small()))(**fields))
        assert peer.closed() == (1002, "offer: layout, digest and size do not fit together")


def test_agents_that_join_and_vanish_are_told_when_to_come_again(scene: SetScene) -> None:
    here = scene(joins_per_s=20.0)
    with here.unharmed(megabytes=60):
        here.attack("joins")
        refuse = refused(here, "late")
    assert (refuse.code, refuse.lasting) == ("busy", False)
    assert 0 < refuse.retry_s <= 60


def test_readers_that_never_read_hold_a_bounded_amount(scene: SetScene) -> None:
    here = scene(values=4 << 20, joins_per_s=1000.0)
    (model,) = ModelDB(here.daemon.models).run("r").models("initial")
    with here.unharmed(megabytes=120):
        here.attack("stalled_readers", 200, model.digest)
    assert here.status()["agents"] == 201


def test_agent_that_is_one_too_many_is_told_when_to_come_again(scene: SetScene) -> None:
    refuse = refused(scene(agents=1), "second")
    assert (refuse.code, refuse.lasting, refuse.retry_s) == ("full", False, 10.0)
    assert refuse.reason == "1 agents are connected, the limit (limits.agents)"


def refused(here: Scene, agent_id: str) -> Refuse:
    with Peer(here.daemon.url) as peer:
        peer.say(
            Join(digest_algorithms=["blake3"], run="r", agent_id=agent_id, instance_id="1", name=agent_id)
        )
        return peer.hear(Refuse)
