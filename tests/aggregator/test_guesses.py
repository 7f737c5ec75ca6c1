"""Wrong tokens are answered ever later."""

from dataclasses import replace

from fl_main.aggregator.guesses import Guesses
from fl_main.tally import FORGET_S
from tests.aggregator.memory_link import ports


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_wrong_token_of_a_network_is_answered_later() -> None:
    clock = Clock()
    found = Guesses(replace(ports(), monotonic=clock, wall_time=lambda: 100.0), 10.0)
    late = [found.wrong("10.0.0.1:1")[1] for _ in range(7)]
    assert late == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert found.wrong("10.0.0.2:1") == (1, 0.5)
    assert found.to_wire() == {"count": 8, "addresses": 2, "last_at": 100.0}
    clock.now = FORGET_S + 1
    assert found.wrong("10.0.0.1:1") == (1, 0.5)
    assert found.to_wire()["addresses"] == 1


def test_count_does_not_end_however_many_come() -> None:
    found = Guesses(ports(), 10.0)
    assert [found.wrong("a:1")[1] for _ in range(2000)][-1] == 10.0
