"""The session seen from both ends, in memory."""

from typing import Any

import pytest

from fl_main.codec import encode
from fl_main.errors import LocalProtocolError, RemoteProtocolError
from fl_main.messages import (
    BY_TYPE,
    Ask,
    Assign,
    Cancel,
    Chunk,
    Counted,
    Credit,
    Decline,
    Fetch,
    Hold,
    Join,
    Leave,
    Message,
    Nothing,
    Offer,
    Operate,
    Ping,
    Poll,
    Pong,
    Refuse,
    Reply,
    RunEnded,
    Send,
    Sending,
    Verdict,
    Waiting,
    Welcome,
)
from fl_main.session import Incoming, Liveness, Session, Side, State

TASK = "0" * 16
DIGEST = "sha256:" + "0" * 64
JOIN: dict[str, Any] = {"run": "r", "agent_id": "a", "instance_id": "i", "name": "n"}
WELCOME: dict[str, Any] = {
    **{"session_id": "s", "run": "r", "run_id": "1", "settings_digest": DIGEST, "kinds": ["train"]},
    "round_id": 0,
}
MESSAGES: dict[str, Message] = {
    message.type: message
    for message in (
        Join(**JOIN),
        Fetch(digest=DIGEST),
        Offer(task_id=TASK, num_examples=1),
        Decline(task_id=TASK, code="skipped"),
        Poll(),
        Leave(),
        Welcome(**WELCOME),
        Refuse(code="unknown_run", reason="there is no such run"),
        Assign(task_id=TASK, kind="train", round_id=1),
        Send(task_id=TASK, channel="weights", offset=0, credit=8),
        Hold(task_id=TASK, reason="the disk is full"),
        Waiting(reason="one more agent"),
        Nothing(reason="one more agent"),
        Verdict(task_id=TASK, verdict="accepted"),
        Counted(task_id=TASK, round_id=1),
        Cancel(task_id=TASK, reason="late"),
        RunEnded(status="finished", round_id=3),
        Sending(transfer=DIGEST, offset=0, size=8),
        Chunk(transfer=DIGEST, offset=0, data=b"12345678"),
        Credit(transfer=DIGEST, credit=8),
        Ping(),
        Pong(),
        Operate(),
        Ask(number=1, order="status"),
        Reply(number=1),
    )
}
ALIVE = {"ping", "pong"}
MAY_SAY = {
    (State.NEW, Side.CLIENT): {"join", "operate"},
    (State.NEW, Side.AGGREGATOR): {"refuse"},
    (State.JOINING, Side.CLIENT): ALIVE,
    (State.JOINING, Side.AGGREGATOR): {"welcome", "refuse"} | ALIVE,
    (State.JOINED, Side.CLIENT): {"fetch", "offer", "decline", "poll", "leave", "chunk"} | ALIVE,
    (State.JOINED, Side.AGGREGATOR): {
        *("refuse", "assign", "sending", "chunk", "send", "hold", "credit", "verdict", "counted", "cancel"),
        *("waiting", "nothing", "run_ended", "ping", "pong"),
    },
    (State.OPERATING, Side.CLIENT): {"ask"} | ALIVE,
    (State.OPERATING, Side.AGGREGATOR): {"reply", "refuse"} | ALIVE,
    (State.CLOSED, Side.CLIENT): set(),
    (State.CLOSED, Side.AGGREGATOR): set(),
}
THEN = {
    "join": State.JOINING,
    "operate": State.OPERATING,
    "welcome": State.JOINED,
    "refuse": State.CLOSED,
    "leave": State.CLOSED,
}
TO_REACH: dict[State, list[tuple[Side, str]]] = {
    State.NEW: [],
    State.JOINING: [(Side.CLIENT, "join")],
    State.JOINED: [(Side.CLIENT, "join"), (Side.AGGREGATOR, "welcome")],
    State.OPERATING: [(Side.CLIENT, "operate")],
    State.CLOSED: [(Side.AGGREGATOR, "refuse")],
}


def both_ends(state: State) -> dict[Side, Session]:
    """Return two sessions that talked with each other until they were in that state."""
    ends = {side: Session(side) for side in Side}
    for side, kind in TO_REACH[state]:
        ends[ends[side].peer].receive(ends[side].send(MESSAGES[kind]))
    assert [end.state for end in ends.values()] == [state, state]
    return ends


def test_the_examples_cover_the_protocol() -> None:
    assert MESSAGES.keys() == BY_TYPE.keys()


@pytest.mark.parametrize(("state", "side"), MAY_SAY)
def test_what_may_be_said_reaches_the_other_end(state: State, side: Side) -> None:
    for kind in MAY_SAY[state, side]:
        ends = both_ends(state)
        peer = ends[ends[side].peer]
        assert peer.receive(ends[side].send(MESSAGES[kind])) == MESSAGES[kind]
        assert [end.state for end in ends.values()] == [THEN.get(kind, state)] * 2


@pytest.mark.parametrize(("state", "side"), MAY_SAY)
def test_what_may_not_be_said_is_our_fault_and_changes_nothing(state: State, side: Side) -> None:
    for kind in MESSAGES.keys() - MAY_SAY[state, side]:
        end = both_ends(state)[side]
        with pytest.raises(LocalProtocolError, match=f"'{kind}' cannot be sent"):
            end.send(MESSAGES[kind])
        assert end.state is state


@pytest.mark.parametrize(("state", "side"), MAY_SAY)
def test_what_the_peer_may_not_say_closes_the_session(state: State, side: Side) -> None:
    for kind in MESSAGES.keys() - MAY_SAY[state, side]:
        end = both_ends(state)[both_ends(state)[side].peer]
        with pytest.raises(RemoteProtocolError) as caught:
            end.receive(encode(MESSAGES[kind]))
        assert caught.value.code == 1008
        assert end.state is State.CLOSED


def test_garbage_closes_the_session() -> None:
    end = Session(Side.AGGREGATOR)
    with pytest.raises(RemoteProtocolError):
        end.receive(b"\xc1")
    assert end.state is State.CLOSED
    with pytest.raises(RemoteProtocolError, match="closed"):
        end.receive(encode(MESSAGES["join"]))


def test_a_message_that_cannot_be_written_changes_nothing() -> None:
    end = Session(Side.CLIENT)
    with pytest.raises(LocalProtocolError):
        end.send(MESSAGES["join"].model_copy(update={"name": "\ud800"}))
    assert end.state is State.NEW


# --- transfers ---------------------------------------------------------------------------


def chunk(offset: int, size: int) -> Chunk:
    return Chunk(transfer="t/weights", offset=offset, data=bytes(size))


PACKED = Chunk(transfer=DIGEST, offset=0, packed="zstd", size=5000, data=b"1")


@pytest.mark.parametrize(
    ("can", "wanted", "agreed"),
    [
        (["zstd"], "zstd", "zstd"),
        ([], "zstd", None),
        (["zstd"], None, None),
        (["other", "zstd"], "other", "other"),
    ],
)
@pytest.mark.parametrize("speaker", list(Side))
def test_packed_chunks_come_only_as_both_ends_agreed(
    speaker: Side, can: list[str], wanted: str | None, agreed: str | None
) -> None:
    agent, aggregator = Session(Side.CLIENT), Session(Side.AGGREGATOR)
    aggregator.receive(agent.send(Join(**JOIN | {"packings": can})))
    agent.receive(aggregator.send(Welcome(**WELCOME | {"packing": wanted})))
    assert agent.packing == aggregator.packing == agreed
    talker, hearer = (agent, aggregator) if speaker is Side.CLIENT else (aggregator, agent)
    if agreed == "zstd":
        assert hearer.receive(talker.send(PACKED)) == PACKED
    else:
        with pytest.raises(RemoteProtocolError, match="packed as zstd, which was not agreed"):
            hearer.receive(talker.send(PACKED))


def test_packed_chunk_has_its_place_and_its_price_by_its_plain_bytes() -> None:
    incoming = Incoming(DIGEST, size=12_000, offset=0, credit=10_000)
    incoming.take(PACKED)
    assert incoming.place == 5000
    with pytest.raises(RemoteProtocolError, match="12504 of 12000"):
        incoming.take(PACKED.model_copy(update={"offset": 5000, "size": 7504}))
    with pytest.raises(RemoteProtocolError, match="byte 10008 was sent with a credit of 10000"):
        incoming.take(PACKED.model_copy(update={"offset": 5000, "size": 5008}))
    with pytest.raises(RemoteProtocolError, match="ends at 9999"):
        incoming.take(PACKED.model_copy(update={"offset": 5000, "size": 4999}))


def test_chunks_in_order_complete_a_transfer() -> None:
    incoming = Incoming("t/weights", size=21, offset=0, credit=16)
    incoming.take(chunk(0, 8))
    incoming.take(chunk(8, 8))
    assert not incoming.is_complete
    incoming.credit = 24
    incoming.take(chunk(16, 5))  # the last one ends where the data ends
    assert incoming.is_complete


def test_a_transfer_goes_on_where_it_stopped() -> None:
    incoming = Incoming("t/weights", size=24, offset=16, credit=24)
    incoming.take(chunk(16, 8))
    assert incoming.is_complete


def test_a_transfer_of_nothing_is_complete() -> None:
    assert Incoming("t/weights", size=0, offset=0, credit=0).is_complete


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (chunk(0, 8), "byte 0 came where 8 was due"),  # again
        (chunk(16, 8), "byte 16 came where 8 was due"),  # a hole
        (chunk(8, 0), "8 of 40 bytes"),
        (chunk(8, 40), "48 of 40 bytes"),
        (chunk(8, 32), "with a credit of 32"),
        (chunk(8, 4), "no multiple of 8"),
    ],
)
def test_a_wrong_chunk_is_the_peers_fault_and_is_not_counted(wrong: Chunk, words: str) -> None:
    incoming = Incoming("t/weights", size=40, offset=0, credit=32)
    incoming.take(chunk(0, 8))
    with pytest.raises(RemoteProtocolError, match=words):
        incoming.take(wrong)
    assert incoming.place == 8


# --- liveness ----------------------------------------------------------------------------


def test_a_peer_that_moves_bytes_is_alive() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    assert {liveness.look(now * 10, now, said=now) for now in range(0, 200, 19)} == {"alive"}


def test_a_silent_peer_is_asked_and_then_gone() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    found = [liveness.look(5, now) for now in (100, 119, 120, 130, 140, 159, 160)]
    assert found == ["alive", "alive", "ask", "alive", "ask", "alive", "gone"]


def test_one_byte_is_a_sign_of_life() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    looks = [(5, 0), (5, 19), (5, 39), (5, 59), (6, 60), (6, 79), (6, 99), (6, 119), (6, 120)]
    found = [liveness.look(moved, now, said=now) for moved, now in looks]
    assert found == ["alive"] * 8 + ["gone"]


def test_whoever_hears_much_and_says_nothing_gives_a_sign_of_life_of_its_own() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    found = [liveness.look(now * 10, now, said=1) for now in range(0, 70, 10)]
    assert found == ["alive", "alive", "ask", "alive", "ask", "alive", "ask"]


def test_whoever_has_just_said_something_need_not_ask() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    found = [liveness.look(5, now, said=said) for now, said in [(0, 1), (15, 2), (30, 2), (35, 2)]]
    assert found == ["alive", "alive", "alive", "ask"]


@pytest.mark.parametrize("clock", ["wall", "own"])
def test_after_a_sleep_the_peer_is_asked_at_once_and_soon_gone(clock: str) -> None:
    """On Linux and macOS the own clock stands still while a machine sleeps, elsewhere it does not."""
    liveness = Liveness(interval_s=20, timeout_s=60)
    slept = 3600 if clock == "own" else 0
    looks = [(0, 0), (10, 10), (slept + 11, 3611), (slept + 15, 3615), (slept + 16, 3616)]
    found = [liveness.look(5, now, said=round(now), wall_time=wall) for now, wall in looks]
    assert found == ["alive", "alive", "ask", "alive", "gone"]


def test_after_a_sleep_a_peer_that_answers_is_alive() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60, min_bytes_per_s=64)
    looks = [(5, 0), (5, 10), (5, 3611), (6, 3612), (6, 3626)]
    found = [liveness.look(moved, now, said=round(now), is_due=True) for moved, now in looks]
    assert found == ["alive", "alive", "ask", "alive", "alive"]


def test_clock_that_goes_back_is_no_sleep() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60)
    found = [liveness.look(5, now, said=now, wall_time=wall) for now, wall in [(0, 9000), (10, 0), (20, 10)]]
    assert found == ["alive"] * 3


def test_peer_that_sends_less_than_it_must_is_slow() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60, min_bytes_per_s=64)
    assert liveness.look(0, 0.0, is_due=True) == "alive"
    for now in (20.0, 40.0):
        assert liveness.look(int(now), now, said=int(now), is_due=True) == "alive"
    assert liveness.look(60, 60.0, is_due=True) == "slow"


def test_peer_that_sends_enough_is_never_slow() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60, min_bytes_per_s=64)
    found = {liveness.look(64 * now, now, said=now, is_due=True) for now in range(0, 600, 20)}
    assert found == {"alive"}


def test_idle_peer_need_send_nothing_but_signs_of_life() -> None:
    liveness = Liveness(interval_s=20, timeout_s=60, min_bytes_per_s=64)
    assert {liveness.look(now, now, said=now) for now in range(0, 600, 10)} == {"alive"}
