"""The short form of fuzzing what needs no other process: the same targets, driven by hypothesis."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.codec import decode, encode
from fl_main.errors import RemoteProtocolError
from fl_main.messages import BY_TYPE, Ping
from fuzz import hostile
from fuzz.targets import TARGETS, steps_of

chance = st.randoms(use_true_random=False)


@pytest.mark.parametrize("kind", sorted(BY_TYPE))
def test_messages_that_are_made_wrong_were_right_before(kind: str) -> None:
    assert decode(hostile.packed(hostile.right(kind))).type == kind


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_raises_what_it_may_not(name: str) -> None:
    @given(chance)
    def judged(rng: Random) -> None:
        data = TARGETS[name].make(rng)
        assert TARGETS[name].check(data)
        assert TARGETS[name].check(TARGETS[name].change(rng, data))

    judged()


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_what_they_may_not(name: str, data: bytes) -> None:
    assert TARGETS[name].check(data)


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("codec", {"message", "refused 1002"}),
        ("session", {"ended joined", "ended operating", "ended closed", "refused when joined"}),
        ("layout", {"rows", "header", "refused rows", "refused header"}),
        ("packed", {"unpacked", "refused frame", "refused data"}),
        ("encoded", {"float16 taken", "int8 taken", "int8 refused", "top-k taken", "top-k refused"}),
    ],
)
def test_inputs_are_neither_all_right_nor_all_wrong(name: str, outcomes: set[str]) -> None:
    rng = Random(0)
    found = {TARGETS[name].check(TARGETS[name].make(rng)) for _ in range(300)}
    assert found >= outcomes


def test_target_that_breaks_its_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.targets.decode", lambda frame: decode(frame[1:]))
    with pytest.raises(RemoteProtocolError):
        TARGETS["codec"].check(b"\x00" + encode(Ping()))


def test_conversation_survives_the_way_through_bytes() -> None:
    ping = encode(Ping())
    assert steps_of(hostile.packed([(0, ping, 1)])) == [(0, ping, 1)]
    assert steps_of(b"\xc1") == steps_of(hostile.packed([[0]])) == []
