"""Rates: a burst, then evenly; and a crowd that is spread without coming twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_main.aggregator.pace import KEPT_S, Pace, Turns


def test_burst_passes_and_the_rest_is_told_how_long_to_wait() -> None:
    pace = Pace(10.0, 3)
    assert [pace.wait_s(0.0) for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])
    assert pace.ahead_s(0.0) == pytest.approx(0.3)
    assert pace.wait_s(1.0) == 0.0


@given(st.lists(st.floats(0.0, 0.5), max_size=100))
def test_rate_is_kept_whenever_they_come(gaps: list[float]) -> None:
    pace, now, passed = Pace(10.0, 5), 0.0, []
    for gap in gaps:
        now += gap
        passed.append(now + pace.wait_s(now))
    for start in range(len(passed)):
        within = [at for at in passed[start:] if at < passed[start] + 1.0 - 1e-6]
        assert len(within) <= 5 + 10


def test_crowd_is_in_after_one_wave() -> None:
    turns = Turns(200.0)
    waits = {who: turns.wait_s(who, 0.0) for who in range(1000)}
    assert sum(wait == 0.0 for wait in waits.values()) > 190
    assert max(waits.values()) < 1000 / 200.0
    for who, wait in sorted(waits.items(), key=lambda item: item[1]):
        if wait:
            assert turns.wait_s(who, wait) == 0.0


def test_who_comes_too_early_keeps_its_turn() -> None:
    turns = Turns(1.0)
    turns.wait_s("a", 0.0)
    assert turns.wait_s("b", 0.0) == pytest.approx(1.0)
    assert turns.wait_s("b", 0.4) == pytest.approx(0.6)
    assert turns.wait_s("b", 1.0) == 0.0


def test_line_is_never_longer_than_a_minute_and_those_who_stay_away_are_forgotten() -> None:
    turns = Turns(10.0)
    assert max(turns.wait_s(who, 0.0) for who in range(10_000)) <= KEPT_S + 0.1
    assert len(turns) <= 10 * KEPT_S + 1
    turns.wait_s("new", 3 * KEPT_S)
    assert len(turns) == 0
