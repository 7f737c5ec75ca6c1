"""Wrong tokens are answered ever later; the log tells of few of them."""

from dataclasses import replace

import pytest

from fl_main.aggregator import guesses
from fl_main.aggregator.guesses import Guesses, Tally, is_told, network_of
from tests.aggregator.memory_link import ports


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("10.1.2.3:4567", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6:4567", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:4567", "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3:4567", "10.1.2.3"),
        ("fe80::1%eth0:4567", "fe80::/64"),
        ("somebody", ""),
    ],
)
def test_network_is_what_one_site_has(peer: str, network: str) -> None:
    assert network_of(peer) == network


def test_each_wrong_token_of_a_network_is_answered_later() -> None:
    clock = Clock()
    found = Guesses(replace(ports(), monotonic=clock, wall_time=lambda: 100.0), 10.0)
    late = [found.wrong("10.0.0.1:1")[1] for _ in range(7)]
    assert late == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert found.wrong("10.0.0.2:1") == (1, 0.5)
    assert found.to_wire() == {"count": 8, "addresses": 2, "last_at": 100.0}
    clock.now = guesses.FORGET_S + 1
    assert found.wrong("10.0.0.1:1") == (1, 0.5)
    assert found.to_wire()["addresses"] == 1


def test_count_does_not_end_however_many_come() -> None:
    found = Guesses(ports(), 10.0)
    assert [found.wrong("a:1")[1] for _ in range(2000)][-1] == 10.0


def test_tally_forgets_who_was_silent_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MAX_KEPT", 2)
    tally = Tally(Clock())
    assert [tally.count(key) for key in "abacab"] == [1, 1, 2, 1, 3, 1]


def test_log_is_told_of_powers_of_ten() -> None:
    assert [number for number in range(1, 20_000) if is_told(number)] == [1, 10, 100, 1000, 10_000]
