"""Which process of an agent that polls is let in."""

import pytest

from fl_main.aggregator.visitors import MAX_REMEMBERED, Visitors
from fl_main.messages import Join


def join(instance_id: str, start_number: int = 0, poll_s: float | None = 30.0) -> Join:
    return Join(
        run="r",
        agent_id="a",
        instance_id=instance_id,
        start_number=start_number,
        name="a",
        poll_s=poll_s,
    )


@pytest.fixture
def visitors() -> Visitors:
    return Visitors()


def test_process_may_come_again_and_again(visitors: Visitors) -> None:
    for _ in range(3):
        assert not visitors.is_outdated(join("1"), is_here=True)
        visitors.note(join("1"))


def test_process_that_was_followed_by_another_stays_out(visitors: Visitors) -> None:
    visitors.note(join("1"))
    assert not visitors.is_outdated(join("2"), is_here=True)  # a copy of the folder, as new as the first
    visitors.note(join("2"))
    assert visitors.is_outdated(join("1"), is_here=True)
    assert visitors.is_outdated(join("1"), is_here=False)
    assert not visitors.is_outdated(join("2"), is_here=True)


def test_older_process_stays_out_while_the_newer_one_may_come_again(visitors: Visitors) -> None:
    visitors.note(join("2", start_number=5))
    assert visitors.is_outdated(join("1", start_number=4), is_here=True)
    assert not visitors.is_outdated(join("3", start_number=4), is_here=False)  # restored from a backup


def test_agents_that_stay_are_not_remembered(visitors: Visitors) -> None:
    visitors.note(join("1", start_number=5, poll_s=None))
    assert not visitors.is_outdated(join("2", start_number=4), is_here=True)


def test_old_processes_are_forgotten_in_the_end(visitors: Visitors) -> None:
    for number in range(MAX_REMEMBERED + 1):
        visitors.note(join(str(number), start_number=number))
    assert visitors.is_outdated(join("1", start_number=1), is_here=False)
    assert not visitors.is_outdated(join("0", start_number=0), is_here=False)
