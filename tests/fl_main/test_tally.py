"""What strangers do is counted by the network they come from; the log tells of little of it."""

import pytest

from fl_main import tally
from fl_main.tally import Tally, is_told, network_of


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


def test_tally_forgets_who_was_silent_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_KEPT", 2)
    counts = Tally(lambda: 0.0)
    assert [counts.count(key) for key in "abacab"] == [1, 1, 2, 1, 3, 1]


def test_log_is_told_of_powers_of_ten() -> None:
    assert [number for number in range(1, 20_000) if is_told(number)] == [1, 10, 100, 1000, 10_000]
